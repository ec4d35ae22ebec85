"""The section of every comparison, and what a notebook gets of it."""

from dataclasses import replace

import guidebook as gb
from guidebook.reports.sections.general import general, overview
from tests.reports.drawn import without_reference


def test_the_figures_come_in_their_order(comparison: gb.Comparison) -> None:
    section = general(comparison)
    assert section is not None
    assert [p.title for p in section.pictures] == [
        "Posterior intervals against the reference", "Marginal densities",
        "Convergence of the objective", "Pareto k-hat, jointly and by site",
        "Posterior predictive check",
    ]  # fmt: skip
    assert section.pictures[0].caption.startswith("Grey bands: truth.")


def test_a_notebook_gets_the_intervals(comparison: gb.Comparison) -> None:
    section = overview(without_reference(comparison))
    assert section is not None
    assert [p.title for p in section.pictures] == ["Posterior intervals"]


def test_without_draws_there_is_nothing_to_draw(comparison: gb.Comparison) -> None:
    nothing = replace(comparison, posteriors={}, histories={}, khat_sites={}, reference=None)
    table = nothing.table.assign(khat=float("nan"))
    assert general(replace(nothing, table=table)) is None
    assert overview(nothing) is None
