"""The page: whole, self-contained, escaped, small, and never half-written."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from guidebook.errors import FileError
from guidebook.reports.page import fragment, to_html
from guidebook.reports.sections import general as gallery
from tests.reports.conftest import make_amortized, make_comparison

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Holds that tags are balanced; collects tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data")]
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
def page(comparison: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "new" / "directory" / "schools.html"
    command = "guidebook report eight-schools --out 'a & b'"
    written = to_html(comparison, path, title="Eight <i>schools</i>", command=command)
    assert written == path
    assert [file.name for file in path.parent.iterdir()] == ["schools.html"]
    return path.read_text(encoding="utf-8")


def test_page_is_balanced_and_says_the_verdict_first(
    page: str, comparison: SimpleNamespace
) -> None:
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    text = reader.text
    assert "Trust full-rank and flow." in text
    assert "Use mean-field with importance weights only." in text
    assert "Reject centered mean-field." in text
    for name, row in comparison.table.iterrows():
        assert str(name) in text
        assert row["reason"] in text
        assert row["next"] in text
    for sentences in comparison.witnesses.values():
        assert all(sentence in text for sentence in sentences)
    order = ["Trust full-rank", "The numbers", "The approximations", "The model", "The data"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert "guidebook report eight-schools --out 'a & b'" in text
    assert "full-rank 0" in text  # the seeds
    assert "torch" in text
    assert "HalfCauchy(scale = 5)" in text  # the priors
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


def test_title_is_escaped(page: str) -> None:
    assert "<i>" not in page
    assert "Eight &lt;i&gt;schools&lt;/i&gt;" in page


def test_everything_a_user_names_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & $\\frac$"
    comparison = make_comparison({"flow": evil, "NUTS": '"><img src=x onerror=y>'})
    comparison.table.loc["mean-field", "reason"] = "<script>reason</script>"
    comparison.table.loc["mean-field", "next"] = "</p><script>next</script>"
    comparison.witnesses["mean-field"] = ["<b>witness</b>"]
    comparison.data = comparison.data | {"<script>data</script>": "<script>value</script>"}
    comparison.amortized = {evil: make_amortized()}
    text = to_html(comparison, tmp_path / "a.html", command="<script>").read_text("utf-8")
    for whole in (text, fragment(comparison)):
        reader = Reader(whole)
        assert "script" not in reader.tags
        assert "b" not in reader.tags or "<b>witness" not in whole
        assert all(address.startswith("data:") for address in reader.addresses)
        assert evil in reader.text


@pytest.mark.parametrize("image_shape", [(8, 8), None])
def test_amortised_page(tmp_path: Path, image_shape: tuple[int, ...] | None) -> None:
    comparison = make_comparison()
    comparison.amortized = {"flow": make_amortized(image_shape, labels=image_shape is not None)}
    text = to_html(comparison, tmp_path / "a.html").read_text("utf-8")
    reader = Reader(text)
    for title in ("Reconstructions", "The worst data", "Samples from the prior", "Traversals"):
        assert title in reader.text
    assert len(reader.addresses) == 12
    assert len(text.encode()) < 800_000


def test_many_figures_are_drawn_coarser_to_stay_small(
    comparison: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = gallery.general(comparison, True)
    (fine,) = gallery.encoded([section])
    size = sum(len(image.source) for image in fine)
    monkeypatch.setattr(gallery, "_MOST_BYTES", size // 2)
    (coarse,) = gallery.encoded([section])
    assert sum(len(image.source) for image in coarse) < 0.7 * size
    assert [image.width for image in coarse] == [image.width for image in fine]


def test_without_reference_model_and_numbers(tmp_path: Path) -> None:
    comparison = make_comparison()
    comparison.reference = comparison.model = comparison.data = None
    comparison.table.loc["flow", comparison.table.columns[3:-1]] = np.nan
    comparison.weights = dict.fromkeys(comparison.weights)
    comparison.khat_sites = {}
    comparison.witnesses = {}
    text = to_html(comparison, tmp_path / "a.html").read_text("utf-8")
    assert "without a reference" in text
    assert "No drawing of the model: the comparison was made from files" in text
    assert "sigma" in Reader(text).text  # the data come from the files' groups


def test_one_fit_alone(tmp_path: Path) -> None:
    comparison = make_comparison()
    for field in ("verdicts", "posteriors", "weights", "histories", "khat_sites", "witnesses"):
        values = getattr(comparison, field)
        setattr(comparison, field, {k: v for k, v in values.items() if k == "mean-field"})
    comparison.table = comparison.table.loc[["mean-field"]]
    comparison.reference = None
    text = to_html(comparison, tmp_path / "a.html").read_text("utf-8")
    assert "1 approximation of the posterior" in text


def test_amortised_fits_alone_have_no_draws(tmp_path: Path) -> None:
    comparison = make_comparison()
    comparison.amortized = {name: make_amortized() for name in ("mean-field", "flow")}
    comparison.posteriors, comparison.weights, comparison.reference = {}, {}, None
    comparison.histories = {name: comparison.histories[name] for name in comparison.amortized}
    comparison.table = comparison.table.loc[["mean-field", "flow"]]
    comparison.table.loc["flow", ["khat", "khat_se"]] = -np.inf, 0.0
    comparison.amortized["flow"].khat[:] = -np.inf  # the exact posterior
    text = to_html(comparison, tmp_path / "a.html").read_text("utf-8")
    assert "Datum by datum" in text
    assert "−∞" in text
    fragment(comparison)


def test_a_reference_that_is_not_sound_is_said(tmp_path: Path) -> None:
    comparison = make_comparison()
    comparison.verdicts["NUTS"] = comparison.verdicts["centered mean-field"]
    comparison.table.loc["NUTS", "reason"] = "Trajectories diverged."
    text = Reader(to_html(comparison, tmp_path / "a.html").read_text("utf-8")).text
    assert "Mind: the reference NUTS is not sound itself." in text
    assert "Trajectories diverged." in text


def test_fragment_is_small_and_scoped(comparison: SimpleNamespace) -> None:
    text = fragment(comparison)
    reader = Reader(text)
    assert "<html" not in text
    assert "<body" not in text
    assert len(text) < 150_000
    assert "Trust full-rank and flow." in reader.text
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    for selectors in re.findall(r"([^{}@]+)\{", re.sub(r"@media[^{]*\{", "", style)):
        assert all(".guidebook" in part for part in selectors.split(",")), selectors


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without figures, where only its writing is looked at."""
    monkeypatch.setattr("guidebook.reports.page._render", lambda *_, **__: "<!DOCTYPE html>")


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_made(comparison: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"cannot be written to .*report\.html.*Give a file name"):
        to_html(comparison, tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("quick")
def test_a_directory_that_cannot_be_written(
    comparison: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    comparison: SimpleNamespace,
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
def test_a_page_over_a_directory(comparison: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(FileError, match="cannot be written"):
        to_html(comparison, tmp_path / "report.html")


def test_nothing_of_matplotlib_is_left_changed(comparison: SimpleNamespace) -> None:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    fragment(comparison)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend() == backend
