"""The section of amortised fits: a part for each, with its tables and pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.errors import DataError
from guidebook.reports.elements.style import colours
from guidebook.reports.sections.amortized import amortized
from tests.reports.drawn import renamed


def test_every_fit_is_a_part_in_its_colour(amortized_comparison, numbers):
    two = replace(amortized_comparison, amortized={"encoder": numbers})
    section = amortized(two)
    (part,) = section.parts
    assert (part.title, part.colour) == ("encoder", colours(two)["encoder"])
    assert [t.title for t in part.tables] == [
        "From log evidence to ELBO", "Noise of the encoder’s gradient", "The worst rows"
    ]  # fmt: skip
    assert [p.title for p in part.pictures] == [
        "Pareto k-hat of each row", "Amortisation and approximation gap",
        "Use of the latent dimensions", "Reconstructions", "The worst rows",
        "Samples from the prior", "Samples and their nearest training rows",
        "Squared error against structural similarity", "Latent space", "Latent traversals",
    ]  # fmt: skip


def test_global_approximations_have_no_such_section(comparison):
    assert amortized(comparison) is None


def test_the_rows_kept_apart_are_those_that_generation_is_measured_on(amortized_comparison):
    made = amortized_comparison.amortized["encoder"].generation
    assert made is not None and made.held_out and np.isfinite(made.bound.value)
    assert len(made.fresh_distance) == 20
    assert any("On held-out rows" in said for said in amortized_comparison.witnesses["encoder"])


def test_rows_kept_apart_that_the_guide_cannot_read_are_refused():
    x = gb.datasets.digits("train", binary=True)["x"][:10]
    model = gb.models.LinearVAE(64, 2)
    guide = gb.guides.AmortizedNormal(torch.nn.Linear(64, 4), 2)
    fit = gb.svi(model, guide, {"x": x}, steps=4, compile=False, progress=False)
    with pytest.raises(DataError, match="reads 'x', which held_out does not hold: give a dict"):
        gb.compare({"q": fit}, held_out={"y": torch.zeros(3, 64)})
    with pytest.raises(DataError, match="NaN at index"):
        gb.compare({"q": fit}, held_out={"x": torch.full((3, 64), torch.nan)})


def test_names_are_the_users(amortized_comparison):
    assert amortized(renamed(amortized_comparison, {"encoder": "<b>"})).parts[0].title == "<b>"
