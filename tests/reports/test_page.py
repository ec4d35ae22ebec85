"""The page: whole, self-contained, escaped, small; and nothing is computed for it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import guidebook as gb
from guidebook.reports.elements.section import Section, Table
from guidebook.reports.page import fragment, to_html, whole_page
from tests.reports.drawn import renamed, with_table
from tests.reports.reader import Reader

WORDS = {"title": "Eight <i>schools</i>", "command": "guidebook report eight-schools --out 'a & b'"}
"""What a user may say of the page of `comparison`."""


@pytest.fixture(scope="module")
def pages(page: str) -> dict[str, str]:
    """Whole pages by the name of their comparison, each rendered once."""
    return {"comparison": page}


def page_of(name: str, request: pytest.FixtureRequest) -> str:
    made = request.getfixturevalue("pages")
    if name not in made:
        made[name] = whole_page(request.getfixturevalue(name))
    return made[name]


@pytest.fixture(scope="module")
def page(comparison: gb.Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "new" / "directory" / "schools.html"
    written = to_html(comparison, path, **WORDS)
    assert written == path
    assert [file.name for file in path.parent.iterdir()] == ["schools.html"]
    return path.read_text(encoding="utf-8")


def test_page_is_balanced_and_says_the_verdict_first(page: str, comparison: gb.Comparison) -> None:
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    text = reader.text
    assert "Trust laplace." in text
    assert "Use shifted with importance weights only." in text
    assert "Reject narrow." in text
    for name, row in comparison.table.drop("truth").iterrows():
        assert row["reason"] in text
        assert row["next"] in text
        assert all(said in text for said in comparison.witnesses[name])
    headings = ["Trust laplace", "Verdict", "Marginal densities", "Distribution", "Values"]
    assert [text.index(words) for words in headings] == sorted(text.index(w) for w in headings)
    assert "guidebook report eight-schools --out 'a & b'" in text
    assert "truth 0" in text  # the seeds
    assert "torch" in text
    assert "nan" not in text.lower().split()


def test_page_is_self_contained_and_small(page: str) -> None:
    reader = Reader(page)
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert len(page.encode()) < 500_000


def test_every_heading_is_linked_from_the_top(page: str) -> None:
    reader = Reader(page)
    assert reader.links == [f"#{place}" for place in reader.places]
    assert reader.places[:2] == ["the-numbers", "the-approximations"]
    assert len(set(reader.places)) == len(reader.places) == 8


def test_title_is_escaped(page: str) -> None:
    assert "<i>" not in page
    assert "Eight &lt;i&gt;schools&lt;/i&gt;" in page


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("amortized_comparison", ("Row by row", "Reconstructions", "Latent traversals")),
        (
            "mixture_comparison",
            ("The mixture", "Clusters", "3! = 6", "The ELBO in its three forms"),
        ),
        ("memory_comparison", ("The Boltzmann machine", "Recall of stored patterns")),
        ("machine_comparison", ("The Boltzmann machine", "Data and samples")),
    ],
)
def test_each_kind_of_model_has_its_section(
    name: str, titles: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    text = page_of(name, request)
    read = Reader(text).text
    for title in titles:
        assert title in read, title
    assert len(text.encode()) < 1_000_000


class Counted(TorchDispatchMode):
    """Counts the tensor operations inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name",
    ["comparison", "amortized_comparison", "mixture_comparison", "memory_comparison"],
)
def test_rendering_computes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """Once the numbers are there, a page runs no tensor operation, draws nothing, and is the same."""
    comparison = request.getfixturevalue(name)
    first = (comparison.mixture, comparison.energy, comparison.structure)
    state = np.random.get_state()[1].copy()
    with Counted() as counted:
        one = whole_page(comparison, **(WORDS if name == "comparison" else {}))
    # the data, which the user gave as tensors, are read
    assert set(counted.operations) <= {"aten.detach.default", "aten.alias.default"}
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert (comparison.mixture, comparison.energy, comparison.structure) == first
    assert page_of(name, request) == one


@pytest.mark.usefixtures("unpainted")
def test_everything_a_user_names_is_escaped(
    comparison: gb.Comparison, amortized_comparison: gb.Comparison
) -> None:
    evil = "<script>alert('x')</script> & $\\frac$"
    named = renamed(comparison, {"laplace": evil, "truth": '"><img src=x onerror=y>'})
    named = with_table(
        named, "shifted", reason="<script>reason</script>", next="</p><script>next</script>"
    )
    named = replace(
        named,
        witnesses=named.witnesses | {"shifted": ["<b>witness</b>"]},
        data={**named.data, "<script>data</script>": "<script>value</script>"},
        amortized={evil: amortized_comparison.amortized["encoder"]},
    )
    own = Section("<script>", "<script>", [Table("<script>", ["<script>"], [["<script>"]])])
    text = whole_page(named, command="<script>", sections=[lambda _: own])
    for whole in (text, fragment(named)):
        reader = Reader(whole)
        assert "script" not in reader.tags
        assert "<b>witness" not in whole
        assert all(address.startswith("data:") for address in reader.addresses)
        assert evil in reader.text
