"""A model's graph drawn in layers, from top to bottom, without the graphviz binary."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch

from guidebook.diagnostics.structure import Plate, Site, Structure
from guidebook.reports.elements.style import GREY, INK, WIDTH, shorten, styled

#: Inches between layers, between neighbours, and from a site to the box of its plate.
_ROW, _GAP, _PAD = 1.0, 0.35, 0.22
_MOST_NODES = 60


@styled
def draw_graph(graph: Structure) -> Figure | None:
    """The graph from top to bottom: observed sites grey, deterministic ones dashed, plates as
    boxes.
    """
    if len(graph.sites) > _MOST_NODES:
        return None
    layers = _layers(graph)
    widths = {
        site.name: max(1.0, 0.098 * len(shorten(site.name, 22)) + 0.42) for site in graph.sites
    }
    places = _places(graph, layers, widths)
    boxes = [_box(plate, graph, places, widths) for plate in graph.plates]
    xs = [x + s * widths[n] / 2 for n, (x, _) in places.items() for s in (-1, 1)]
    ys = [y for _, y in places.values()]
    left = min([*xs, *(box[0] for box in boxes)]) - 0.15
    right = max([*xs, *(box[2] for box in boxes)]) + 0.15
    bottom = min([min(ys) - 0.35, *(box[1] for box in boxes)]) - 0.1
    top = max([max(ys) + 0.35, *(box[3] for box in boxes)]) + 0.1
    shrink = min(1.0, WIDTH / (right - left))
    drawn = Figure(figsize=((right - left) * shrink, (top - bottom) * shrink))
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    for plate, box in zip(graph.plates, boxes, strict=True):
        _draw_plate(axes, plate, box, shrink)
    ovals = {site.name: _draw_site(axes, site, places, widths, shrink) for site in graph.sites}
    for site in graph.sites:
        for parent in site.parents:
            if parent in ovals:
                _draw_arrow(axes, parent, site.name, places, ovals)
    return drawn


def _layers(graph: Structure) -> dict[str, int]:
    """The longest path from a root: every arrow points downwards."""
    layers: dict[str, int] = {}
    for site in graph.sites:  # parents come before their children
        layers[site.name] = 1 + max((layers[p] for p in site.parents if p in layers), default=-1)
    for site in reversed(
        graph.sites
    ):  # a root with late children stands just above the first of them
        below = [layers[child.name] for child in graph.sites if site.name in child.parents]
        if below and not any(parent in layers for parent in site.parents):
            layers[site.name] = min(below) - 1
    return layers


def _places(
    graph: Structure, layers: dict[str, int], widths: dict[str, float]
) -> dict[str, tuple[float, float]]:
    """Centre of every site: blocks (a plate with what is in it, or a lone site) beside each other.

    A block takes the free place nearest to its parents in all the layers it spans, so no box of a
    plate covers a site that is not in it.
    """
    depth = _heights(graph, layers)
    blocks = _blocks(graph)
    x: dict[str, float] = {}
    taken: list[tuple[int, int, float, float]] = []
    blocks.sort(key=lambda block: (min(layers[name] for name in block), -len(block)))
    for block in blocks:
        local, width = _inside(block, graph, layers, widths)
        low, high = min(layers[n] for n in block), max(layers[n] for n in block)
        parents = [x[p] for s in graph.sites if s.name in block for p in s.parents if p in x]
        wish = float(np.mean(parents)) if parents else 0.0
        busy = [(a, b) for first, last, a, b in taken if first <= high and last >= low]
        centre = _nearest_free(wish, width, busy)
        taken.append((low, high, centre - width / 2, centre + width / 2))
        x |= {name: centre + offset for name, offset in local.items()}
    x = _centre_lone(graph, layers, widths, x, blocks, taken)
    return {name: (x[name], depth[layers[name]]) for name in x}


def _heights(graph: Structure, layers: dict[str, int]) -> dict[int, float]:
    """The height of every layer; a layer in which a plate begins or ends stands off for its box."""
    heights: dict[int, float] = {}
    y = 0.0
    for layer in range(max(layers.values()) + 1):
        starts = sum(1 for p in graph.plates if min(layers[m] for m in p.members) == layer)
        ends = sum(1 for p in graph.plates if max(layers[m] for m in p.members) == layer - 1)
        if layer:
            y -= _ROW + 0.16 * min(2, starts) + 0.34 * min(3, ends)
        heights[layer] = y
    return heights


def _blocks(graph: Structure) -> list[list[str]]:
    """The sites of every outermost plate, and every other site by itself."""
    owner = {site.name: site.name for site in graph.sites}
    for plate in graph.plates:
        roots = {owner[m] for m in plate.members}
        one = owner[plate.members[0]]
        owner = {name: one if root in roots else root for name, root in owner.items()}
    groups: dict[str, list[str]] = {}
    for site in graph.sites:
        groups.setdefault(owner[site.name], []).append(site.name)
    return list(groups.values())


def _inside(
    block: list[str], graph: Structure, layers: dict[str, int], widths: dict[str, float]
) -> tuple[dict[str, float], float]:
    """Offsets of a block's sites from its centre, and its width with the boxes around it.

    Sites in the same set of plates get a strip of the width to themselves, so inner boxes stay
    apart.
    """
    if len(block) == 1 and not any(block[0] in plate.members for plate in graph.plates):
        return {block[0]: 0.0}, widths[block[0]] + _GAP
    chains: dict[tuple[int, ...], list[str]] = {}
    for name in block:
        key = tuple(i for i, plate in enumerate(graph.plates) if name in plate.members)
        chains.setdefault(key, []).append(name)
    offsets: dict[str, float] = {}
    left = 0.0
    for key in sorted(chains):
        rows: dict[int, list[str]] = {}
        for name in chains[key]:
            rows.setdefault(layers[name], []).append(name)
        strip = max(sum(widths[n] + _GAP for n in row) for row in rows.values()) + 2 * _PAD * max(
            0, len(key) - 1
        )
        for row in rows.values():
            at = left + (strip - sum(widths[n] + _GAP for n in row)) / 2
            for name in row:
                offsets[name] = at + (widths[name] + _GAP) / 2
                at += widths[name] + _GAP
        left += strip
    deepest = max(len(key) for key in chains)
    return {n: offset - left / 2 for n, offset in offsets.items()}, left + 2 * _PAD * deepest + _GAP


def _nearest_free(wish: float, width: float, busy: list[tuple[float, float]]) -> float:
    """The centre nearest to `wish` of an interval of `width` that overlaps none of `busy`."""
    edges = [wish] + [b + width / 2 for _, b in busy] + [a - width / 2 for a, _ in busy]
    free = [
        c
        for c in edges
        if all(c + width / 2 <= a + 1e-9 or c - width / 2 >= b - 1e-9 for a, b in busy)
    ]
    return min(free, key=lambda c: (abs(c - wish), -c))


def _centre_lone(
    graph: Structure,
    layers: dict[str, int],
    widths: dict[str, float],
    x: dict[str, float],
    blocks: list[list[str]],
    taken: list[tuple[int, int, float, float]],
) -> dict[str, float]:
    """Moves the lone sites of a layer together to the middle of their relatives, if it is free."""
    lone = [
        b[0] for b in blocks if len(b) == 1 and not any(b[0] in p.members for p in graph.plates)
    ]
    for layer in set(layers.values()):
        row = [n for n in lone if layers[n] == layer]
        others = [b for b in blocks if not set(b) <= set(row)]
        if not row or any(
            min(layers[n] for n in b) <= layer <= max(layers[n] for n in b) for b in others
        ):
            continue
        children = [x[s.name] for s in graph.sites if set(s.parents) & set(row)]
        parents = [x[p] for s in graph.sites if s.name in row for p in s.parents if p in x]
        anchor = parents or children
        if anchor:
            shift = float(np.mean(anchor)) - float(np.mean([x[n] for n in row]))
            x = {n: v + shift if n in row else v for n, v in x.items()}
    return x


def _box(
    plate: Plate,
    graph: Structure,
    places: dict[str, tuple[float, float]],
    widths: dict[str, float],
) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a plate: around its sites and the plates inside it."""
    inside = sum(
        1
        for other in graph.plates
        if set(other.members) < set(plate.members)
        or (
            set(other.members) == set(plate.members)
            and graph.plates.index(other) > graph.plates.index(plate)
        )
    )
    pad = _PAD * (1 + min(inside, 2))
    xs = [places[m][0] + s * widths[m] / 2 for m in plate.members for s in (-1, 1)]
    ys = [places[m][1] for m in plate.members]
    return (
        min(xs) - pad,
        min(ys) - 0.26 - pad - 0.22 * (1 + min(inside, 2)),
        max(xs) + pad,
        max(ys) + 0.26 + pad,
    )


def _draw_plate(
    axes: Axes, plate: Plate, box: tuple[float, float, float, float], shrink: float
) -> None:
    left, bottom, right, top = box
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.1, bottom + 0.1),
            right - left - 0.2,
            top - bottom - 0.2,
            fc="none",
            ec=GREY,
            lw=1.1,
            boxstyle="round,pad=0.1,rounding_size=0.14",
        )
    )
    words = f"{shorten(plate.name, 20)}: {plate.size:,}" if plate.size else shorten(plate.name, 20)
    axes.text(
        right - 0.1,
        bottom + 0.07,
        words,
        ha="right",
        va="bottom",
        fontsize=8.5 * shrink,
        color="#5b616b",
    )


def _draw_site(
    axes: Axes,
    site: Site,
    places: dict[str, tuple[float, float]],
    widths: dict[str, float],
    shrink: float,
) -> Ellipse:
    x, y = places[site.name]
    fill = {"likelihood": "#cfd4da", "deterministic": "white"}.get(site.kind, "#eef4fb")
    oval = Ellipse(
        (x, y),
        widths[site.name],
        0.56,
        fc=fill,
        ec=INK,
        lw=1.1,
        zorder=3,
        ls="--" if site.kind == "deterministic" else "-",
    )
    axes.add_patch(oval)
    axes.text(
        x,
        y,
        shorten(site.name, 22),
        ha="center",
        va="center",
        fontsize=10 * shrink,
        zorder=4,
        color=INK,
    )
    return oval


def _draw_arrow(
    axes: Axes,
    parent: str,
    child: str,
    places: dict[str, tuple[float, float]],
    ovals: dict[str, Ellipse],
) -> None:
    """An arrow from rim to rim; bent where another site stands on the straight way."""
    (x0, y0), (x1, y1) = places[parent], places[child]
    blocked = any(
        name not in (parent, child) and _on_the_way((x0, y0), (x1, y1), place, ovals[name].width)
        for name, place in places.items()
    )
    bend = (0.28 if x1 >= x0 else -0.28) if blocked else 0.0
    axes.add_patch(
        FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            patchA=ovals[parent],
            patchB=ovals[child],
            arrowstyle="-|>",
            mutation_scale=11,
            lw=1.1,
            color=INK,
            zorder=2,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def _on_the_way(
    start: tuple[float, float], end: tuple[float, float], place: tuple[float, float], width: float
) -> bool:
    """Whether the straight line from `start` to `end` crosses the oval at `place`."""
    (x0, y0), (x1, y1), (x, y) = start, end, place
    if not min(y0, y1) + 1e-6 < y < max(y0, y1) - 1e-6:
        return False
    return math.fabs(x0 + (x1 - x0) * (y - y0) / (y1 - y0) - x) < width / 2 + 0.05
