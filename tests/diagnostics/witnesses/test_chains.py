"""How a fit ended, chains that agree, and posteriors that are known by enumeration."""

import math
from typing import Any

import arviz_stats
import numpy as np
import pytest
import xarray as xr

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.witnesses.chains import (
    NAME,
    chains_of,
    effective_draws,
    hear,
    sampler_convergence,
)
from guidebook.inference.fits.status import Status

RHAT = {"x": np.array([1.002, 1.01]), "y": np.array([1.004, 1.001])}
ESS = {"x": np.array([900.0, 400.0]), "y": np.array([700.0, 800.0])}
"""Of four chains, both just within their limits: 1.01, and 100 a chain."""


def tree(chains: int = 4, diverging: int | None = 0, draws: int = 50) -> xr.DataTree:
    dims = ("chain", "draw", "dim")
    x = np.random.default_rng(0).standard_normal((2, chains, draws, 2))
    groups = {"posterior": xr.Dataset({"x": (dims, x[0]), "y": (dims, x[1])})}
    if diverging is not None:
        flags = np.zeros((chains, draws), bool)
        flags.reshape(-1)[:diverging] = True
        groups["sample_stats"] = xr.Dataset({"diverging": (dims[:2], flags)})
    return xr.DataTree.from_dict(groups)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """R-hat and effective sample sizes are these, per variable and coordinate."""

    def of(rhat: dict[str, np.ndarray], ess: dict[str, np.ndarray]) -> None:
        for name, values in (("rhat", rhat), ("ess", ess)):
            found = xr.Dataset({n: ("dim", v) for n, v in values.items()})
            monkeypatch.setattr(arviz_stats, name, lambda _, found=found: found)

    return of


@pytest.mark.parametrize(
    ("rhat", "ess", "chains", "diverging", "good"),
    [
        (1.01, 400.0, 4, 0, True),
        (1.01, 400.0, 4, None, True),
        (1.0101, 400.0, 4, 0, False),
        (1.01, 399.9, 4, 0, False),
        (1.01, 400.0, 5, 0, False),
        (1.01, 400.0, 4, 1, False),
        (1.01, 400.0, 4, 3, False),
    ],
)
def test_chains_agree_by_their_worst_marginal_and_without_divergences(
    rhat: float, ess: float, chains: int, diverging: int | None, good: bool, measured: Any
) -> None:
    measured(
        RHAT | {"x": np.array([1.002, rhat])},
        ESS | {"x": np.array([900.0, ess])},
    )
    found, words = sampler_convergence(tree(chains, diverging))
    assert found is good
    assert f"{rhat:.3f}" in words and f"{ess:.0f}," in words and f"{diverging or 0} div" in words


def chains_of_x(*chains: np.ndarray, **others: float) -> xr.DataTree:
    x = np.stack(chains)
    rest = {name: (("chain", "draw"), np.full(x.shape, value)) for name, value in others.items()}
    return xr.DataTree.from_dict({"posterior": xr.Dataset({"x": (("chain", "draw"), x)} | rest)})


@pytest.mark.parametrize("first", ["a", "z"])
def test_a_constant_decides_nothing_wherever_it_stands(first: str) -> None:
    """As the elements of a Cholesky factor of correlations that are 0 or 1; R-hat is that of the rest."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((4, 1000))
    apart = noise + np.arange(4)[:, None]
    for draws, good in ((noise, True), (apart, False)):
        x = np.stack(
            [draws, np.zeros_like(draws)] if first == "z" else [np.zeros_like(draws), draws], -1
        )
        given = xr.Dataset(
            {"L": (("chain", "draw", "i"), x), first: (("chain", "draw"), draws * 0 + 1)}
        )
        found, words = sampler_convergence(xr.DataTree.from_dict({"posterior": given}))
        assert found is good and "nan" not in words


def test_chains_that_stand_still_do_not_agree() -> None:
    """All at one value, each at its own, or of three draws: nothing speaks for them."""
    still = np.zeros(500)
    assert not sampler_convergence(chains_of_x(still, still))[0]
    assert not sampler_convergence(chains_of_x(still, still, other=3.0))[0]
    assert not sampler_convergence(chains_of_x(still, still + 1))[0]
    assert not sampler_convergence(chains_of_x(*np.random.default_rng(0).standard_normal((4, 3))))[
        0
    ]


def test_two_values_are_compared_without_folded_ranks() -> None:
    rng = np.random.default_rng(2)
    same = (rng.random((4, 1000)) < 0.4).astype(float)
    assert sampler_convergence(chains_of_x(*same))[0]
    apart = (rng.random((4, 1000)) < np.array([0.2, 0.2, 0.2, 0.6])[:, None]).astype(float)
    assert not sampler_convergence(chains_of_x(*apart))[0]


def test_statistics_without_divergences_have_none(measured: Any) -> None:
    measured(RHAT, ESS)
    given = tree(diverging=None)
    given["sample_stats"] = xr.DataTree(xr.Dataset({"lp": (("chain", "draw"), np.ones((4, 50)))}))
    assert sampler_convergence(given)[0]


def test_effective_draws(measured: Any) -> None:
    """The smallest over marginals, but those that are not defined; all draws of one chain."""
    measured(RHAT, ESS | {"y": np.array([math.nan, 300.0])})
    assert effective_draws(tree()) == 300.0
    assert effective_draws(tree(1)) == 50.0 and effective_draws(tree(2)) == 300.0
    assert chains_of(tree(3)) == 3
    alone = xr.DataTree.from_dict({"posterior": xr.Dataset({"x": ("draw", np.zeros(5))})})
    assert chains_of(alone) == 1


def subject(**changes: Any) -> Subject:
    facts: dict[str, Any] = {
        "kind": "density",
        "names": ["z"],
        "values": np.zeros((3, 2, 1)),
        "discrete": np.zeros(1, bool),
    }
    return Subject(**(facts | changes))


@pytest.mark.parametrize("status", [None, *Status])
def test_chains_are_vouched_for_where_they_agree(status: Status | None, measured: Any) -> None:
    """A status says it; without one R-hat and effective sample sizes do."""
    for rhat in (1.0, 1.2):
        measured({"x": np.array([rhat, 1.0]), "y": np.ones(2)}, ESS)
        found = hear(subject(kind="chains", status=status, tree=tree()), {})
        good = status.good if status else rhat == 1.0
        assert found.vouches is not None and found.vouches.tolist() == [good, good]
        words = status.value if status else f"{rhat:.3f}"
        assert words in found.words[0]
        assert list(found.against) == ([] if good else [found.words[0]] * 2)
        assert "R-hat" in found.agreement and found.rules_out == ""


@pytest.mark.parametrize("amortized", [False, True])
@pytest.mark.parametrize("status", list(Status))
def test_how_a_fit_ended(status: Status, amortized: bool) -> None:
    """Three ends leave nothing to use; draws of rows are not trusted while the model still moves."""
    facts = {} if not amortized else {"amortized": True}
    found = hear(subject(status=status, **facts), {})
    assert found.words == (status.value,) and found.vouches is None
    useless = (Status.RESTARTS_DISAGREE, Status.STOPPED_BY_NAN, Status.NO_MODE)
    assert found.rules_out == (status.value if status in useless else "")
    moving = amortized and status not in (Status.CONVERGED, Status.EXACT)
    assert list(found.against) == ([status.value] * 2 if moving else [])


def test_a_file_that_does_not_say_how_it_ended() -> None:
    found = hear(subject(), {})
    assert found == Testimony(NAME, absent=found.absent) and "how the fit ended" in found.absent


def test_an_enumerated_posterior_is_vouched_for_where_its_weights_are_equal() -> None:
    """Rounding is less than a thousandth of a nat, in each posterior by itself."""
    ratios = np.array([[0.0, 7.0], [1e-3, 7.0], [0.5e-3, 7.000999]])
    facts: dict[str, Any] = {
        "status": Status.EXACT, "discrete": np.ones(1, bool), "log_ratio": ratios,
    }  # fmt: skip
    found = hear(subject(**facts), {}).vouches
    assert found is not None and found.tolist() == [False, True]
    for lacking in (
        {"status": Status.CONVERGED},
        {"discrete": np.zeros(1, bool)},
        {"log_ratio": None},
    ):
        assert hear(subject(**(facts | lacking)), {}).vouches is None
