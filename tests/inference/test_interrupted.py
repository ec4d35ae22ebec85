"""Ctrl-C in the loop of any engine: a fit of what there is, which says so; with nothing yet, the end."""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook import Status
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.inference.boltzmann import boltzmann_learning
from guidebook.inference.fits.running import Steps
from guidebook.inference.normals import pathfinder as pathfinder_module
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.mixture import GaussianMixture
from guidebook.models.probit import probit_regression

LONG = 100_000
"""Steps of which none of these engines would take all within the time of a test."""


def points(rows: int = 60) -> np.ndarray:
    """Two overlapping clusters, on which every engine climbs for many steps."""
    return np.random.default_rng(0).normal(size=(rows, 2)) + np.arange(rows)[:, None] % 2


def mixture(engine: Any, guide: Any, **settings: Any) -> gb.Fit:
    model = GaussianMixture(3, 2, "full", concentration=2.0, df=5.0, inverse_scale=0.5)
    found: gb.Fit = engine(model, guide(model), {"x": points()}, progress=False, **settings)
    return found


def counts(y: Any) -> None:
    rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def by_sites(schedule: str) -> gb.Fit:
    """A residual that rounding never lets fall to the tolerance."""
    data = {"X": points(), "y": np.arange(60.0) % 2}
    guide = gb.guides.ProbitSites()
    found: gb.Fit = gb.ep(
        probit_regression, guide, data, schedule=schedule, tolerance=1e-300, sweeps=LONG, progress=False
    )  # fmt: skip
    return found


def on_counts(engine: Any, *guide: Any, **settings: Any) -> gb.Fit:
    found: gb.Fit = engine(counts, *guide, {"y": np.array([3.0, 1.0])}, progress=False, **settings)
    return found


ENGINES: dict[str, Any] = {
    "em": lambda: mixture(gb.em, MixtureMode, iterations=LONG, tolerance=1e-300),
    "cavi": lambda: mixture(gb.cavi, MixtureMeanField, sweeps=LONG, tolerance=1e-300),
    "natural_svi": lambda: mixture(gb.natural_svi, MixtureMeanField, steps=LONG),
    "gibbs": lambda: mixture(gb.gibbs, MixtureMeanField, draws=LONG, tune=0),
    **{f"ep, {how}": lambda how=how: by_sites(how) for how in ("parallel", "sequential")},
    "svgd": lambda: on_counts(gb.svgd, steps=LONG, tolerance=1e-300),
    "pathfinder": lambda: on_counts(gb.pathfinder, paths=LONG // 1000),
    "svi by the reference path": lambda: on_counts(
        gb.svi, gb.guides.mean_field(counts), steps=LONG, compile=False
    ),
}


@pytest.fixture
def pressed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ctrl-C is pressed when so many steps are done; the handler is as it was afterwards."""
    after, advance = [5], Steps.advance

    def counting(steps: Steps, number: int = 1) -> None:
        advance(steps, number)
        if steps.done == after[0]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Steps, "advance", counting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of xdist ignore it
    yield after
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


@pytest.mark.parametrize("engine", ENGINES)
def test_the_fit_holds_what_there_is_and_says_so(engine: str, pressed: list[int]) -> None:
    fit = ENGINES[engine]()
    assert fit.status is Status.INTERRUPTED
    assert fit.notes["interrupted"].startswith("after 5 ")
    for name, values in fit.posterior(10)["posterior"].data_vars.items():
        assert np.isfinite(values).all(), name


@pytest.mark.parametrize(("after", "kept"), [(12, None), (23, None), (24, 4), (25, 5)])
def test_gibbs_keeps_four_sweeps_or_none(after: int, kept: int | None, pressed: list[int]) -> None:
    """Of 20 that are thrown away."""
    pressed[0] = after
    if kept is None:
        with pytest.raises(KeyboardInterrupt):
            mixture(gb.gibbs, MixtureMeanField, draws=LONG, tune=20)
    else:
        fit = mixture(gb.gibbs, MixtureMeanField, draws=LONG, tune=20)
        assert fit.notes["draws"] == kept and fit.status is Status.INTERRUPTED


@pytest.mark.parametrize("term", ["enumeration", "gibbs", "cd", "pcd"])
def test_a_machine_keeps_the_weights_of_the_steps_taken(term: str, pressed: list[int]) -> None:
    """Of two units that are always equal: the weight between them grows for ever."""
    equal = {"v": torch.tensor([[1.0, 1.0], [-1.0, -1.0]])}
    start = BoltzmannMachine(torch.zeros(2, 2), torch.zeros(2))
    fit = boltzmann_learning(start, equal, model_term=term, steps=LONG, progress=False)
    assert fit.status is Status.INTERRUPTED and len(fit.history) == 5
    assert fit.model.weights[0, 1] > 0 and start.weights[0, 1] == 0


def test_pathfinder_without_a_normal_yet_is_interrupted(
    pressed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pathfinder_module, "_best", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        ENGINES["pathfinder"]()


def test_a_study_keeps_the_fits_that_are_whole(pressed: list[int]) -> None:
    found = gb.calibrate(
        counts_to_simulate,
        None,
        {"y": np.array([3.0, 1.0])},
        engine=gb.laplace,
        replications=200,
        progress=False,
    )
    assert len(found.ranks) == found.replications == 5


def test_a_study_ends_with_the_fit_that_its_truths_come_from(pressed: list[int]) -> None:
    """Not with a hundred fits after it."""
    with pytest.raises(KeyboardInterrupt):
        gb.calibrate(
            counts_to_simulate, None, {"y": np.array([3.0, 1.0])}, engine=gb.pathfinder, replications=200,
            of="posterior", progress=False, paths=20,
        )  # fmt: skip


def counts_to_simulate(y: Any = None) -> None:
    rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
    with pyro.plate("row", 2):
        pyro.sample("y", dist.Poisson(rate), obs=y)
