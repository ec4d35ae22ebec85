"""The page: whole, self-contained, escaped, small, never half-written; and nothing is computed for it."""

import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import guidebook as gb
from guidebook.errors import FileError
from guidebook.reports.elements.section import Section, Table
from guidebook.reports.page import fragment, to_html, whole_page
from tests.reports.drawn import only, renamed, with_table

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Holds that tags are balanced; collects tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.places: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "srcset", "data")]
        self.links += [str(v) for k, v in attrs if k == "href"]
        self.places += [str(v) for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Whole pages by the name of their comparison, each rendered once."""
    return {}


def page_of(name: str, request: pytest.FixtureRequest) -> str:
    made = request.getfixturevalue("pages")
    if name not in made:
        made[name] = whole_page(request.getfixturevalue(name))
    return made[name]


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures in a few dots, where only the words are looked at."""
    monkeypatch.setattr("guidebook.reports.elements.images.FINE", 20)


@pytest.fixture(scope="module")
def page(comparison: gb.Comparison, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "new" / "directory" / "schools.html"
    command = "guidebook report eight-schools --out 'a & b'"
    written = to_html(comparison, path, title="Eight <i>schools</i>", command=command)
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
        one = whole_page(comparison)
    # the data, which the user gave as tensors, are read
    assert set(counted.operations) <= {"aten.detach.default", "aten.alias.default"}
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert (comparison.mixture, comparison.energy, comparison.structure) == first
    assert page_of(name, request) == one


@pytest.mark.usefixtures("coarse")
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


@pytest.mark.usefixtures("coarse")
def test_sections_of_ones_own_come_before_the_model(comparison: gb.Comparison) -> None:
    def own(found: gb.Comparison) -> Section:
        rows = [[name, f"{len(found.histories[name])}"] for name in found.histories]
        return Section("Steps of each fit", "Counted.", [Table("", ["Fit", "steps"], rows)])

    page = whole_page(comparison, sections=[own, lambda _: None])
    text = Reader(page).text
    assert text.index("Steps of each fit") < text.index("Counted.") < text.index("Distribution")
    assert (
        page.index('id="the-elbo')
        < page.index('id="steps-of-each-fit"')
        < page.index('id="the-model')
    )


def test_a_new_diagnostic_needs_no_edit(comparison: gb.Comparison) -> None:
    """What it adds to the table and to the sentences is on the page as it is."""
    more = comparison.table.assign(ksd=0.123, ksd_se=0.01)
    said = {name: [*words, "KSD: 0.123."] for name, words in comparison.witnesses.items()}
    text = Reader(fragment(replace(comparison, table=more, witnesses=said))).text
    assert "Ksd" in text and "0.12 ± 0.01" in text and "KSD: 0.123." in text


@pytest.mark.usefixtures("coarse")
def test_without_reference_model_and_numbers(comparison: gb.Comparison) -> None:
    bare = replace(
        comparison, reference=None, model=None, data=None, khat_sites={}, witnesses={},
        weights=dict.fromkeys(comparison.weights),
    )  # fmt: skip
    numeric = comparison.table.select_dtypes("number").columns
    bare = with_table(bare, "laplace", **dict.fromkeys(numeric, np.nan))
    text = whole_page(bare)
    assert "without a reference" in text
    assert "No graph of the model: the comparison was made from files" in text
    assert "sigma" in Reader(text).text  # the data come from the files' groups


def test_one_fit_alone(comparison: gb.Comparison) -> None:
    text = fragment(only(comparison, "shifted"))
    assert "1 approximation of the posterior" in text


def test_amortised_fits_alone_have_no_draws(amortized_comparison: gb.Comparison) -> None:
    exact = with_table(amortized_comparison, "encoder", khat=-np.inf, khat_se=0.0)
    assert "−∞" in fragment(exact)


def test_a_reference_that_failed_its_checks_is_warned_of(comparison: gb.Comparison) -> None:
    verdicts = comparison.verdicts | {"truth": comparison.verdicts["narrow"]}
    unsound = with_table(
        replace(comparison, verdicts=verdicts), "truth", reason="Trajectories diverged."
    )
    text = Reader(fragment(unsound)).text
    assert "Warning: the reference truth failed its own checks." in text
    assert "Trajectories diverged." in text


def test_fragment_is_small_and_scoped(comparison: gb.Comparison) -> None:
    text = fragment(comparison)
    reader = Reader(text)
    assert "<html" not in text
    assert "<body" not in text
    assert len(text) < 150_000
    assert "Trust laplace." in reader.text
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    for selectors in re.findall(r"([^{}@]+)\{", re.sub(r"@media[^{]*\{", "", style)):
        assert all(".guidebook" in part for part in selectors.split(",")), selectors


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without figures, where only its writing is looked at."""
    monkeypatch.setattr("guidebook.reports.page.whole_page", lambda *_: "<!DOCTYPE html>")


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_made(comparison: gb.Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"cannot be written to .*report\.html.*Give a file name"):
        to_html(comparison, tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_written(
    comparison: gb.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind the root user, so the refusal is played."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(FileError, match="Permission denied"):
        to_html(comparison, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_page_leaves_the_earlier_one(
    comparison: gb.Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: BaseException,
) -> None:
    target = tmp_path / "report.html"
    target.write_text("earlier")

    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((FileError, KeyboardInterrupt)):
        to_html(comparison, target)
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.usefixtures("quick")
def test_a_page_over_a_directory(comparison: gb.Comparison, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        to_html(comparison, tmp_path / "report.html")
