"""Colours are kept from figure to figure, and matplotlib's settings are the user's again."""

import matplotlib as mpl
from matplotlib import pyplot

import guidebook as gb
from guidebook.reports.elements.style import PALETTE, colours, line_styles
from guidebook.reports.page import fragment
from tests.reports.drawn import renamed


def test_the_reference_is_black_and_colours_are_kept(comparison: gb.Comparison) -> None:
    palette = colours(comparison)
    assert palette["truth"] not in PALETTE
    others = [colour for name, colour in palette.items() if name != "truth"]
    assert others == list(PALETTE[: len(others)])
    again = colours(renamed(comparison, {"laplace": "other"}))
    assert again["other"] == palette["laplace"]
    assert set(line_styles(comparison).values()) == {"-"}


def test_nothing_of_matplotlib_is_left_changed(comparison: gb.Comparison) -> None:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    fragment(comparison)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend() == backend
