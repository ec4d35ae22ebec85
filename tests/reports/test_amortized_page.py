"""The amortised part of the page: ledger and worst rows as tables, gaps, KL, neighbours, warning."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.guides import AmortizedNormal
from guidebook.models import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.reports.sections import gap_figures


@pytest.fixture(scope="module")
def comparison():
    data = {"x": gb.datasets.digits("train", binary=True)["x"][:60]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(64, 3, (16,))
        guide = AmortizedNormal(mlp((64, 16, 6)), 3)
    fit = gb.svi(model, guide, data, steps=300, compile="graph", progress=False)
    return gb.compare({"encoder": fit})


@pytest.fixture(scope="module")
def numbers(comparison) -> AmortizedNumbers:
    return comparison.amortized["encoder"]


def test_the_page_has_every_part(comparison, tmp_path) -> None:
    page = comparison.to_html(tmp_path / "page.html").read_text()
    for title in (
        "Gap ledger", "The worst rows", "Where the bound leaks", "Is the latent used?",
        "Samples and their nearest training rows", "Mind squared error",
    ):  # fmt: skip
        assert title in page, title
    assert "60 rows of the data" in page
    assert "upper is a bound only if" in page
    assert len(page.encode()) < 1_000_000


def test_the_ledger_adds_up_as_printed(numbers) -> None:
    table = next(t for t in gap_figures.tables(numbers) if t.title == "Gap ledger")
    value = {}
    for words, row, total in table.rows:
        read = [float(t.replace("−", "-").replace(",", "").split(" ±")[0]) for t in (row, total)]
        value[words.split(":")[0].split(",")[0]] = read[0]
        assert read[1] == pytest.approx(60 * read[0], rel=0.02, abs=3.0)
    left = value["log evidence"]
    for gap, end in (
        ("− approximation gap", "= ELBO of the best q of each row"),
        ("− amortisation gap", "= ELBO of the encoder"),
    ):
        left -= value[gap]
        assert left == pytest.approx(value[end], abs=0.05)


def test_the_worst_rows_are_named_with_their_errors(numbers) -> None:
    table = next(t for t in gap_figures.tables(numbers) if t.title == "The worst rows")
    assert len(table.rows) == len(numbers.worst)
    first = table.rows[0]
    i = int(numbers.worst[0])
    assert first[0] == f"#{numbers.index[i]}"
    assert re.fullmatch(r"−?\d+\.\d\d ± \d+\.\d\d", first[1])
    gap = numbers.bound[i] - numbers.elbo[i]
    assert float(first[4].replace("−", "-")) == pytest.approx(gap, abs=0.006)
    labelled = replace(numbers, labels=np.full(60, 7))
    assert gap_figures.tables(labelled)[-1].rows[0][0].endswith("(7)")


def test_figures_draw_what_there_is_and_nothing_else(numbers) -> None:
    for draw in (
        gap_figures.gap_bars, gap_figures.kl_bars, gap_figures.nearest_neighbours,
        gap_figures.two_distances,
    ):  # fmt: skip
        assert draw(numbers) is not None
    bare = replace(numbers, ledger=None, collapse=None, generation=None, warned=None, gradients={})
    for draw in (
        gap_figures.gap_bars, gap_figures.kl_bars, gap_figures.nearest_neighbours,
        gap_figures.two_distances,
    ):  # fmt: skip
        assert draw(bare) is None
    assert [t.title for t in gap_figures.tables(bare)] == ["The worst rows"]
    # data that are no images: distances as a histogram
    assert gap_figures.nearest_neighbours(replace(numbers, image_shape=None)) is not None


def test_the_bars_are_the_numbers(numbers) -> None:
    left = gap_figures.kl_bars(numbers).axes[0]
    heights = sorted(bar.get_height() for bar in left.patches)
    np.testing.assert_allclose(heights, np.sort(numbers.collapse.kl))
    gaps = gap_figures.gap_bars(numbers).axes[0]
    widths = [bar.get_width() for bar in gaps.patches]
    terms = numbers.ledger.terms()
    assert widths == [terms["amortisation"].value, terms["approximation"].value]


def test_captions_carry_the_numbers(numbers) -> None:
    share = f"{numbers.warned.disagree.mean():.0%}"
    assert share in gap_figures.warning_caption(numbers)
    assert f"{numbers.generation.ratio:.2f} times" in gap_figures.neighbour_caption(numbers)
