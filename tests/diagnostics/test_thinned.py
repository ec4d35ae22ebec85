"""Draws taken at places: chains joined, groups that have other draws left out."""

import numpy as np
import xarray as xr

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
