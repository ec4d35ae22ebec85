"""Rows kept apart: what the page says of generation is then said of them."""

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.errors import DataError
from guidebook.guides import AmortizedNormal
from guidebook.models import VAE
from guidebook.models.decoders.networks import mlp


@pytest.fixture(scope="module")
def fit() -> gb.Fit:
    x = gb.datasets.digits("train", binary=True)["x"][:30]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide = VAE(64, 2, (8,)), AmortizedNormal(mlp((64, 8, 4)), 2)
    return gb.svi(model, guide, {"x": x}, steps=50, compile="graph", progress=False)


def test_the_generation_is_that_of_the_rows_kept_apart(fit) -> None:
    kept = gb.datasets.digits("test", binary=True)["x"][:20]
    found = gb.compare({"q": fit}, held_out={"x": kept})
    made = found.amortized["q"].generation
    assert made is not None and made.held_out and np.isfinite(made.bound.value)
    assert len(made.fresh_distance) == 20
    assert any("On held-out rows" in said for said in found.witnesses["q"])


def test_rows_that_the_guide_cannot_read_are_refused(fit) -> None:
    with pytest.raises(DataError, match="reads 'x', which held_out does not hold: give a dict"):
        gb.compare({"q": fit}, held_out={"y": torch.zeros(3, 64)})
    with pytest.raises(DataError, match="NaN at index"):
        gb.compare({"q": fit}, held_out={"x": torch.full((3, 64), torch.nan)})
