"""The section of a mixture: its figures, and what label switching means."""

from dataclasses import replace

from guidebook.reports.sections.mixture import labelling, mixture


def test_the_section_has_its_figures_and_words(mixture_comparison, comparison):
    section = mixture(mixture_comparison)
    assert [p.title for p in section.pictures] == [
        "Clusters", "Responsibilities", "The objective against passes over the data"
    ]  # fmt: skip
    assert section.words == labelling(mixture_comparison.mixture)
    assert "log 3!" in section.pictures[2].caption
    assert mixture(comparison) is None


def test_label_switching_is_explained(mixture_comparison):
    numbers = mixture_comparison.mixture
    words = labelling(numbers)
    assert "3! = 6 permutations" in words
    moved = numbers.clusters["gibbs"].moved
    assert f"{100 * moved:.0f} % of the draws of gibbs were relabelled" in words
    assert labelling(replace(numbers, K=1)).startswith("One component")
