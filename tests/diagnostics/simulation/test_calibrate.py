"""Calibration of a conjugate model: exact engines pass, planted errors are found, with their direction."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from scipy.stats import kstest

import guidebook as gb
from guidebook.diagnostics.numerics.calibration import DENSITY, DISTANCE
from guidebook.errors import DataError, ModelError, SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status

Engine = Callable[..., Fit]
Planted = Callable[..., Engine]


def test_ranks_of_the_exact_posterior_are_uniform(model: Any, data: Any, planted: Planted) -> None:
    """Kolmogorov's test of each quantity; false-alarm rate 3 x 1e-4."""
    found = gb.calibrate(model, None, data, engine=planted(), replications=60)
    assert found.of == "prior"
    assert found.names == ["mu", DENSITY, DISTANCE]
    assert found.ranks.shape == (60, 3)
    assert found.draws == 400
    for i in range(3):
        assert kstest(found.p[:, i], "uniform").pvalue > 1e-4
    assert found.off == []


@pytest.mark.parametrize(
    ("shift", "scale", "finding"),
    [(0.0, 0.5, "too narrow"), (0.0, 2.0, "too wide"), (0.8, 1.0, "biased high"), (-0.8, 1.0, "biased low")],
)  # fmt: skip
def test_planted_errors_are_found(
    shift: float, scale: float, finding: str, model: Any, data: Any, planted: Planted
) -> None:
    found = gb.calibrate(model, None, data, engine=planted(shift, scale), replications=40)
    assert found.finding("mu") == finding


def test_given_the_data_the_exact_posterior_passes_and_a_narrow_one_does_not(
    model: Any, data: Any, planted: Planted
) -> None:
    """Posterior SBC with the engine's own draws as truths; Kolmogorov's test at 3 x 1e-4.

    Of an engine too narrow by r the truths are too narrow as well. Their variance about the mean of the
    augmented posterior, of precision 3 after 2, is (2 r^2 + 1) / 9, and that of the draws r^2 / 3: the ratio
    of standard deviations seen is r sqrt(3 / (2 r^2 + 1)), 0.48 for r = 0.3; four standard errors.
    """
    exact = gb.calibrate(model, None, data, engine=planted(), of="posterior", replications=40)
    assert exact.of == "posterior"
    assert exact.names == ["mu", DENSITY, DISTANCE]
    for i in range(3):
        assert kstest(exact.p[:, i], "uniform").pvalue > 1e-4
    narrow = gb.calibrate(
        model, None, data, engine=planted(scale=0.3), of="posterior", replications=80
    )
    assert narrow.finding("mu") == "too narrow"
    ratio = 0.3 * (3 / (2 * 0.3**2 + 1)) ** 0.5
    assert narrow.table.loc["mu", "sd_ratio"] == pytest.approx(ratio, abs=4 * ratio / 160**0.5)


def test_truths_of_a_reference_show_what_the_engines_own_hide(
    model: Any, data: Any, planted: Planted
) -> None:
    """Draws that are always above the posterior give truths that are above it, too."""
    engine = planted(shift=0.6)
    own = gb.calibrate(model, None, data, engine=engine, of="posterior", replications=60)
    other = gb.calibrate(
        model, None, data, engine=engine, of=planted()(model, data), replications=60
    )
    assert other.finding("mu") == "biased high"
    assert own.table.loc["mu", "shift"] < other.table.loc["mu", "shift"]


def test_an_engine_that_ignores_the_data_is_found_by_the_joint_density(
    model: Any, data: Any
) -> None:
    """Its draws are the prior's: every marginal is calibrated over data sets drawn from the prior."""

    def blind(model: Any, data: Any, *, seed: int = 0) -> Fit:
        draws = torch.randn(1, 400, 1, generator=torch.Generator().manual_seed(seed)).double()
        sites = gb.laplace(model, data).sites if not known else known[0]
        known.append(sites)
        return Fit(model, None, data, np.empty(0), Status.CONVERGED, seed, 0.0, "blind", sites, draws,
                   draws_are="particles")  # fmt: skip

    known: list[Any] = []
    found = gb.calibrate(model, None, data, engine=blind, replications=60)
    assert found.finding("mu") == "calibrated"
    assert DENSITY in found.off


def test_fits_without_draws_are_counted_and_left_out(
    model: Any, data: Any, planted: Planted
) -> None:
    good = planted()

    def fails(model: Any, data: Any, *, seed: int = 0) -> Fit:
        if seed % 4 == 0:
            raise ModelError("A matrix is singular. Add to its diagonal.")
        if seed % 4 == 1:
            return planted(status=Status.STILL_MOVING)(model, data, seed=seed)
        if seed % 4 == 2:
            return planted(status=Status.NO_MODE)(model, data, seed=seed)
        return good(model, data, seed=seed)

    found = gb.calibrate(model, None, data, engine=fails, replications=20)
    assert found.replications == 10
    assert found.unranked == 10
    assert found.ended == {
        "with ModelError (A matrix is singular)": 5, "still moving": 5, "no mode": 5,
    }  # fmt: skip

    def always(model: Any, data: Any) -> Fit:
        raise RuntimeError("linalg.cholesky failed")

    with pytest.raises(DataError, match=r"gave draws \(20 with RuntimeError"):
        gb.calibrate(model, None, data, engine=always, replications=20)


def test_an_interruption_keeps_what_is_done(model: Any, data: Any, planted: Planted) -> None:
    good = planted()

    def stops(model: Any, data: Any, *, seed: int = 0) -> Fit:
        if seed == 7:
            raise KeyboardInterrupt
        return good(model, data, seed=seed)

    found = gb.calibrate(model, None, data, engine=stops, replications=30)
    assert (found.replications, found.asked) == (7, 30)

    def ends(model: Any, data: Any, *, seed: int = 0) -> Fit:
        return planted(status=Status.INTERRUPTED)(model, data, seed=seed)

    with pytest.raises(KeyboardInterrupt):
        gb.calibrate(model, None, data, engine=ends, replications=30)


def test_the_seed_alone_decides(model: Any, data: Any, planted: Planted) -> None:
    one, same, other = (
        gb.calibrate(model, None, data, engine=planted(), replications=20, seed=s)
        for s in (1, 1, 2)
    )
    assert np.array_equal(one.ranks, same.ranks)
    assert not np.array_equal(one.ranks, other.ranks)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"replications": 19}, "replications=19"),
        ({"of": "data"}, "of='data' is unknown"),
        ({"seed": -1}, "seed=-1"),
        ({"engine": None}, "guide=None, and svi fits a guide"),
    ],
)
def test_settings_out_of_range(
    given: dict[str, Any], words: str, model: Any, data: Any, planted: Planted
) -> None:
    with pytest.raises(SettingError, match=words):
        gb.calibrate(model, None, data, **{"engine": planted(), **given})


def test_a_quantity_that_is_not_a_number_is_left_out(data: Any, planted: Planted) -> None:
    """log mu, derived by the model, of truths or draws below zero."""

    def derived(n: int, y: Any = None) -> None:
        mu = pyro.sample("mu", pyro.distributions.Normal(torch.zeros(()).double() + 1.0, 1.0))
        pyro.deterministic("log", mu.log())
        with pyro.plate("row", n):
            pyro.sample("y", pyro.distributions.Normal(mu, 2.0), obs=y)

    found = gb.calibrate(derived, None, data, engine=planted(shift=2.0), replications=20)
    assert found.names == ["mu", "log", DENSITY, DISTANCE]
    assert found.ended == {"with draws that are not finite": found.unranked}
    assert 0 < found.unranked < 20


def test_a_reference_of_another_model_is_refused(model: Any, data: Any, planted: Planted) -> None:
    def other(n: int, y: Any = None) -> None:
        nu = pyro.sample("nu", pyro.distributions.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("row", n):
            pyro.sample("y", pyro.distributions.Normal(nu, 2.0), obs=y)

    with pytest.raises(DataError, match=r"sites \['mu'\], the model has \['nu'\]"):
        gb.calibrate(other, None, data, engine=planted(), of=planted()(model, data))


def test_a_reference_with_too_few_draws_is_refused(model: Any, data: Any, planted: Planted) -> None:
    with pytest.raises(DataError, match="has 400 draws, and 401 replications"):
        gb.calibrate(
            model, None, data, engine=planted(), of=planted()(model, data), replications=401
        )
