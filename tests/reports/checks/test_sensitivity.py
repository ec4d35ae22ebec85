"""The section of sensitivity: its words follow from the two numbers of every parameter."""

import numpy as np

from guidebook.diagnostics.measures.sensitivity import Sensitivity
from guidebook.reports.checks.sensitivity import powers, sensitivity, sentences
from tests.reports.drawn import is_drawn


def test_usable_fits_are_shown(comparison, amortized_comparison):
    section = sensitivity(comparison)
    assert set(comparison.sensitivity) == {"laplace"}
    assert all(
        words in section.words for words in sentences("laplace", comparison.sensitivity["laplace"])
    )
    is_drawn(section.pictures[0].figure)
    assert sensitivity(amortized_comparison) is None


def test_what_is_said_of_each_kind():
    names = ("a", "b", "c")
    found = Sensitivity(names, np.array([0.2, 0.1, 0.01]), np.array([0.3, 0.01, 0.2]))
    both, alone = sentences("q", found)
    assert both.startswith("q: a depend on both") and alone.startswith(
        "q: b depend on the prior and"
    )
    none = Sensitivity(names, np.zeros(3), np.ones(3))
    assert sentences("q", none) == ["q: no parameter is sensitive to the prior."]


def test_of_many_parameters_the_most_sensitive_are_drawn(comparison):
    names = tuple(f"b[{i}]" for i in range(40))
    found = Sensitivity(names, np.linspace(0.001, 0.4, 40), np.full(40, 0.2))
    drawn = powers(comparison, {"laplace": found})
    is_drawn(drawn)
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert labels == list(names[28:])
    assert "and 29 more" in sentences("q", found)[0]
