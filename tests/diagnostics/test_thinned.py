"""Draws taken at places: chains joined, groups that have other draws left out."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import guidebook as gb
from guidebook.diagnostics.compare import PREDICTED_DRAWS, _add_predictions
from guidebook.diagnostics.compared import thinned


def test_places_of_joined_chains_and_groups_with_draws_of_their_own() -> None:
    values = np.arange(12.0).reshape(2, 6)

    def group(of: np.ndarray) -> xr.Dataset:
        return xr.Dataset({"x": (("chain", "draw"), of)})

    tree = xr.DataTree.from_dict(
        {
            "/posterior": group(values),
            "/sample_stats": group(-values),
            "/posterior_predictive": group(values[:, :2]),
            "/observed_data": xr.Dataset({"y": ("row", np.zeros(3))}),
        }
    )
    index = np.array([11, 0, 0, 7])
    found = thinned(tree, index)
    assert found["posterior"]["x"].values.tolist() == [[11.0, 0.0, 0.0, 7.0]]
    assert found["sample_stats"]["x"].values.tolist() == [[-11.0, 0.0, 0.0, -7.0]]
    assert "posterior_predictive" not in found.children
    assert found["observed_data"]["y"].sizes == {"row": 3}


@pytest.mark.parametrize("chains", [2, 9])
def test_predictions_of_a_sampler_are_of_as_many_draws_as_there_are(chains: int) -> None:
    """Of 100 and of 450 draws; these are spread over all chains."""

    def story(y: torch.Tensor | None = None) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1e-6), obs=y)

    drawn = torch.arange(50.0 * chains, dtype=torch.float64).reshape(chains, 50, 1)
    fit = replace(gb.laplace(story, {"y": torch.tensor(0.0)}), guide=None, draws=drawn)
    tree = fit.posterior()
    _add_predictions(tree, fit, 0)
    found = tree["posterior_predictive"]["y"].values.round()
    assert found.shape == (1, min(50 * chains, PREDICTED_DRAWS))
    assert found[0, 0] == 0 and found[0, -1] == 50 * chains - 1
