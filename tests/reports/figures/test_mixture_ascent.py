"""What every engine climbs, against log p(x) and what one labelling can reach."""

import math
from dataclasses import replace

import numpy as np

from guidebook.reports.figures.mixture_ascent import ascent


def test_the_lines_are_the_objectives_below_the_evidence(mixture_comparison):
    numbers = mixture_comparison.mixture
    drawn = ascent(mixture_comparison, numbers)
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert labels == ["cavi: cavi, ELBO", "em: em, log p(x, θ)"]
    cavi, _, evidence, one_labelling = drawn.axes[0].lines
    np.testing.assert_array_equal(cavi.get_ydata(), numbers.ascents["cavi"].objective)
    assert evidence.get_ydata()[0] == numbers.log_evidence
    assert one_labelling.get_ydata()[0] == numbers.log_evidence - math.log(6)


def test_samplers_alone_have_no_objective(mixture_comparison):
    assert ascent(mixture_comparison, replace(mixture_comparison.mixture, ascents={})) is None
