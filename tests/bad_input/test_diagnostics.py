"""Bad input to diagnostics: draws that cannot be compared; degenerate images, which are never trusted."""

from collections.abc import Callable

import numpy as np
import pytest

import guidebook as gb
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.errors import DataError, NameNotFound
from tests.bad_input.conftest import Bad
from tests.bad_input.given import X, shelf_fit, tree

ERRORS: dict[str, Bad] = {
    "nothing to compare": (lambda: gb.compare({}), DataError, "at least one"),
    "no draws to compare": (
        lambda: gb.compare({"a": 3}), DataError, "'a' is neither a Fit nor a DataTree",
    ),
    "unknown reference": (
        lambda: gb.compare({"mean-field": 3}, reference="mean-feld"), NameNotFound, "mean-field",
    ),
    "other parameters": (
        lambda: gb.compare({"a": tree(x=2), "b": tree(z=2)}), DataError,
        "share no parameter", "'x'.*'z'",
    ),
    "other shapes": (
        lambda: gb.compare({"a": tree(x=2), "b": tree(x=3)}), DataError, r"'x' has shape \(3,\) in 'b'",
    ),
    "draws that are not finite": (
        lambda: gb.compare({"a": tree(x=2, value=np.nan)}), DataError,
        "draws of 'x' are not all finite",
    ),
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


def test_draws_without_densities_are_compared_and_the_missing_named() -> None:
    found = gb.compare({"a": tree(x=2)}, reference=tree(x=2))
    said = " ".join(found.witnesses["a"])
    assert "no lp" in said and "no log_q" in said and "gradients" in said
    assert np.isfinite(found.table.loc["a", "mean_error"])


DEGENERATE = {
    "a data set of one row": X[:1],
    "black images": 0 * X[:5],
    "one image many times": X[:1].expand(5, X.shape[1]),
}


@pytest.mark.parametrize("pair", ["autoencoder", "vae", "gaussian, one scale", "gumbel-softmax"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_images_are_never_trusted_as_they_are(pair: str, case: str) -> None:
    """Stated behaviour: a verdict; trust of a latent that says nothing is not given without the
    word that it collapsed, nor trust of a fit that still moves.
    """
    fit = shelf_fit(pair, DEGENERATE[case])
    found = gb.compare({"q": fit})
    if found.verdicts["q"] is Verdict.TRUST:
        assert fit.status.good
        assert "ollapsed" in found.table.loc["q", "reason"]
    assert found.amortized["q"].latent_mean.shape[0] == len(DEGENERATE[case])
