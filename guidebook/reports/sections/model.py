"""What was approximated: the model's graph, and its sites with their distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidebook.reports.elements.section import Section, Table, drawn
from guidebook.reports.figures.graph_drawing import draw_graph

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared


def model(comparison: Compared) -> Section:
    """The model's graph, and a table of its sites with their distributions."""
    found = comparison.structure
    if not found.sites:
        return Section("The model", f"No graph of the model: {found.reason}.")
    graph = draw_graph(found)
    words = (
        ""
        if graph is not None
        else f"No graph of the model: its {len(found.sites)} sites are too many for a drawing."
    )
    rows = [
        [
            site.name,
            site.kind,
            site.distribution,
            ", ".join(site.parents) or "–",
            ", ".join(site.plates) or "–",
            " × ".join(map(str, site.shape)) or "scalar",
        ]
        for site in found.sites
    ]
    headings = ["Site", "Role", "Distribution", "Depends on", "Plates", "Shape"]
    caption = "Grey: observed sites; dashed: deterministic sites; boxes: plates."
    return Section(
        "The model", words, [Table("", headings, rows, numeric=False)], drawn("", caption, graph)
    )
