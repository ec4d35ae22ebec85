"""The captured step against pyro.infer.SVI: the same numbers, step for step."""

import re
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.inference.gradient import step
from guidebook.models.decoders.latent import VAE
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression
from guidebook.programs.graphs.compiled import worth_looping
from guidebook.programs.graphs.recorded import CannotRecord, record
from guidebook.programs.native.algebra import CannotLower

STEPS = 60


def mixture(y=None):
    """y_i ~ sum_k w_k N(m_k, s), the component of each y summed out."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        means = pyro.sample("means", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("row", 30 if y is None else len(y)):
        z = pyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(means[z], scale), obs=y)


def two_groups():
    rng = np.random.default_rng(0)
    return {"y": np.concatenate([rng.normal(-2, 0.5, 12), rng.normal(2, 0.5, 18)])}


def auto_of_mixture(model):
    hidden = pyro.poutine.block(model, hide=["z"])
    return AutoNormal(hidden)


def logistic_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    return {"X": X, "y": (X[:, 0] + rng.normal(size=40) > 0).astype(float)}


def function_guide(X, y=None, size=None):
    loc = pyro.param("loc", torch.zeros(3))
    scale = pyro.param("scale", torch.ones(3), constraint=dist.constraints.positive)
    pyro.sample("intercept", dist.Normal(pyro.param("a", torch.tensor(0.0)), 0.3))
    pyro.sample("beta", dist.Normal(loc, scale).to_event(1))


def pair_of(name):
    schools = gb.datasets.eight_schools()
    if name == "mixture":
        return mixture, auto_of_mixture(mixture), two_groups()
    if name == "function":
        return logistic_regression, function_guide, logistic_data()
    if name == "amortised":
        torch.manual_seed(0)
        model = VAE(6, 2, (5,))
        guide = gb.guides.AmortizedNormal(torch.nn.Linear(6, 4), 2)
        return model, guide, {"x": torch.rand(20, 6).round()}
    make = {
        "AutoNormal": AutoNormal,
        "AutoMultivariateNormal": AutoMultivariateNormal,
        "AutoDelta": AutoDelta,
        "mean_field": gb.guides.mean_field,
        "full_rank": gb.guides.full_rank,
        "low_rank": gb.guides.low_rank,
        "flow": lambda model: gb.guides.flow(model, transforms=1, hidden=8, bins=4),
        "delta": gb.guides.delta,
    }[name]
    return eight_schools, make(eight_schools), schools


def histories(name, **settings):
    """The objective per step of both paths, under the same random numbers."""
    found = []
    for compile in ("graph", False):
        model, guide, data = pair_of(name)
        objective = TraceEnum_ELBO(max_plate_nesting=1) if name == "mixture" else Trace_ELBO()
        fit = gb.svi(
            model, guide, data, objective=objective, optim=pyro.optim.Adam({"lr": 0.02}),
            steps=STEPS, compile=compile, seed=3, progress=False, **settings,
        )  # fmt: skip
        found.append(fit)
    return found


@pytest.mark.parametrize(
    "name",
    [
        "AutoNormal", "AutoMultivariateNormal", "AutoDelta", "mean_field", "full_rank", "low_rank",
        "flow", "delta", "mixture", "function", "amortised",
    ],
)  # fmt: skip
def test_captured_equals_eager_step_for_step(name):
    captured, eager = histories(name)
    assert captured.notes["path"] == "captured"
    assert eager.notes["path"] == "reference"
    assert captured.history.shape == eager.history.shape == (STEPS,)
    # float32 where networks are: 60 steps of Adam multiply rounding
    tolerance = 1e-4 if name == "amortised" else 1e-9
    np.testing.assert_allclose(captured.history, eager.history, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("loop", [True, False])
def test_compiled_equals_the_graph(loop, monkeypatch):
    """In a loop in C, and by kernels of Inductor that are called step by step, where there is no loop: fused
    operations, and the same random numbers.
    """
    data = {"y": np.array([0.3, -1.2, 0.8])}

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def refused(*given):
        raise CannotLower("it is asked not to")

    if not loop:
        monkeypatch.setattr(step, "NativeLoop", refused)
    found = [
        gb.svi(model, AutoNormal(model), data, steps=STEPS, compile=compile, progress=False)
        for compile in (True, "graph")
    ]
    assert [fit.notes["compiled"] for fit in found] == [True, False]
    assert [fit.notes["native"] for fit in found] == [loop, False]
    np.testing.assert_allclose(found[0].history, found[1].history, rtol=1e-9)


def test_a_loop_pays_from_2000_calls_on_and_where_more_cores_are_no_faster(monkeypatch):
    small, large = (record(torch.exp, torch.zeros(n)) for n in (10, 200_000))
    cpu = torch.device("cpu")
    assert worth_looping(small, 2000, cpu) and not worth_looping(small, 1900, cpu)
    assert worth_looping(large, 300, cpu) and not worth_looping(large, 100, cpu)
    seen = record(
        lambda x: x.expand(200_000)[:3].exp(), torch.zeros(1)
    )  # numbers that are not computed
    assert not worth_looping(seen, 300, cpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert worth_looping(small, 2000, cpu) and not worth_looping(large, 10_000, cpu)
    assert not worth_looping(small, 10_000, torch.device("cuda"))


def branching(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    scale = 1.0 if mu > 0 else 2.0
    pyro.sample("y", dist.Normal(mu, scale).expand([len(y)]).to_event(1), obs=y)


def warned(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run()
    return result, [str(one.message) for one in caught]


def test_control_flow_on_values_takes_the_reference_path_after_one_warning():
    data = {"y": np.array([0.5, 1.0])}
    fit, messages = warned(
        lambda: gb.svi(branching, AutoNormal(branching), data, steps=120, progress=False)
    )
    assert len(messages) == 1, messages
    assert re.search(r"runs by pyro\.infer\.SVI.*control flow", messages[0], re.S)
    assert fit.notes["path"] == "reference"
    assert np.isfinite(fit.history).all()
    tree = fit.posterior(200)  # and its draws are had one by one
    assert np.isfinite(tree["sample_stats"]["lp"].values).all()


def test_control_flow_with_a_guide_of_ours():
    data = {"y": np.array([0.5, 1.0])}
    fit, messages = warned(
        lambda: gb.svi(branching, gb.guides.mean_field(branching), data, steps=120, progress=False)
    )
    assert len(messages) == 1, messages
    assert fit.notes["path"] == "reference"


def normalised(**options):
    """Rows through a BatchNorm in the guide."""
    norm = torch.nn.BatchNorm1d(2, affine=False, dtype=torch.float64, **options)

    def model(y):
        with pyro.plate("row", len(y)):
            mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)

    def guide(y):
        pyro.module("norm", norm)
        scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("mu", dist.Normal(norm(y), scale).to_event(1))

    return model, guide


def test_running_averages_take_the_reference_path_and_the_reason_names_what_does_not():
    data = {"y": np.random.default_rng(0).normal(size=(6, 2))}
    fit, (message,) = warned(lambda: gb.svi(*normalised(), data, steps=3, progress=False))
    assert fit.notes["path"] == "reference" and "track_running_stats=False" in message
    assert "norm(y)" in message  # the line
    alone = normalised(track_running_stats=False)
    fit, messages = warned(lambda: gb.svi(*alone, data, steps=3, progress=False))
    assert fit.notes["path"] == "captured" and not messages


def test_restarts_need_the_captured_path():
    data = {"y": np.array([0.5, 1.0])}
    with pytest.raises(SettingError, match=r"restarts=4 needs a step that is recorded.*restarts=1"):
        gb.svi(branching, AutoNormal(branching), data, steps=10, restarts=4, progress=False)


def test_other_optimisers_take_the_reference_path():
    data = gb.datasets.eight_schools()
    fit, messages = warned(
        lambda: gb.svi(
            eight_schools, AutoNormal(eight_schools), data, steps=20, progress=False,
            optim=pyro.optim.NAdam({"lr": 0.01}),
        )
    )  # fmt: skip
    assert len(messages) == 1
    assert re.search(r"NAdam is not among the optimisers that are recorded \(.*Adam,", messages[0])
    assert fit.notes["path"] == "reference"


@pytest.mark.parametrize("compile", ["graph", False])
def test_parameters_of_every_kind_of_guide_are_trained(compile):
    """pyro.param, plain modules, Pyro modules: none is silently left where it began."""
    torch.manual_seed(0)

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, y):
            pyro.sample("mu", dist.Normal(self.loc, 0.5))

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal(mu, 0.5).expand([len(y)]).to_event(1), obs=y)

    def function(y):
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.5))

    data = {"y": np.full(4, 3.0)}
    for guide in (Plain(), function, AutoNormal(model)):
        fit = gb.svi(
            model, guide, data, steps=400, optim=pyro.optim.Adam({"lr": 0.05}), compile=compile,
            progress=False,
        )  # fmt: skip
        mean = float(fit.posterior(2000)["posterior"]["mu"].mean())
        assert mean == pytest.approx(3.0, abs=0.15)


def test_recording_leaves_pyro_as_it_was():
    import pyro.ops.einsum.torch_log as einsum
    import pyro.poutine.trace_struct as traces

    before = einsum.safe_log, traces.warn_if_nan, torch._C._get_tracing_state
    record(lambda x: (x * 2).sum(), torch.ones(3))
    with pytest.raises(CannotRecord, match=r"DataDependent|data-dependent|control flow"):
        record(lambda x: x if x.sum() > 0 else -x, torch.ones(3))
    assert (einsum.safe_log, traces.warn_if_nan, torch._C._get_tracing_state) == before


def test_a_graph_makes_its_constants_in_the_precision_it_was_recorded_in():
    from guidebook.scope import precision

    def third(x):
        return x * torch.full((2,), 1 / 3) + torch.ones(2) / 7 + torch.tensor(0.1)

    x = torch.ones(2, dtype=torch.float64)
    with precision(torch.float64):
        graph = record(third, x)
    assert torch.get_default_dtype() is torch.float32
    torch.testing.assert_close(graph(x), x / 3 + 1 / 7 + 0.1, rtol=1e-15, atol=0)
