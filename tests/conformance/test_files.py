"""Laws of files: a fit and its draws come back as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import guidebook as gb


def test_save_and_load_give_the_same_draws(row: Any, fit: gb.Fit, tmp_path: Path) -> None:
    path = fit.save(tmp_path / "fit")
    model = gb.pair(row.pair).model() if row.engine == "svi" else fit.model
    ours = getattr(fit.guide, "family", "") != "" and row.engine == "svi"
    given = None if ours or fit.guide is None else row.guide(model)
    again = gb.load(path, model=model, guide=given, data=row.data)
    before, after = fit.posterior(20, seed=3), again.posterior(20, seed=3)
    for variable in before["posterior"].data_vars:
        np.testing.assert_array_equal(before["posterior"][variable], after["posterior"][variable])
    np.testing.assert_array_equal(before["sample_stats"]["lp"], after["sample_stats"]["lp"])
    assert again.status is fit.status


def test_netcdf_round_trip(drawn: Any, tmp_path: Path) -> None:
    drawn.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf") as again:
        for group in ("posterior", "sample_stats", "observed_data"):
            for variable in drawn[group].data_vars:
                np.testing.assert_array_equal(again[group][variable], drawn[group][variable])
        assert again["vi_fit"].attrs["status"] == drawn["vi_fit"].attrs["status"]
