"""Pyro's objectives are climbed as Pyro climbs them, recorded or not, and the table of docs says which."""

import re
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.infer as infer
import pytest
import torch
from pyro.distributions import constraints

import guidebook as gb
from guidebook.errors import SettingError
from guidebook.inference.objectives.given import objective_of

STEPS = 8
DATA = torch.tensor([3.0, -1.0, 4.0], dtype=torch.float64)
TABLE = (Path(__file__).parents[3] / "docs" / "optimisers.md").read_text(encoding="utf-8")


def model(y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 5.0).to_event(1))
    m = pyro.sample("m", dist.Normal(torch.zeros(1), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(w + m, pyro.param("noise", torch.tensor(1.5), constraints.positive))
                .to_event(1), obs=y)  # fmt: skip


def guide(y):
    scale = pyro.param("scale", torch.full((3,), 0.3), constraint=constraints.positive)
    pyro.sample("w", dist.Normal(pyro.param("loc", torch.ones(3)), scale).to_event(1))
    pyro.sample("m", dist.Normal(pyro.param("m.loc", torch.tensor([0.2])), 0.5).to_event(1))


def simple(model, guide, *args, **kwargs):
    """Pyro's tutorial on objectives of one's own."""
    drawn = pyro.poutine.trace(guide).get_trace(*args, **kwargs)
    scored = pyro.poutine.trace(pyro.poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
    return drawn.log_prob_sum() - scored.log_prob_sum()


class Doubled(infer.Trace_ELBO):
    """Another estimate in loss_and_grads, with the differentiable_loss of its parent."""

    def loss_and_grads(self, model, guide, *args, **kwargs):
        super().loss_and_grads(model, guide, *args, **kwargs)
        return super().loss_and_grads(model, guide, *args, **kwargs)


def flat(kind, particles=1):
    return lambda: kind(
        max_plate_nesting=0, num_particles=particles, vectorize_particles=particles > 1
    )


KINDS = {
    "Trace_ELBO": (flat(infer.Trace_ELBO, 3), None),
    "TraceEnum_ELBO": (flat(infer.TraceEnum_ELBO), None),
    "TraceMeanField_ELBO": (flat(infer.TraceMeanField_ELBO), None),
    "TraceTMC_ELBO": (flat(infer.TraceTMC_ELBO), None),
    "EnergyDistance": (lambda: infer.EnergyDistance(prior_scale=0.5, max_plate_nesting=1), None),
    "JitTrace_ELBO": (flat(infer.JitTrace_ELBO, 3), flat(infer.Trace_ELBO, 3)),
    "JitTraceEnum_ELBO": (flat(infer.JitTraceEnum_ELBO), flat(infer.TraceEnum_ELBO)),
    "JitTraceMeanField_ELBO": (flat(infer.JitTraceMeanField_ELBO), flat(infer.TraceMeanField_ELBO)),
    "TraceGraph_ELBO": (flat(infer.TraceGraph_ELBO), None),
    "JitTraceGraph_ELBO": (flat(infer.JitTraceGraph_ELBO), flat(infer.TraceGraph_ELBO)),
    "RenyiELBO": (lambda: infer.RenyiELBO(alpha=0.5, num_particles=3), None),
    "a function": (lambda: simple, None),
    "Doubled": (Doubled, None),
}
"""By the name in the table: the objective, and Pyro's that it stands for where that is another."""
REFERENCE = {"TraceGraph_ELBO", "JitTraceGraph_ELBO", "RenyiELBO", "Doubled"}


def losses_of_pyro(objective):
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope():
            torch.manual_seed(5)
            svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective)
            losses = [float(svi.step(DATA)) for _ in range(STEPS)]
            return np.array(losses), pyro.param("loc").detach().clone()
    finally:
        torch.set_default_dtype(torch.float32)


def fitted(objective):
    return gb.svi(
        model, guide, {"y": DATA}, objective=objective, optim=pyro.optim.Adam({"lr": 0.1}), steps=STEPS,
        compile="graph", seed=5, progress=False,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*found no sample sites configured for enumeration")
@pytest.mark.parametrize("name", KINDS)
def test_an_objective_is_climbed_as_by_pyro(name):
    given, plain = KINDS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = fitted(given())
    told = [str(one.message) for one in caught if "runs by pyro.infer.SVI" in str(one.message)]
    losses, loc = losses_of_pyro((plain or given)())
    np.testing.assert_allclose(fit.history, losses, rtol=1e-9)
    torch.testing.assert_close(fit.guide.value("loc").detach(), loc, rtol=1e-8, atol=1e-10)
    assert fit.notes["path"] == ("reference" if name in REFERENCE else "captured")
    assert len(told) == (name in REFERENCE)
    assert all("differentiable_loss" in one for one in told)


def test_the_table_says_what_is():
    line = re.compile(r"^\| `?(\w+(?: \w+)?)`?.*? \| (recorded|reference|refused) \|", re.M)
    rows = dict(line.findall(TABLE.split("## Objectives")[1]))
    said = {name: how for name, how in rows.items() if name != "a class"}
    found = {
        name: "reference" if name in REFERENCE else "recorded"
        for name in KINDS
        if name != "Doubled"
    }
    refused = {"TraceTailAdaptive_ELBO": "refused", "ReweightedWakeSleep": "refused"}
    assert said == found | refused
    losses = {n for n in infer.__all__ if "ELBO" in n and n != "ELBO"}
    assert losses <= set(said), "every ELBO of pyro.infer"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (infer.Trace_ELBO, r"Trace_ELBO is a class: give an object, objective=Trace_ELBO\(\)"),
        ("elbo", r"objective='elbo' is none: give an object of pyro.infer"),
        (infer.TraceTailAdaptive_ELBO(), "estimates a gradient and no objective"),
        (infer.ReweightedWakeSleep(), r"two losses.*gb.wake_sleep"),
    ],
)
def test_what_is_no_objective_is_refused_in_one_sentence(given, why):
    with pytest.raises(SettingError, match=why):
        fitted(given)


def test_a_twin_has_the_settings_of_what_was_given():
    given = infer.JitTrace_ELBO(num_particles=7, vectorize_particles=True, max_plate_nesting=2)
    twin = objective_of(given)
    assert type(twin) is infer.Trace_ELBO and type(given) is infer.JitTrace_ELBO
    assert (twin.num_particles, twin.vectorize_particles, twin.max_plate_nesting) == (7, True, 3)
