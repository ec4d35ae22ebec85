"""Plates that draw some of their rows: an objective may, a density may not."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGaussian, AutoMultivariateNormal, AutoNormal, AutoStructured

import guidebook as gb
from guidebook.errors import ModelError
from guidebook.programs.potential import Potential
from guidebook.scope import holds_all_rows, local_parameters, precision, subsampling

N = 30
Y = torch.linspace(-1.0, 3.0, N, dtype=torch.float64)
POSITIVE = dist.constraints.positive


def shared(y, drawn=10):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", N, subsample_size=drawn) as i:
        pyro.sample("y", dist.Normal(m, 0.5), obs=y[i])


def by_row(y, drawn=10):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", N, subsample_size=drawn) as i:
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y[i])


def guide_by_row(y):
    spread = pyro.param("spread", torch.ones(()), constraint=POSITIVE)
    pyro.sample("m", dist.Normal(pyro.param("loc", torch.zeros(())), spread))
    locs, scale = pyro.param("locs", torch.zeros(N)), pyro.param("scale", torch.ones(N))
    with pyro.plate("rows", N, subsample_size=10) as i:
        pyro.sample("z", dist.Normal(locs[i], scale[i].exp()))


def batch(y):
    """Rows as they come, whatever the plate draws."""
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", N, subsample_size=len(y)):
        pyro.sample("y", dist.Normal(m, 0.5), obs=y)


def given(y, rows):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("rows", N, subsample=rows):
        pyro.sample("y", dist.Normal(m, 0.5), obs=y[rows])


def flat(**values: torch.Tensor) -> torch.Tensor:
    return torch.cat([v.reshape(-1) for v in values.values()]).double()


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (shared, {"m": torch.tensor(0.7).double()}),
        (by_row, {"m": torch.tensor(0.7).double(), "z": Y + 0.1}),
    ],
)
def test_the_log_density_is_that_of_all_rows(model, values):
    """Held against Pyro's trace of the same model with a plate of all rows."""
    whole = poutine.trace(poutine.condition(partial(model, drawn=None), values))
    with precision(torch.float64):
        expected = float(whole.get_trace(Y).log_prob_sum())
    potential = Potential(model, {"y": Y})
    found = [float(potential(flat(**values)[None])[0]) for _ in range(2)]
    assert found == pytest.approx([expected] * 2, rel=1e-12)
    assert float(potential.value_and_grad(flat(**values)[None])[0]) == pytest.approx(expected)
    before = torch.get_rng_state()
    with local_parameters(), subsampling():
        drawn = poutine.trace(poutine.condition(model, {"m": values["m"]})).get_trace(Y)
    assert len(drawn.nodes["rows"]["value"]) == 10
    assert not torch.equal(torch.get_rng_state(), before)


def test_rows_are_drawn_inside_a_block_alone():
    def rows() -> int:
        with pyro.plate("rows", N, subsample_size=10) as i:
            return len(i)

    assert rows() == 10 and not holds_all_rows()
    with local_parameters():
        assert rows() == N and holds_all_rows()
        with subsampling():
            with local_parameters():
                assert rows() == 10 and not holds_all_rows()
            with subsampling(False):
                assert rows() == N
        assert rows() == N
    assert rows() == 10


@pytest.mark.parametrize("guide", [AutoNormal(by_row), guide_by_row], ids=["auto", "function"])
@pytest.mark.parametrize("path", ["graph", False])
def test_a_step_draws_the_rows_that_pyro_draws(guide, path):
    """Step for step the objective of pyro.infer.SVI from the same random numbers."""
    fit = gb.svi(
        by_row, guide, {"y": Y}, optim=pyro.optim.Adam({"lr": 0.05}), steps=6, compile=path,
        progress=False, seed=3,
    )  # fmt: skip
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(3)
        start = guide if guide is guide_by_row else AutoNormal(by_row)
        svi = SVI(by_row, start, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        if guide is not guide_by_row:
            start(Y)  # built, as ours is before the first step
        torch.manual_seed(3)
        expected = [svi.step(Y) for _ in range(6)]
    finally:
        torch.set_default_dtype(torch.float32)
        pyro.clear_param_store()
    assert fit.history.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_posterior_of_a_subsampled_fit_covers_all_rows():
    fit = gb.svi(by_row, guide_by_row, {"y": Y}, steps=50, progress=False)
    tree = fit.posterior(draws=3, log_likelihood=True)
    assert tree["posterior"]["z"].shape == (1, 3, N)
    assert tree["log_likelihood"]["y"].shape == (1, 3, N)
    values = {n: torch.as_tensor(tree["posterior"][n].values[0, 1]) for n in ("m", "z")}
    whole = poutine.trace(poutine.condition(partial(by_row, drawn=None), values)).get_trace(Y)
    assert float(tree["sample_stats"]["lp"][0, 1]) == pytest.approx(float(whole.log_prob_sum()))
    guided = poutine.trace(poutine.condition(fit.guide, values))
    with local_parameters():
        log_q = float(guided.get_trace(y=Y).log_prob_sum().detach())
    assert float(tree["sample_stats"]["log_q"][0, 1]) == pytest.approx(log_q)


ALL_ROWS = {
    "ours": gb.guides.mean_field,
    "Pyro's": AutoMultivariateNormal,
    "site by site": partial(AutoStructured, conditionals="normal", dependencies="linear"),
    "as the model depends": AutoGaussian,
}


@pytest.mark.parametrize("guide", ALL_ROWS.values(), ids=ALL_ROWS)
def test_a_guide_over_one_vector_has_the_latents_of_all_rows(guide):
    fit = gb.svi(by_row, guide(by_row), {"y": Y}, steps=30, progress=False)
    tree = fit.posterior(draws=3)
    assert tree["posterior"]["z"].shape == (1, 3, N)


@pytest.mark.parametrize("guide", ["site by site", "as the model depends"])
def test_the_steps_of_such_a_guide_are_those_of_a_plate_of_all_rows(guide):
    fits = [
        gb.svi(model, ALL_ROWS[guide](model), {"y": Y}, steps=6, progress=False, compile="graph")
        for model in (by_row, partial(by_row, drawn=None))
    ]
    np.testing.assert_allclose(fits[0].history, fits[1].history, rtol=1e-12)


def test_laplace_of_a_subsampled_normal_mean_is_its_posterior():
    """Precision 1 / 100 + 30 / 0.25; mean = sum y / 0.25 / precision."""
    precision = 1 / 100 + N / 0.25
    (draws,) = gb.laplace(shared, {"y": Y}).posterior(draws=2000)["posterior"]["m"].values
    sd, error = precision**-0.5, 5 / math.sqrt(2000)
    assert abs(draws.mean() - float(Y.sum()) / 0.25 / precision) < error * sd
    assert draws.std() == pytest.approx(sd, rel=error)


def fitted(engine: str, model, data):
    if engine == "nuts":
        return gb.nuts(model, data, draws=10, tune=10, chains=1, progress=False)
    if engine == "laplace":
        return gb.laplace(model, data).posterior(draws=2)
    return gb.svi(model, AutoNormal(model), data, steps=2, progress=False)


@pytest.mark.parametrize("engine", ["svi", "nuts", "laplace"])
def test_what_cannot_have_all_rows_is_refused_in_one_sentence(engine):
    with pytest.raises(ModelError, match=r"'rows' draws 10 of its 30 rows .* obs=y"):
        fitted(engine, batch, {"y": Y[:10]})
    with pytest.raises(ModelError, match=r"'rows' is given 5 of its 30 rows \(by subsample="):
        fitted(engine, given, {"y": Y, "rows": torch.arange(5)})


def test_all_rows_by_the_same_ways_are_fine():
    fitted("svi", batch, {"y": Y})
    fitted("laplace", given, {"y": Y, "rows": torch.arange(N)})
