"""The objective over the steps, and k-hat with its error."""

from dataclasses import replace

import numpy as np

import guidebook as gb
from guidebook.reports.figures.curves import khat_per_site, objective, smoothed
from tests.reports.drawn import is_drawn, only


def test_the_end_of_the_objective_is_not_squashed_by_its_start(comparison: gb.Comparison) -> None:
    rng = np.random.default_rng(1)
    t = np.arange(4000)
    history = 31 + 900 * np.exp(-t / 60) + rng.normal(0, 0.6, 4000) ** 2
    drawn = objective(replace(comparison, histories={"shifted": history}))
    is_drawn(drawn)
    whole, late = drawn.axes
    low, high = late.get_ylim()
    assert high - low < 10  # the start is 900 nats below
    assert whole.get_xscale() == whole.get_yscale() == "log"


def test_running_medians_are_of_the_elbo() -> None:
    steps, elbo = smoothed(np.array([5.0, 1.0, 9.0, np.nan, 2.0, 4.0]), np.array([0, 3, 4, 6]))
    np.testing.assert_array_equal(elbo, [-5.0, -3.0])
    np.testing.assert_array_equal(steps, [2.0, 5.5])


def test_histories_that_are_short_broken_or_missing(comparison: gb.Comparison) -> None:
    broken = {
        "shifted": np.r_[np.linspace(900, 30, 400), np.full(10, np.nan)],
        "laplace": np.full(300, 31.5),
    }
    is_drawn(objective(replace(comparison, histories=broken)))
    none = {"shifted": np.array([]), "truth": np.full(5, np.nan)}
    assert objective(replace(comparison, histories=none)) is None


def test_khat_is_drawn_with_its_error(comparison: gb.Comparison) -> None:
    drawn = khat_per_site(comparison)
    is_drawn(drawn)
    (axes,) = drawn.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["all sites jointly", "mu", "theta"]
    bars = [c for c in axes.containers if getattr(c, "has_xerr", False)]
    assert len(bars) == 2  # shifted and narrow; laplace is exact and has none
    points = np.asarray(bars[0].lines[0].get_xdata())
    assert points[0] == comparison.table.loc["shifted", "khat"]


def test_khat_missing_everywhere_is_no_figure(comparison: gb.Comparison) -> None:
    assert khat_per_site(only(comparison, "truth")) is None
