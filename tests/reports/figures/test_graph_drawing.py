"""The drawing of a model's graph: every site, plate and arrow is there, and nothing overlaps."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch

from guidebook.diagnostics.structure import Structure, structure_of
from guidebook.reports.figures.graph_drawing import draw_graph


def graph_of(model: object) -> Structure:
    structure = structure_of(model, {})  # type: ignore[arg-type]
    assert structure.reason == ""
    return structure


def nested() -> None:
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    with pyro.plate("group", 5, dim=-2):
        m = pyro.sample("m", dist.Normal(0.0, a))
        with pyro.plate("row", 7, dim=-1):
            pyro.sample("x", dist.Normal(m, 1.0), obs=torch.zeros(5, 7))


def crossed() -> None:
    user, item = pyro.plate("user", 5, dim=-2), pyro.plate("item", 7, dim=-1)
    with user:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with item:
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with user, item:
        pyro.sample("y", dist.Normal(u * v, 1.0), obs=torch.zeros(5, 7))


def vectors() -> None:
    scale = torch.tensor([1.0, 2.0, 3.0])
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), scale).to_event(1))
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    kind = pyro.sample("kind", dist.Bernoulli(logits=torch.tensor(0.5)))
    pyro.sample("y", dist.Normal(beta @ weights, 1.0 + kind), obs=torch.tensor(0.0))


@pytest.mark.parametrize("model", [nested, crossed, vectors])
def test_a_drawing_has_every_site_plate_and_arrow_apart(model: object) -> None:
    graph = graph_of(model)
    drawn = draw_graph(graph)
    assert drawn is not None
    (axes,) = drawn.axes
    ovals = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
    assert len(ovals) == len(graph.sites)
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == sum(len(site.parents) for site in graph.sites)
    boxes = [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(graph.plates)
    for i, one in enumerate(ovals):
        for other in ovals[:i]:
            (x0, y0), (x1, y1) = one.get_center(), other.get_center()
            beside = abs(x0 - x1) >= (one.width + other.width) / 2
            assert beside or abs(y0 - y1) >= (one.height + other.height) / 2
    places = dict(zip((site.name for site in graph.sites), ovals, strict=True))
    for plate, box in zip(graph.plates, boxes, strict=True):
        left, right = box.get_x(), box.get_x() + box.get_width()
        bottom, top = box.get_y(), box.get_y() + box.get_height()
        for name, oval in places.items():
            x, y = oval.get_center()
            assert (left < x < right and bottom < y < top) == (name in plate.members)


def test_arrows_point_downwards() -> None:
    graph = graph_of(nested)
    drawn = draw_graph(graph)
    assert drawn is not None
    ovals = [patch for patch in drawn.axes[0].patches if isinstance(patch, Ellipse)]
    height = {s.name: o.get_center()[1] for s, o in zip(graph.sites, ovals, strict=True)}
    assert all(height[p] > height[site.name] for site in graph.sites for p in site.parents)


def test_too_many_sites_are_not_drawn() -> None:
    def chain() -> None:
        z = torch.tensor(0.0)
        for step in range(70):
            z = pyro.sample(f"z{step}", dist.Normal(z, 1.0))

    assert draw_graph(graph_of(chain)) is None
