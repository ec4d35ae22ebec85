"""Objectives and optimisers: what `SVI(model, guide, optim, loss)` takes besides the two."""

import pyro
import torch
from pyro.infer import (
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.infer.autoguide import AutoNormal

from tests.programs.laws.enumeration import DATA as MIXED
from tests.programs.laws.enumeration import mixture
from tests.programs.laws.handlers import DATA, by, line
from tests.programs.laws.program import Program


def simple_elbo(model, guide, *args, **kwargs):
    """As the tutorial on objectives of one's own writes it."""
    drawn = pyro.poutine.trace(guide).get_trace(*args, **kwargs)
    scored = pyro.poutine.trace(pyro.poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
    return drawn.log_prob_sum() - scored.log_prob_sum()


def objective(name, make, uses="", how="captured", words="", same_as=None):
    return Program(
        name, uses or f"`{name}`", by(line), DATA, how, words, objective=make, same_as=same_as,
        by_mode=False,
    )  # fmt: skip


def optimiser(name, make, how="captured", words=""):
    return Program(
        name, f"`pyro.optim.{name}`", by(line), DATA, how, words, optim=make, by_mode=False
    )


def schedule(name, **settings):
    def made():
        given = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, **settings}
        return getattr(pyro.optim, name)(given)

    return made


def rates(name):
    return {"lr": 0.01 if "scales" in name else 0.05}


def side_by_side():
    return Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)


def summed():
    return mixture, AutoNormal(pyro.poutine.block(mixture, expose=["weights", "mean"]))


CLIMBING = (
    objective("Trace_ELBO", lambda: Trace_ELBO(num_particles=3), "`Trace_ELBO(num_particles=3)`"),
    objective("vectorised particles", side_by_side, "`vectorize_particles=True`"),
    objective("TraceMeanField_ELBO", TraceMeanField_ELBO),
    objective("JitTrace_ELBO", JitTrace_ELBO, same_as=Trace_ELBO),
    objective("TraceGraph_ELBO", TraceGraph_ELBO, "", "reference", "has no differentiable_loss"),
    objective("RenyiELBO", lambda: RenyiELBO(num_particles=2), "", "reference", "has no differentiable_loss"),
    objective("custom loss", lambda: simple_elbo, "a function `loss(model, guide, **data)`"),
    objective("TraceTailAdaptive_ELBO", TraceTailAdaptive_ELBO, "", "refused", "estimates a gradient"),
    objective("ReweightedWakeSleep", ReweightedWakeSleep, "", "refused", "has two losses"),
    Program("JitTraceEnum_ELBO", "`JitTraceEnum_ELBO`", summed, MIXED, plates=1, by_mode=False,
            objective=lambda: JitTraceEnum_ELBO(max_plate_nesting=1),
            same_as=lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    optimiser("ClippedAdam", lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.99, "clip_norm": 1.0})),
    optimiser("AdagradRMSProp", lambda: pyro.optim.AdagradRMSProp({"eta": 0.1})),
    optimiser("Adam of names", lambda: pyro.optim.Adam(rates, {"clip_norm": 5.0})),
    optimiser("MultiStepLR", schedule("MultiStepLR", milestones=[2, 4])),
    optimiser("ExponentialLR", schedule("ExponentialLR", gamma=0.9)),
    optimiser("DCTAdam", lambda: pyro.optim.DCTAdam({"lr": 0.05}), "reference", "DCTAdam"),
    optimiser("ReduceLROnPlateau", schedule("ReduceLROnPlateau"), "refused", "ReduceLROnPlateau"),
)  # fmt: skip
