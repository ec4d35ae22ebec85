"""Files of draws and tables: read whole or refused, written whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from guidebook.errors import FileError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def read_draws(path: Path) -> xr.DataTree:
    """Read a netCDF file with a `posterior` group into memory and close it.

    Raises FileError for a file that is missing, truncated, not netCDF, or has no posterior.
    """
    import xarray as xr

    if not path.is_file():
        raise FileError(f"{path} is not a file: give the path of a netCDF file with ArviZ groups.")
    try:
        # A file cut short opens, and fails when its chunks are read: load inside the guard.
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, ...
        raise FileError(
            f"{path} is not a complete netCDF-4 file ({error}): write it again, for example with "
            f"`fit.posterior().to_netcdf(path, engine='h5netcdf')`."
        ) from error
    if "posterior" not in tree.children:
        raise FileError(
            f"{path} has the groups {sorted(tree.children)} and no `posterior`: "
            "export the draws as ArviZ's DataTree or InferenceData."
        )
    return tree


def write_netcdf(tree: xr.DataTree, path: Path) -> None:
    """Write draws as a netCDF-4 file that ArviZ, and `read_draws`, read. Raises FileError.

    It is made in memory: HDF5 ends the process where its disk is full.
    """
    from guidebook.inference.fits.files import write_whole  # torch, which is heavy

    content = tree.to_netcdf(engine="h5netcdf")
    write_whole(path, lambda file: file.write(content))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write `Comparison.table` as CSV, one row an approximation. Raises FileError."""
    from guidebook.inference.fits.files import write_whole  # torch, which is heavy

    content = table.to_csv(index_label="approximation").encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: file.write(content))


def writable_folder(path: Path) -> Path:
    """Make the folder if need be and try to write into it: before a long fit, not after.

    Raises FileError if nothing can be written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise FileError(
            f"Nothing can be written into {path} ({reason}): choose another --out."
        ) from error
    return path
