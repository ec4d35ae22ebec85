"""What the Gaussian mixture refuses."""

import math

import pyro
import pytest
import torch

from guidebook.errors import DataError, SettingError
from guidebook.models.mixture import GaussianMixture
from tests.models.mixture.mixtures import draw, mixture


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"K": 0}, "at least 1"),
        ({"D": 0}, "at least 1"),
        ({"covariance": "tied"}, "'unit', 'diagonal' or 'full'"),
        ({"concentration": 0.0}, "concentration"),
        ({"concentration": math.nan}, "concentration"),
        ({"concentration": math.inf}, "concentration"),
        ({"mean_precision": -1.0}, "mean_precision"),
        ({"mean_precision": math.nan}, "mean_precision"),
        ({"df": 1.0}, "above 1"),
        ({"df": 0.0, "covariance": "diagonal"}, "above 0"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(SettingError, match=message):
        GaussianMixture(**{"K": 2, "D": 2, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"df": math.inf}, "df"),
        ({"loc": (0.0, 1.0, 2.0)}, "loc"),
        ({"loc": math.nan}, "loc"),
        ({"inverse_scale": -1.0}, "inverse_scale"),
        ({"inverse_scale": (1.0, 0.0)}, "inverse_scale"),
        ({"inverse_scale": (1.0, 1.0, 1.0)}, "inverse_scale"),
        ({"inverse_scale": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "inverse_scale"),
        ({"inverse_scale": torch.tensor([[1.0, 0.5], [0.0, 1.0]])}, "inverse_scale"),
    ],
)
def test_priors_of_the_wrong_shape_or_not_proper(wrong, message):
    with pytest.raises(SettingError, match=message):
        GaussianMixture(2, 2, **wrong)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 1)])
def test_rows_of_another_width(shape):
    with pytest.raises(DataError, match=r"needs \(rows, 3\)"):
        mixture("full")(torch.zeros(shape))


def test_fewer_rows_in_all_than_are_present():
    with pytest.raises(SettingError, match="size=3"):
        mixture("unit")(draw(5, 3), size=3)
