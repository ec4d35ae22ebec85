"""Every program of the list, run once by Pyro and once by svi, for the laws that are about it."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.distributions import constraints

import guidebook as gb
from guidebook.errors import GuidebookError
from tests.programs.laws.lines import PROGRAMS
from tests.programs.laws.program import Program
from tests.programs.laws.pyros_own import (
    SEED,
    STEPS,
    PyrosOwn,
    made,
    objective_of,
    optimiser_of,
    run_by_pyro,
)

DRAWS = 3
SHORT = {
    "line", "obs_mask", "do", "lift", "equalize", "seed", "block", "factor", "plates reused",
    "plate called chain", "sequential plate", "observed value broadcast", "subsample_size",
    "pyro.subsample", "sequential subsample", "subsample=", "shared parameter", "pyro.module",
    "PyroSample", "PyroParam", "pyro_method", "pyro.markov", "constants in float32", "guide sums",
    "guide draws, TraceGraph", "summed twice", "AutoDiscreteParallel", "LocScaleReparam",
    "SymmetricStableReparam", "NeuTraReparam", "AutoDelta", "AutoMultivariateNormal", "AutoIAFNormal",
    "AutoLaplaceApproximation", "AutoGuideList", "AutoNormalMessenger", "GuideMessenger", "EasyGuide",
    "vectorised particles", "RenyiELBO", "ReweightedWakeSleep", "MultiStepLR", "positional tuple",
    "DataFrame", "PackedSequence", "missing values", "no arguments", "Gaussian process",
    "semi-supervised, labels", "semi-supervised, no labels", "topics", "epidemic", "causal autoencoder",
    "deep Markov model", "masked steps", "tempered sum",
    "rows of the guide", "hidden parameters", "learnt prior",
}  # fmt: skip
"""One or more of every kind, in every run of the suite; the others are marked slow."""

LIGHT = {"pyro.module", "guide sums", "LocScaleReparam"}
"""What takes longest, judgement, page and nuts, is of these alone in every run."""


@dataclass(frozen=True)
class Ours:
    """What svi gave: a fit, or the error; and what it warned of."""

    fit: gb.Fit | None
    error: GuidebookError | None
    told: list[str]


def fitted(program: Program, model: Any, guide: Any, compile: Any = "graph") -> gb.Fit:
    """The program's steps by svi, with the objective that Pyro is given."""
    asks = program.objective is not None or program.plates is not None
    return gb.svi(
        model, guide, program.data, objective=objective_of(program) if asks else None,
        optim=optimiser_of(program), steps=STEPS, seed=SEED, compile=compile, progress=False,
        **program.settings,
    )  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All laws of one program run together; those about fits leave out what is refused."""
    if "program" not in metafunc.fixturenames:
        return
    asked = set(metafunc.fixturenames)
    by_mode = "at_mode" in asked
    chosen = [p for p in PROGRAMS.values() if p.how != "refused" or not asked & {"fit", "at_mode"}]
    chosen = [p for p in chosen if p.by_mode or not by_mode]
    short = LIGHT if asked & {"comparison", "sampled", "in_a_loop"} else SHORT
    rows = [
        pytest.param(p, id=p.name, marks=[] if p.name in short else [pytest.mark.slow])
        for p in chosen
    ]
    metafunc.parametrize("program", rows, scope="session")


@pytest.fixture(scope="session")
def ours(program: Program) -> Ours:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fit, error = fitted(program, *made(program)), None
        except GuidebookError as refusal:
            fit, error = None, refusal
    return Ours(fit, error, [str(one.message) for one in caught])


@pytest.fixture(scope="session")
def pyros(program: Program) -> PyrosOwn:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return run_by_pyro(program)


@pytest.fixture(scope="session")
def fit(ours: Ours) -> gb.Fit:
    if ours.error is not None:
        raise ours.error
    assert ours.fit is not None
    return ours.fit


@pytest.fixture(scope="session")
def in_a_loop(program: Program) -> gb.Fit:
    """By the loop in C where there is one for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has none says so
        return fitted(program, *made(program), compile="native")


@pytest.fixture(scope="session")
def tree(fit: gb.Fit) -> xr.DataTree:
    return fit.posterior(DRAWS, seed=1, log_likelihood=True)


@pytest.fixture(scope="session")
def draws(program: Program, fit: gb.Fit, tree: xr.DataTree) -> list[dict[str, torch.Tensor]]:
    return as_pyro_has_them(program, fit, tree)


def as_pyro_has_them(
    program: Program, fit: gb.Fit, tree: xr.DataTree
) -> list[dict[str, torch.Tensor]]:
    """Every draw: labels whole numbers, all else in the fit's precision."""
    found: list[dict[str, torch.Tensor]] = [{} for _ in tree["posterior"]["draw"]]
    for site in fit.sites:
        label = isinstance(site.support, constraints.integer_interval)
        values = np.asarray(tree["posterior"][site.name].values[0])
        for one, value in zip(found, values, strict=True):
            one[site.name] = torch.as_tensor(value).to(torch.long if label else program.dtype)
    return found


@pytest.fixture(scope="session")
def at_mode(program: Program) -> gb.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parameters are held
        return gb.laplace(made(program)[0], program.data)


@pytest.fixture(scope="session")
def comparison(fit: gb.Fit) -> gb.Comparison:
    return gb.compare({"fit": fit}, seed=1, effort="quick")


@pytest.fixture(scope="session")
def sampled(program: Program, fit: gb.Fit) -> gb.Fit | GuidebookError:
    """A few draws by nuts of the trained model, or the refusal."""
    try:
        return gb.nuts(fit.model, program.data, draws=DRAWS + 1, tune=20, chains=1, progress=False)
    except GuidebookError as refusal:
        return refusal
