"""Approximations of posteriors given the same data, whatever held them, and of different ones."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics import compare as module
from guidebook.diagnostics.compare import _basins_of, _share_recordings
from guidebook.diagnostics.inputs import COMPUTED, HELD, same_data
from guidebook.errors import DataError

Y = np.array([0.1, -0.7, 1.3, 0.4, 2.2])


def mean(y, scale=10.0):
    m = pyro.sample("m", dist.Normal(0.0, scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def mean_of_another_name(values, spread=10.0):
    """The same, by another way."""
    u = pyro.sample("m", dist.Normal(0.0, spread))
    pyro.sample("y", dist.Normal(u, 1.0).expand([len(values), 1]).to_event(2), obs=values[:, None])


def tree(fit: gb.Fit):
    return fit.posterior(50)


@pytest.fixture(scope="module")
def fit() -> gb.Fit:
    return gb.laplace(mean, {"y": Y})


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (mean, {"y": Y.tolist()}), (mean, {"y": torch.tensor(Y, dtype=torch.float32)}),
        (mean, {"y": Y.astype(">f4")}), (mean, {"y": pd.Series(Y)}), (mean, (Y, 1.0)),
        (mean_of_another_name, {"values": Y}),
    ],
)  # fmt: skip
def test_the_same_values_are_the_same_data(model, data, fit: gb.Fit) -> None:
    """Held as another type, to single precision, by a model with other names, under another prior."""
    other = gb.laplace(model, data)
    same_data({"a": tree(fit), "b": tree(other)}, {"a": fit, "b": other})


@pytest.mark.parametrize("place", [0, len(Y) - 1])
def test_one_value_that_differs_is_named(place: int, fit: gb.Fit) -> None:
    changed = Y.copy()
    changed[place] *= 1.001
    other = gb.laplace(mean, {"y": changed})
    with pytest.raises(
        DataError, match=rf"'a' and 'b' are fits of different data.*at place {place}\b"
    ):
        same_data({"a": tree(fit), "b": tree(other)}, {"a": fit, "b": other})


@pytest.mark.parametrize(("factor", "same"), [(0.9, True), (1.1, False)])
def test_the_limits_of_what_is_the_same(factor: float, same: bool, fit: gb.Fit) -> None:
    """Relative ones of numbers that were held, absolute ones of what was computed in single precision."""
    held, computed = tree(fit), tree(fit)
    held["observed_data"]["y"] = held["observed_data"]["y"] * (1 + factor * HELD)
    values = (Y + factor * (COMPUTED * Y.max() + HELD * Y)).astype(np.float32)
    computed["observed_data"]["y"] = computed["observed_data"]["y"].copy(data=values)
    for other in (held, computed):
        try:
            same_data({"a": tree(fit), "b": other}, {})
            accepted = True
        except DataError:
            accepted = False
        assert accepted is same


def test_what_holds_no_data_is_not_compared(fit: gb.Fit) -> None:
    other = tree(gb.laplace(mean, {"y": -Y}))
    del other["observed_data"]
    same_data({"a": tree(fit), "b": other}, {})


def test_amortised_fits_are_compared_by_what_their_guides_read() -> None:
    from guidebook.guides import AmortizedNormal
    from guidebook.models.decoders.latent import VAE

    x = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).round()

    def trained(rows: torch.Tensor) -> gb.Fit:
        guide = AmortizedNormal(torch.nn.Linear(4, 2), 1)
        return gb.svi(VAE(4, 1, (2,)), guide, {"x": rows}, steps=2, progress=False, compile="graph")

    one, again, other = trained(x), trained(x.double()), trained(1 - x)
    same_data({}, {"a": one, "b": again})
    with pytest.raises(DataError, match="rows of 'x'"):
        same_data({}, {"a": one, "b": other})


def test_one_search_serves_one_density_alone(fit: gb.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of one model share what was searched where all their arguments are the same."""
    number: Iterator[int] = iter(range(9))
    monkeypatch.setattr(module, "search", lambda *_: next(number))
    others = {"b": {"y": Y.tolist()}, "c": {"y": Y, "scale": 1.0}, "d": {"y": Y, "scale": 10.0}}
    fits = {"a": fit} | {name: gb.laplace(mean, data) for name, data in others.items()}
    assert _basins_of(fits, 0, 1) == {"a": 0, "b": 0, "c": 1, "d": 2}


class Centred:
    """The mean of numbers as an object, which every fit owns a copy of."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, y) -> None:  # type: ignore[no-untyped-def]
        mean(y, self.scale)


def test_copies_of_one_object_share_and_objects_that_differ_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One search and one recording serve objects that hold the same values."""
    number: Iterator[int] = iter(range(9))
    monkeypatch.setattr(module, "search", lambda *_: next(number))
    models = {"a": Centred(10.0), "b": Centred(10.0), "c": Centred(1.0)}
    fits = {name: gb.laplace(model, {"y": Y}) for name, model in models.items()}
    assert _basins_of(fits, 0, 1) == {"a": 0, "b": 0, "c": 1}
    _share_recordings(fits, lambda _: None)
    assert fits["b"].potential is fits["a"].potential is not fits["c"].potential
