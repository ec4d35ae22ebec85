"""Bad input to diagnostics: draws that cannot be compared; degenerate images, which are never trusted."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.errors import DataError, NameNotFound, SettingError
from tests.bad_input.conftest import Bad
from tests.bad_input.given import SCHOOLS, SEEDS, X, fit, one_fit, schools, shelf_fit, tree, vae


def observing(**observed: object) -> object:
    return tree(x=2, observed={name: np.asarray(value) for name, value in observed.items()})


@cache
def compared() -> gb.Comparison:
    return gb.compare({"q": one_fit()}, effort="quick")


def of_other_schools(**changed: torch.Tensor) -> object:
    return gb.compare({"q": one_fit(), "p": fit(schools, data=SCHOOLS | changed)}, effort="quick")


ERRORS: dict[str, Bad] = {
    "nothing to compare": (lambda: gb.compare({}), DataError, "at least one"),
    "no draws to compare": (
        lambda: gb.compare({"a": 3}), DataError, "'a' is neither a Fit nor a DataTree",
    ),
    **{
        f"an approximation called {name!r}": (
            lambda name=name: gb.compare({name: tree(x=2), "b": tree(x=2)}), DataError, "named", "type str",
        )
        for name in (None, 3, ("a", 1))
    },
    **{
        f"weighted draws of {name!r}": (
            lambda name=name: compared().weighted(name), NameNotFound, "no approximation", "'q'",
        )
        for name in ("p", None, ["q"])
    },
    "rows kept apart that are none": (
        lambda: gb.compare({"q": one_fit()}, held_out=3), DataError, "held_out is 3", "a dict",
    ),
    "labels that are none": (
        lambda: gb.compare({"q": one_fit()}, labels=3), DataError, r"labels have shape \(\)", "one a row",
    ),
    "labels of fewer rows": (
        lambda: gb.compare({"vae": vae()}, labels=[1, 2]), DataError,
        r"labels have shape \(2,\)", r"data of 'vae' have \d+ rows",
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
    "other observed values": (
        lambda: gb.compare({"a": observing(y=[0.0, 1.0]), "b": observing(y=[0.0, 1.1])}), DataError,
        "'a' and 'b' are fits of different data", "first 1.0 and 1.1 at place 1", "the same data",
    ),
    "fewer observed values": (
        lambda: gb.compare({"a": observing(y=[0.0, 1.0]), "b": observing(y=[0.0])}), DataError,
        "different data", r"shapes \(2,\) and \(1,\)",
    ),
    "other observed values of one of two sites": (
        lambda: gb.compare({"a": observing(y=[0], n=[3]), "b": observing(y=[0], n=[4])}), DataError,
        "observed values of 'n'",
    ),
    "a value that is missing in one": (
        lambda: gb.compare({"a": observing(y=[np.nan]), "b": observing(y=[0.0])}), DataError,
        "different data",
    ),
    "words that differ": (
        lambda: gb.compare({"a": observing(y=["u"]), "b": observing(y=["v"])}), DataError,
        "different data",
    ),
    "a reference of other data": (
        lambda: gb.compare({"a": observing(y=[0.0])}, reference=observing(y=[1.0])), DataError,
        "'a' and 'reference' are fits of different data",
    ),
    "other data": (
        lambda: of_other_schools(y=SCHOOLS["y"] + 1), DataError, "observed values of 'y' differ",
    ),
    "other covariates of one model": (
        lambda: of_other_schools(sigma=2 * SCHOOLS["sigma"]), DataError, "rows of 'sigma' differ",
        "first 15.0 and 30.0",
    ),
    **{
        f"a seed that is {name}, comparison": (
            lambda seed=seed: gb.compare({"a": tree(x=2)}, seed=seed), SettingError, "seed=", "whole number",
        )
        for name, seed in SEEDS.items()
    },
    **{
        f"a seed that is {name}, weighted": (
            lambda seed=seed: compared().weighted("q", seed=seed), SettingError, "seed=", "whole number",
        )
        for name, seed in SEEDS.items()
    },
    **{
        f"{draws} weighted draws": (
            lambda draws=draws: compared().weighted("q", draws), SettingError, "draws=",
            "whole number|at most",
        )
        for draws in (-1, 0, 1.5, True, 10**12, "5")
    },
    "an unknown effort": (
        lambda: gb.compare({"a": tree(x=2)}, effort="fast"), SettingError, "effort='fast'",  # type: ignore[arg-type]
        "give 'quick' or 'full'",
    ),
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


def test_draws_without_densities_are_compared_and_the_missing_named() -> None:
    found = gb.compare({"a": tree(x=2)}, reference=tree(x=2))
    said = " ".join(found.witnesses["a"])
    assert "no lp" in said and "no log_q" in said and "gradients" in said
    assert np.isfinite(found.table.loc["a", "mean_error"])


def test_a_seed_of_numpy_is_the_number_that_it_is() -> None:
    found = gb.compare({"q": one_fit()}, seed=np.uint8(0), effort="quick")
    assert found.table["khat"].equals(compared().table["khat"])


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


def test_labels_and_rows_kept_apart_have_no_use_without_a_posterior_a_row() -> None:
    told = "No use is made of labels and held_out: .*Leave them out"
    with pytest.warns(UserWarning, match=told):
        gb.compare({"a": tree(x=2)}, labels=[0, 1], held_out={"x": X})
