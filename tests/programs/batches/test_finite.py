"""Values that are not finite: fine where the model masks them, refused by name and place elsewhere."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import guidebook as gb
from guidebook.errors import DataError
from guidebook.programs.batches.finite import find_not_finite

NAN, INF = float("nan"), float("inf")
N = 12
Y = torch.linspace(-1.0, 2.0, N, dtype=torch.float64)


def spoilt(*places, value=NAN):
    y = Y.clone()
    y[list(places)] = value
    return y


def level():
    return pyro.sample("m", dist.Normal(0.0, 5.0))


def masked(y, size=None):
    """Scores what is not NaN."""
    m, seen = level(), ~y.isnan()
    with pyro.plate("row", size or len(y), subsample=y), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y.nan_to_num())


def masked_by_distribution(y):
    m, seen = level(), y.isfinite()
    pyro.sample(
        "y", dist.Normal(m, 1.0).expand([N]).mask(seen).to_event(1), obs=y.nan_to_num(0, 0, 0)
    )


def scored(y):
    m = level()
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def covariate(x, y):
    m = level()
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m * x, 1.0), obs=y)


def seen_covariate(x, y):
    """Masks what is NaN in y, and not in x."""
    m, seen = level(), ~y.isnan()
    with pyro.plate("row", len(y)), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(m * x, 1.0), obs=y.nan_to_num())


def rows_of_two(y):
    """Each row is one event, masked where its first number is NaN."""
    m, seen = level(), ~y[:, 0].isnan()
    with pyro.plate("row", len(y)), poutine.mask(mask=seen):
        pyro.sample(
            "y", dist.Normal(m, 1.0).expand([2]).to_event(1), obs=torch.where(seen[:, None], y, 0.0)
        )


def scales(s, y):
    m = level()
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)


def single(y):
    pyro.sample("y", dist.Normal(level(), 1.0), obs=y)


def factor(y):
    pyro.factor("y", -0.5 * ((y - level()) ** 2).sum())


def by_batches(model, data):
    guide = gb.guides.mean_field(model)
    return gb.svi(model, guide, data, steps=5, batch_size=4, progress=False, compile="graph")


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (masked, spoilt(0, 3)), (masked_by_distribution, spoilt(3)),
        (masked_by_distribution, spoilt(3, 5, value=INF)),
    ],
)  # fmt: skip
def test_what_the_model_masks_is_fitted_without_it(model, y):
    """A normal mean under N(0, 5^2): the mean and variance of the rows that are seen, in closed form."""
    seen = y[y.isfinite()]
    variance = 1 / (len(seen) + 1 / 25)
    fit = gb.laplace(model, {"y": y})
    u = fit.posterior(20_000)["posterior"]["m"].values
    assert abs(u.mean() - float(seen.sum()) * variance) < 5 * np.sqrt(variance / 20_000)
    assert abs(u.var() / variance - 1) < 5 * np.sqrt(2 / 20_000)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (scored, {"y": spoilt(3, 5)}, r"^'y' holds NaN at index \(3,\)\. Remove or impute"),
        (scored, {"y": spoilt(5, value=INF)}, r"^'y' holds inf at index \(5,\)"),
        (covariate, {"x": spoilt(2), "y": Y}, r"^'x' holds NaN at index \(2,\)"),
        (covariate, {"x": spoilt(2), "y": spoilt(3)}, r"^'y' holds NaN at index \(3,\)"),
        (seen_covariate, {"x": spoilt(2), "y": spoilt(3)}, r"^'x' holds NaN .* and 'y' holds NaN"),
        (scales, {"s": 2 + spoilt(2, value=INF), "y": Y}, r"^'s' holds inf at index \(2,\)"),
        (
            rows_of_two,
            {"y": torch.stack([spoilt(1), spoilt(1, 6)], 1)},
            r"^'y' holds NaN at index \(6, 1\)",
        ),
        (single, {"y": torch.tensor(NAN)}, r"^'y' holds NaN at index \(\)\. "),
        (factor, {"y": spoilt(4)}, r"^'y' holds NaN at index \(4,\)"),
        (masked, {"y": torch.where(Y > 1.9, INF, spoilt(3))}, r"^'y' holds NaN"),
    ],
)
def test_what_is_scored_is_refused_with_its_name_and_place(model, data, message):
    with pytest.raises(DataError, match=message):
        gb.laplace(model, data)


def test_a_model_that_fails_of_itself_says_so_beside_what_is_not_finite():
    def broken(y):
        raise RuntimeError("of itself")

    with pytest.raises(
        DataError, match=r"'y' holds NaN.*With it the model fails: RuntimeError: of itself"
    ):
        gb.laplace(broken, {"y": spoilt(3)})


def test_in_mini_batches_the_rows_that_hold_it_are_run():
    """Also where the batch that is run first holds none of them."""
    y = spoilt(9)
    assert len(by_batches(masked, {"y": y}).history) == 5

    def unmasked(y, size=None):
        m = level()
        with pyro.plate("row", size or len(y), subsample=y):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    for place in range(0, N, 3):
        with pytest.raises(DataError, match=rf"'y' holds NaN at index \({place},\)"):
            by_batches(unmasked, {"y": spoilt(place)})


def test_rows_that_hold_it_and_what_it_is():
    found = find_not_finite({"y": spoilt(1, 4), "w": torch.tensor([INF, 0.0]), "ys": [spoilt(2)]})
    assert found is not None and found.rows.tolist() == [1, 4] and found.infinite
    assert found.first == {"y": ((1,), "NaN"), "w": ((0,), "inf"), "ys[0]": ((2,), "NaN")}
    assert find_not_finite({"y": Y, "n": NAN, "k": [1, 2]}) is None
