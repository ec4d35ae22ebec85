"""Bad input on every road of the mixture and of the energy models.

One table: degenerate rows that a prior holds are fitted by every engine, everything finite; what has
no answer gets one clear error that names cause and remedy.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.errors import DataError, GuidebookError, ModelError, SettingError
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import Boltzmann
from guidebook.models.energy.hopfield import hebbian, pseudo_inverse, recall
from guidebook.models.mixture import GaussianMixture

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(24, 2)) + np.repeat([[0.0, 0.0], [5.0, 5.0]], 12, 0)
ENGINES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "em": (gb.em, MixtureMode, {}),
    "cavi": (gb.cavi, MixtureMeanField, {}),
    "natural_svi": (gb.natural_svi, MixtureMeanField, {"steps": 30}),
    "gibbs": (gb.gibbs, MixtureMeanField, {"draws": 20, "tune": 20, "chains": 2}),
}
every_engine = pytest.mark.parametrize("engine", ENGINES)


def fitted(engine: str, x: np.ndarray, K: int = 3, covariance: Any = "full") -> gb.Fit:
    """Under a proper prior: its mode exists, which em asks for."""
    model = GaussianMixture(K, 2, covariance, concentration=2.0, df=5.0, inverse_scale=0.5)
    run, guide, options = ENGINES[engine]
    found: gb.Fit = run(model, guide(model), {"x": x}, progress=False, **options)
    return found


# what a prior holds --------------------------------------------------------------------------------

DEGENERATE = {
    "an empty component": (np.repeat([[0.0, 0.0], [9.0, 9.0]], 10, 0), 3),
    "a singular covariance": (np.column_stack([ROWS[:, 0], 2 * ROWS[:, 0]]), 2),
    "duplicated rows": (np.repeat(ROWS[:4], 5, 0), 3),
    "more components than rows": (ROWS[:2], 5),
    "one component": (ROWS, 1),
    "one row": (ROWS[:1], 2),
    "a constant column": (np.column_stack([ROWS[:, 0], np.full(24, 3.0)]), 2),
}


@every_engine
@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_a_prior_holds_degenerate_rows(engine: str, covariance: str, case: str) -> None:
    """Stated behaviour: a fit, whose parameters or draws are finite."""
    x, K = DEGENERATE[case]
    fit = fitted(engine, x, K, covariance)
    assert fit.status is not gb.Status.STOPPED_BY_NAN
    assert np.isfinite(fit.history).all()
    if fit.draws is not None:
        assert bool(fit.draws.isfinite().all())
        return
    guide: Any = fit.guide
    values = guide.values if engine == "em" else guide.hyper()
    assert values["loc"].shape == (K, 2)
    for name, value in values.items():
        assert bool(value.isfinite().all()), name


@pytest.mark.parametrize("case", ["a singular covariance", "a constant column"])
def test_without_a_prior_em_stops_and_says_why(case: str) -> None:
    """The likelihood is unbounded there: a status and a note, no crash and no NaN in the values."""
    x, K = DEGENERATE[case]
    model = GaussianMixture(K, 2, "diagonal" if "column" in case else "full")
    fit = gb.em(model, MixtureMode(model, prior=False), {"x": x}, progress=False)
    assert fit.status is gb.Status.STOPPED_BY_NAN
    assert re.search(r"use a prior, fewer components", fit.notes["nan"])


# what has no answer ---------------------------------------------------------------------------------


def with_nan() -> np.ndarray:
    x = ROWS.copy()
    x[7, 1] = np.nan
    return x


W = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, -0.3], [0.0, -0.3, 0.0]])
ZERO = torch.zeros(3)
PATTERNS = torch.as_tensor(np.random.default_rng(1).choice([-1.0, 1.0], (8, 6)))


def changed(i: int, j: int, value: float) -> torch.Tensor:
    other = W.clone()
    other[i, j] = value
    return other


Row = tuple[str, Callable[[], Any], type[GuidebookError], str]
ERRORS: list[Row] = [
    (
        f"NaN rows, {engine}",
        lambda engine=engine: fitted(engine, with_nan()),
        DataError,
        r"'x' holds NaN at index \(7, 1\).*(impute|[Rr]emove|drop)",
    )
    for engine in ENGINES
]
ERRORS += [
    (
        f"rows of another width, {engine}",
        lambda engine=engine: fitted(engine, ROWS[:, :1]),
        DataError,
        r"\(24, 1\).*needs \(rows, 2\)",
    )
    for engine in ENGINES
]
ERRORS += [
    ("no component", lambda: GaussianMixture(0, 2), SettingError, r"K=0.*at least 1"),
    (
        "a prior scatter that is singular",
        lambda: GaussianMixture(2, 2, inverse_scale=[[1.0, 1.0], [1.0, 1.0]]),
        SettingError,
        r"positive definite.*covariance of the columns",
    ),
    (
        "a concentration without a mode, em",
        lambda: MixtureMode(GaussianMixture(2, 2, concentration=0.5)),
        SettingError,
        r"below 1.*give at least 1, or prior=False",
    ),
    (
        "weights that are not symmetric",
        lambda: Boltzmann(changed(0, 2, 1.0), ZERO, validate_args=True),
        ModelError,
        r"not symmetric: W\[0, 2\].*\(W \+ W\.mT\) / 2",
    ),
    (
        "weights that are not symmetric, machine",
        lambda: BoltzmannMachine(changed(0, 2, 1.0), ZERO),
        ModelError,
        r"not symmetric.*\(W \+ W\.mT\) / 2",
    ),
    (
        "weights that are not symmetric, recall",
        lambda: recall(torch.ones(1, 3), changed(0, 2, 1.0)),
        ModelError,
        r"not symmetric.*\(W \+ W\.mT\) / 2",
    ),
    (
        "a self-connection",
        lambda: Boltzmann(changed(1, 1, 0.7), ZERO, validate_args=True),
        ModelError,
        r"Unit 1 is connected to itself.*set the diagonal to 0",
    ),
    (
        "a self-connection, machine",
        lambda: BoltzmannMachine(changed(1, 1, 0.7), ZERO),
        ModelError,
        r"Unit 1 is connected to itself.*set the diagonal to 0",
    ),
    (
        "a self-connection, recall",
        lambda: recall(torch.ones(1, 3), changed(1, 1, 0.7)),
        ModelError,
        r"Unit 1 is connected to itself.*set the diagonal to 0",
    ),
    (
        "a temperature of zero",
        lambda: Boltzmann(W, ZERO, beta=float("inf"), validate_args=True),
        SettingError,
        r"temperature of zero.*recall.*or a finite beta",
    ),
    (
        "a temperature of zero, machine",
        lambda: BoltzmannMachine(W, ZERO, beta=float("inf")),
        SettingError,
        r"temperature of zero.*recall.*or a finite beta",
    ),
    (
        "a negative temperature",
        lambda: Boltzmann(W, ZERO, beta=-1.0, validate_args=True),
        SettingError,
        r"inverse temperature: give a finite number, at least 0",
    ),
    (
        "more patterns than capacity, projection rule",
        lambda: pseudo_inverse(PATTERNS),
        DataError,
        r"8 patterns in 6 units.*at most 5.*Store fewer",
    ),
    (
        "a pattern stored twice, projection rule",
        lambda: pseudo_inverse(PATTERNS[[0, 1, 0]]),
        DataError,
        r"linearly dependent.*Remove the repeated",
    ),
    (
        "patterns that are not -1 and +1",
        lambda: hebbian(torch.tensor([[0.0, 1.0, 2.0]])),
        DataError,
        r"-1 and \+1",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "words"), [r[1:] for r in ERRORS], ids=[r[0] for r in ERRORS]
)
def test_one_clear_error(call: Any, kind: type[GuidebookError], words: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert re.search(words, message, re.DOTALL), message
    assert len(message) < 1000


def test_more_patterns_than_capacity_are_stored_by_hebb_and_not_recalled() -> None:
    """Stated behaviour: 60 random patterns in 100 units (0.6, beyond 0.138) are no fixed points."""
    rng = np.random.default_rng(2)
    patterns = torch.as_tensor(rng.choice([-1.0, 1.0], (60, 100)))
    found = recall(patterns, hebbian(patterns))
    kept = (found.states == patterns).all(-1).double().mean()
    assert float(kept) < 0.05
    few = patterns[:5]
    assert bool((recall(few, hebbian(few)).states == few).all())
