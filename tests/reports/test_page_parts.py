"""Sections of a page, alone or added, what is left out of it, and the fragment of a notebook."""

import re
from dataclasses import replace

import numpy as np
import pytest

import guidebook as gb
from guidebook.reports.elements.section import Section, Table
from guidebook.reports.page import fragment, whole_page
from tests.reports.drawn import only, with_table
from tests.reports.reader import Reader


@pytest.mark.usefixtures("unpainted")
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


@pytest.mark.usefixtures("unpainted")
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
