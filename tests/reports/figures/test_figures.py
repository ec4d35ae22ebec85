"""The figures: drawn from the numbers, never blank, whatever the draws look like."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from arviz_base import from_dict
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from guidebook.reports.elements.style import PALETTE, colours, png
from guidebook.reports.elements.summaries import (
    largest_disagreements,
    left_out,
    moments,
    quantiles,
    shows_weighted,
    yardstick,
)
from guidebook.reports.figures.curves import khat_per_site, objective
from guidebook.reports.figures.densities import densities
from guidebook.reports.figures.forest import forest
from guidebook.reports.figures.predictive import predictive_check
from guidebook.reports.sections import row_figures as amortized_figures
from tests.reports.conftest import make_amortized, make_comparison

FIGURES: list[Callable[..., Figure | None]] = [
    forest,
    densities,
    objective,
    khat_per_site,
    predictive_check,
]
AMORTIZED: list[Callable[..., Figure | None]] = [
    amortized_figures.reconstructions,
    amortized_figures.worst_data,
    amortized_figures.prior_samples,
    amortized_figures.traversals,
    amortized_figures.latent,
    amortized_figures.khat_per_datum,
]


def artists(axes: Axes) -> int:
    """How much is drawn on axes, every line with at least two finite points or a marker."""
    drawn = len(axes.images) + len(axes.patches) + len(axes.collections)
    for line in axes.lines:
        x, y = (np.asarray(v, dtype=float) for v in (line.get_xdata(), line.get_ydata()))
        assert np.isfinite(x).any()
        assert np.isfinite(y).any()
        drawn += 1
    for collection in axes.collections:
        offsets = np.ma.filled(np.ma.asarray(collection.get_offsets(), dtype=float), np.nan)
        assert offsets.size == 0 or np.isfinite(offsets).any()
    for image in axes.images:
        assert np.isfinite(np.ma.compressed(np.ma.asarray(image.get_array()))).all()
    return drawn


def is_drawn(drawn: Figure | None) -> None:
    assert drawn is not None
    visible = [axes for axes in drawn.axes if axes.get_visible()]
    assert visible
    for axes in visible:
        assert artists(axes) >= 1
        assert np.isfinite([*axes.get_xlim(), *axes.get_ylim()]).all()
    assert png(drawn, 60).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", FIGURES)
def test_a_comparison_is_drawn(
    draw: Callable[..., Figure | None], comparison: SimpleNamespace
) -> None:
    is_drawn(draw(comparison))


@pytest.mark.parametrize("draw", FIGURES)
def test_without_a_reference(draw: Callable[..., Figure | None]) -> None:
    comparison = make_comparison()
    comparison.reference = None
    is_drawn(draw(comparison))
    comparison.verdicts = {}
    is_drawn(draw(comparison))


@pytest.mark.parametrize("draw", AMORTIZED)
@pytest.mark.parametrize(
    ("image_shape", "labels"), [((8, 8), True), ((1, 8, 8), False), (None, True), (None, False)]
)
def test_an_amortised_fit_is_drawn(
    draw: Callable[..., Figure | None], image_shape: tuple[int, ...] | None, labels: bool
) -> None:
    is_drawn(draw(make_amortized(image_shape, labels)))


def test_one_latent_coordinate_and_many_labels() -> None:
    numbers = make_amortized(None)
    numbers.latent_mean, numbers.latent_sd = numbers.latent_mean[:, :1], numbers.latent_sd[:, :1]
    numbers.traversals = numbers.traversals[:1]
    numbers.labels = np.linspace(0, 1, len(numbers.data))
    for draw in AMORTIZED:
        is_drawn(draw(numbers))


def test_images_in_colour() -> None:
    numbers = make_amortized()
    for name in ("data", "reconstruction", "prior_samples", "traversals"):
        setattr(numbers, name, np.repeat(getattr(numbers, name), 3, axis=-1))
    numbers.image_shape = (8, 8, 3)
    is_drawn(amortized_figures.reconstructions(numbers))
    is_drawn(amortized_figures.traversals(numbers))


def test_weighted_moments_and_quantiles_are_those_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    draws, times = rng.normal(size=(50, 3)), rng.integers(1, 6, 50)
    weights = times / times.sum()
    repeated = np.repeat(draws, times, axis=0)
    mean, sd = moments(draws, weights)
    np.testing.assert_allclose(mean, repeated.mean(0), rtol=1e-12)
    # The same up to the correction for the effective number of draws.
    correction = 1 / (1 - np.sum(weights**2))
    np.testing.assert_allclose(sd**2, repeated.var(0) * correction, rtol=1e-12)
    expected = np.quantile(repeated[:, 0], (0.03, 0.5, 0.97), method="inverted_cdf")
    np.testing.assert_array_equal(quantiles(draws[:, 0], (0.03, 0.5, 0.97), weights), expected)


def test_unweighted_moments_are_numpys() -> None:
    draws = np.random.default_rng(0).normal(3, 2, (40, 2500)).astype(np.float32)
    mean, sd = moments(draws)
    np.testing.assert_allclose(mean, draws.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(sd, draws.astype(float).std(0, ddof=1), rtol=1e-12)


def test_the_yardstick_is_the_reference_then_what_is_trusted(comparison: SimpleNamespace) -> None:
    assert yardstick(comparison).name == "NUTS"
    alone = make_comparison()
    alone.reference = None
    del alone.posteriors["NUTS"]
    assert yardstick(alone).name == "full-rank"
    del alone.posteriors["full-rank"], alone.posteriors["flow"]
    measure = yardstick(alone)
    assert (measure.name, measure.weighted) == ("mean-field", True)
    del alone.posteriors["mean-field"]
    assert yardstick(alone).name is None


def test_reweighted_draws_are_shown_only_where_they_are_the_ones_to_use(
    comparison: SimpleNamespace,
) -> None:
    shown = [name for name in comparison.posteriors if shows_weighted(comparison, name)]
    assert shown == ["mean-field"]


def many_parameters() -> SimpleNamespace:
    """Thirty parameters on scales that differ by 1e4; the guide is wrong in b[17] and a."""
    rng = np.random.default_rng(3)
    scale = np.geomspace(1e-2, 1e2, 30)
    comparison = make_comparison()
    good = {"a": rng.normal(size=(1, 500)), "b": rng.normal(size=(1, 500, 30)) * scale}
    bad = {"a": 0.01 * rng.normal(size=(1, 500)) + 40, "b": rng.normal(size=(1, 500, 30)) * scale}
    bad["b"][..., 17] += 9 * scale[17]
    comparison.posteriors = {
        "NUTS": from_dict({"posterior": good}),
        "mean-field": from_dict({"posterior": bad}),
    }
    comparison.weights = {"NUTS": None, "mean-field": np.full(500, 1 / 500)}
    return comparison


def test_the_parameters_in_disagreement_are_shown_and_the_rest_counted() -> None:
    comparison = many_parameters()
    shown, rest = largest_disagreements(comparison, yardstick(comparison), 2)
    assert [component.label for component in shown] == ["a", "b[17]"]
    assert rest == 29
    assert left_out(comparison) == 31 - 12
    for draw in (forest, densities):
        is_drawn(draw(comparison))


def test_the_forest_is_in_reference_standard_deviations() -> None:
    comparison = many_parameters()
    drawn = forest(comparison)
    assert drawn is not None
    means = [
        float(np.asarray(line.get_xdata())[0])
        for axes in drawn.axes
        for line in axes.lines
        if line.get_label() == "mean"
    ]
    reference = np.asarray(comparison.posteriors["NUTS"]["posterior"]["b"])[0, :, 17]
    guide = np.asarray(comparison.posteriors["mean-field"]["posterior"]["b"])[0, :, 17]
    expected = (guide.mean() - reference.mean()) / reference.std(ddof=1)
    assert min(abs(np.array(means) - expected)) < 1e-9
    # What lies outside is marked at the edge, and does not squash the others.
    assert drawn.axes[0].get_xlim() == (-5.0, 5.0)
    assert any(line.get_marker() == ">" for axes in drawn.axes for line in axes.lines)


@pytest.mark.parametrize("kind", ["constant", "integer", "nan", "heavy", "boolean"])
def test_unusual_draws(kind: str) -> None:
    rng = np.random.default_rng(4)
    draws = {
        "constant": np.full((1, 300), 2.0),
        "integer": rng.poisson(2.0, (1, 300)),
        "nan": np.where(rng.random((1, 300)) < 0.1, np.nan, rng.normal(size=(1, 300))),
        "heavy": rng.standard_cauchy((1, 300)) ** 3,
        "boolean": rng.random((1, 300)) < 0.3,
    }[kind]
    comparison = make_comparison()
    tree = from_dict({"posterior": {"x": draws}})
    other = from_dict({"posterior": {"x": rng.normal(size=(1, 300))}})
    comparison.posteriors = {"NUTS": other, "flow": tree, "mean-field": tree}
    comparison.weights = {"NUTS": None, "flow": None, "mean-field": np.full(300, 1 / 300)}
    is_drawn(forest(comparison))
    is_drawn(densities(comparison))
    comparison.reference = "flow"
    is_drawn(forest(comparison))
    is_drawn(densities(comparison))


def test_the_end_of_the_objective_is_not_squashed_by_its_start(
    comparison: SimpleNamespace,
) -> None:
    drawn = objective(comparison)
    assert drawn is not None
    whole, late = drawn.axes
    low, high = late.get_ylim()
    assert high - low < 10  # the start is 900 nats below
    assert whole.get_xscale() == whole.get_yscale() == "log"


def test_histories_that_are_short_broken_or_missing() -> None:
    comparison = make_comparison()
    comparison.histories["flow"] = np.r_[np.linspace(900, 30, 400), np.full(10, np.nan)]
    comparison.histories["full-rank"] = np.full(300, 31.5)
    is_drawn(objective(comparison))
    comparison.histories = {"flow": np.array([]), "NUTS": np.full(5, np.nan)}
    assert objective(comparison) is None


def test_khat_is_drawn_with_its_error(comparison: SimpleNamespace) -> None:
    drawn = khat_per_site(comparison)
    assert drawn is not None
    (axes,) = drawn.axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["all sites jointly", "mu", "tau", "theta_trans"]
    bars = [c for c in axes.containers if hasattr(c, "has_xerr") and c.has_xerr]
    assert len(bars) == 4


def test_khat_missing_everywhere_is_no_figure() -> None:
    comparison = make_comparison()
    comparison.table["khat"] = np.nan
    comparison.khat_sites = {}
    assert khat_per_site(comparison) is None


@pytest.mark.parametrize("kind", ["many", "binary"])
def test_predictive_checks_of_many_data(kind: str) -> None:
    rng = np.random.default_rng(5)
    p = rng.random(120)
    many = {"observed": rng.normal(size=120), "replicated": rng.normal(size=(1, 200, 120))}
    binary = {
        "observed": (rng.random(120) < p).astype(int),
        "replicated": (rng.random((1, 200, 120)) < p).astype(int),
    }
    chosen = {"many": many, "binary": binary}[kind]
    comparison = make_comparison()
    comparison.posteriors["flow"] = from_dict(
        {
            "posterior": {"mu": rng.normal(size=(1, 200))},
            "posterior_predictive": {"y": chosen["replicated"]},
            "observed_data": {"y": chosen["observed"]},
        }
    )
    comparison.posteriors = {"flow": comparison.posteriors["flow"]}
    is_drawn(predictive_check(comparison))


def test_no_predictive_draws_is_no_figure() -> None:
    comparison = make_comparison()
    for tree in comparison.posteriors.values():
        del tree["posterior_predictive"]
    assert predictive_check(comparison) is None


def test_the_reference_is_black_and_colours_are_kept(comparison: SimpleNamespace) -> None:
    palette = colours(comparison)
    assert palette["NUTS"] not in PALETTE
    others = [colour for name, colour in palette.items() if name != "NUTS"]
    assert others == list(PALETTE[: len(others)])
