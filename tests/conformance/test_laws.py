"""Every law of the library on every guide of every pair of the catalogue.

A pair that is added to the catalogue adds its rows here by itself.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import guidebook as gb
from guidebook.programs.data import as_tensors
from guidebook.programs.labels import log_labellings
from guidebook.programs.owned import Joined, copied, dtype_of
from guidebook.programs.potential import enumeration_depth
from guidebook.programs.scope import local_parameters, precision

# iwae is the model, the guides and the data of vae; no law here looks at the objective that differs.
ROWS = [(name, guide) for name, pair in gb.PAIRS.items() for guide in pair.guides if name != "iwae"]
CPU = torch.device("cpu")
ROWS_OF_DATA = 60
DRAWS = 200

SLOW = {  # ten seconds a law, and their pairs have other rows
    ("gaussian-mixture-full", "full-rank"), ("gaussian-mixture-full", "flow"),
    ("probit-regression", "low-rank"), ("probit-regression", "flow"),
}  # fmt: skip
every_row = pytest.mark.parametrize(
    ("name", "guide"),
    [pytest.param(*row, marks=pytest.mark.slow) if row in SLOW else row for row in ROWS],
    ids=[f"{n}-{g}" for n, g in ROWS],
)


def data_of(name: str) -> dict[str, Any]:
    """The pair's data, cut to a few rows where they are many."""
    data = gb.pair(name).data()
    longest = max(len(v) for v in data.values())
    few = min(longest, ROWS_OF_DATA)
    return {k: v[:few] if len(v) == longest else v for k, v in data.items()}


def objective_of(name: str) -> Any:
    """What the pair's ELBO is by Pyro: enumerated where the model asks for it."""
    if isinstance(model_of(name), torch.nn.Module):  # none of them has a discrete site
        return Trace_ELBO()
    with local_parameters(), precision(torch.float64):
        tensors = as_tensors(data_of(name), torch.float64, CPU)
        depth = enumeration_depth(model_of(name), tensors)
    return Trace_ELBO() if depth is None else TraceEnum_ELBO(max_plate_nesting=depth)


def log_joint_of(model: Any, values: dict[str, Any], data: dict[str, Any]) -> Any:
    """Pyro's own log p(x, values); a local site z marked for enumeration is summed out by hand."""

    def trace_with(more: dict[str, Any]) -> Any:
        trace = poutine.trace(poutine.condition(model, {**values, **more})).get_trace(**data)
        trace.compute_log_prob()
        return trace

    found = trace_with({})
    if "z" not in found.nodes or found.nodes["z"]["infer"].get("enumerate") is None:
        return found.log_prob_sum()
    K = found.nodes["z"]["fn"].probs.shape[-1]
    traces = [trace_with({"z": torch.full((len(data["x"]),), k)}) for k in range(K)]
    local = [t.nodes["z"]["log_prob"] + t.nodes["x"]["log_prob"] for t in traces]
    rest = sum(found.nodes[n]["log_prob_sum"] for n in values)
    return torch.stack(local).logsumexp(0).sum() + rest


@cache
def model_of(name: str) -> Any:
    return gb.pair(name).model()


@cache
def fit_of(name: str, guide: str, seed: int = 0) -> gb.Fit:
    model = model_of(name)
    family = gb.pair(name).guides[guide](model)
    return gb.svi(
        model, family, data_of(name), steps=120, seed=seed, compile="graph", progress=False
    )


@every_row
def test_sites_and_shapes_match(name: str, guide: str) -> None:
    fit = fit_of(name, guide)
    tree = fit.posterior(7)
    for site in fit.sites:
        draws = tree["posterior"][site.name]
        assert draws.shape == (1, 7, *site.shape)
        assert np.isfinite(draws.values).all()
        value = torch.as_tensor(draws.values[0])
        if not site.varying:
            assert bool(site.support.check(value).all())


@every_row
def test_every_guide_parameter_has_a_finite_gradient(name: str, guide: str) -> None:
    fit = fit_of(name, guide)
    model, family = copied(fit.model, fit.guide)
    dtype = dtype_of(model, family)
    data = as_tensors(data_of(name), dtype, torch.device("cpu"))
    joined = Joined(model, family)
    with local_parameters(), precision(dtype):
        loss = joined(objective_of(name).differentiable_loss, data)
        trained = [(n, p) for n, p in joined.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in trained], allow_unused=True)
    for (parameter, _), gradient in zip(trained, gradients, strict=True):
        assert gradient is not None, f"{parameter} does not reach the objective"
        assert bool(gradient.isfinite().all()), parameter


@every_row
def test_same_seed_same_result(name: str, guide: str) -> None:
    model = model_of(name)
    again = gb.svi(
        model, gb.pair(name).guides[guide](model), data_of(name), steps=120, compile="graph",
        progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(again.history, fit_of(name, guide).history)


@every_row
def test_save_and_load_give_the_same_draws(name: str, guide: str, tmp_path: Any) -> None:
    fit, pair = fit_of(name, guide), gb.pair(name)
    path = fit.save(tmp_path / "fit")
    model = pair.model()
    given = pair.guides[guide](model) if getattr(fit.guide, "family", "") == "" else None
    again = gb.load(path, model=model, guide=given, data=data_of(name))
    ours, theirs = fit.posterior(20, seed=3), again.posterior(20, seed=3)
    for variable in ours["posterior"].data_vars:
        np.testing.assert_array_equal(ours["posterior"][variable], theirs["posterior"][variable])
    np.testing.assert_array_equal(ours["sample_stats"]["lp"], theirs["sample_stats"]["lp"])


@every_row
def test_the_captured_step_is_that_of_pyro(name: str, guide: str) -> None:
    """Objective and update of the first steps, under the same random numbers."""
    model = model_of(name)
    found = [
        gb.svi(
            model, gb.pair(name).guides[guide](model), data_of(name), objective=objective_of(name),
            optim=pyro.optim.Adam({"lr": 0.01}), steps=3, compile=path, progress=False,
        )
        for path in ("graph", False)
    ]  # fmt: skip
    assert [fit.notes["path"] for fit in found] == ["captured", "reference"]
    single = dtype_of(found[0].model, found[0].guide) is torch.float32
    np.testing.assert_allclose(found[0].history, found[1].history, rtol=1e-4 if single else 1e-9)


@every_row
def test_nothing_is_left_in_the_parameter_store(name: str, guide: str) -> None:
    fit_of(name, guide).posterior(3)
    assert list(pyro.get_param_store().keys()) == []


@every_row
def test_lp_and_log_q_are_those_of_pyro(name: str, guide: str) -> None:
    """lp against poutine's own sum over the model conditioned on the draw, to rounding."""
    fit = fit_of(name, guide)
    tree = fit.posterior(3, seed=1)
    dtype = dtype_of(fit.model, fit.guide)
    data = as_tensors(data_of(name), dtype, torch.device("cpu"))
    for draw in range(3):
        values = {
            s.name: torch.as_tensor(tree["posterior"][s.name].values[0, draw]).to(dtype)
            for s in fit.sites
        }
        with local_parameters(), precision(dtype), torch.no_grad():
            expected = float(log_joint_of(fit.model, values, data)) + log_labellings(fit.model)
        tolerance = 1e-9 if dtype is torch.float64 else 1e-5
        found = float(tree["sample_stats"]["lp"][0, draw])
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


@every_row
def test_the_elbo_is_a_lower_bound(name: str, guide: str) -> None:
    """ELBO <= log evidence, exact where it is known, else by its importance-weighted estimate."""
    fit, pair = fit_of(name, guide), gb.pair(name)
    tree = fit.posterior(DRAWS, seed=2)
    weights = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values.ravel()
    elbo, error = weights.mean(), weights.std(ddof=1) / math.sqrt(DRAWS)
    if pair.exact is not None:
        story = fit.model if isinstance(pair.model(), torch.nn.Module) else pair.model()
        known = gb.exact(story, pair.exact(story), data_of(name)).notes["log_evidence"]
    else:
        top = weights.max()
        known = top + math.log(np.exp(weights - top).mean())
    assert elbo <= known + 5 * error  # five standard errors: false alarm below 1e-6


@every_row
def test_netcdf_round_trip(name: str, guide: str, tmp_path: Any) -> None:
    import xarray as xr

    tree = fit_of(name, guide).posterior(5)
    tree.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf") as again:
        for group in ("posterior", "sample_stats", "observed_data"):
            for variable in tree[group].data_vars:
                np.testing.assert_array_equal(again[group][variable], tree[group][variable])
        assert again["vi_fit"].attrs["status"] == tree["vi_fit"].attrs["status"]


@pytest.mark.parametrize("name", [n for n, p in gb.PAIRS.items() if p.exact is not None])
def test_the_exact_guide_is_the_posterior(name: str) -> None:
    pair = gb.pair(name)
    assert pair.exact is not None
    model = pair.model()
    fit = gb.exact(model, pair.exact(model), data_of(name))
    assert fit.status is gb.Status.EXACT and math.isfinite(fit.notes["log_evidence"])


@pytest.mark.parametrize("name", list(gb.PAIRS))
def test_every_pair_has_three_ways_and_a_truth(name: str) -> None:
    pair = gb.pair(name)
    ways = {*pair.guides, *pair.roads, pair.truth}
    assert len(ways) >= 3 and pair.truth and pair.source and pair.summary


@pytest.mark.parametrize("name", [n for n, p in gb.PAIRS.items() if p.guides])
def test_the_model_simulates(name: str) -> None:
    """Without its observed argument the same function draws data of the same shape."""
    fit = fit_of(name, next(iter(gb.pair(name).guides)))
    if fit.potential.dimension > 200:
        pytest.skip("an amortised pair: its draws of all rows are large")
    tree = fit.posterior(4, posterior_predictive=True)
    for variable in tree["observed_data"].data_vars:
        drawn = tree["posterior_predictive"][variable]
        assert drawn.shape == (1, 4, *tree["observed_data"][variable].shape)


ROADS = [(name, road) for name, pair in gb.PAIRS.items() for road in pair.roads]


@pytest.mark.parametrize(("name", "road"), ROADS, ids=[f"{n}-{r}" for n, r in ROADS])
def test_roads_end_well_and_survive_a_file(name: str, road: str, tmp_path: Any) -> None:
    pair, model, data = gb.pair(name), gb.pair(name).model(), gb.pair(name).data()
    engine, make = pair.roads[road]
    fit = getattr(gb, engine)(model, make(model), data, progress=False)
    assert fit.status in (gb.Status.CONVERGED, gb.Status.CHAINS_DISAGREE)
    trained = fit.model if isinstance(model, torch.nn.Module) else model
    given = None if fit.guide is None else make(trained)
    again = gb.load(fit.save(tmp_path / "fit"), model=trained, guide=given, data=data)
    ours, theirs = fit.posterior(9, seed=3)["posterior"], again.posterior(9, seed=3)["posterior"]
    for variable in ours.data_vars:
        np.testing.assert_array_equal(ours[variable], theirs[variable])
    assert list(pyro.get_param_store().keys()) == []
