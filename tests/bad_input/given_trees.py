"""Draws as other tools bring them: a good tree, and changes that keep its meaning or spoil it."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import xarray as xr

SIZE, K = (2, 300), 2
"""Chains and draws, and elements of `theta`: a file of a density, whose densities are consistent."""
Change = Callable[[xr.Dataset], xr.Dataset]


@cache
def good() -> xr.DataTree:
    """Draws of q = N(0, 1)^3 for p = N(0.1, 1)^3, with a statistic that nothing reads and with data."""
    rng = np.random.default_rng(3)
    u = rng.standard_normal((*SIZE, 1 + K))
    dims = ("chain", "draw")
    lp, log_q = -0.5 * np.square(u - 0.1).sum(-1), -0.5 * np.square(u).sum(-1)
    groups = {
        "posterior": {"mu": (dims, u[..., 0]), "theta": ((*dims, "school"), u[..., 1:])},
        "sample_stats": {"lp": (dims, lp), "log_q": (dims, log_q), "depth": (dims, np.ones(SIZE, int))},
        "unconstrained": {"position": ((*dims, "D"), u), "gradient": ((*dims, "D"), 0.1 - u)},
        "log_likelihood": {"y": ((*dims, "row"), u[..., :1])},
        "observed_data": {"y": ("row", np.zeros(1))},
        "vi_fit": {"objective": ("step", np.arange(3.0))},
    }  # fmt: skip
    numbered = {"chain": np.arange(SIZE[0]), "draw": np.arange(SIZE[1])}
    made = xr.DataTree.from_dict(
        {
            f"/{name}": xr.Dataset(
                group, numbered if {"mu", "lp", "position"} & set(group) else None
            )
            for name, group in groups.items()
        }
    )
    made["posterior"] = made["posterior"].to_dataset().assign_coords(school=["a", "b"])
    made["vi_fit"].attrs = {"kind": "density", "status": "CONVERGED", "seconds": 1.5, "discrete": 0,
                            "engine": "svi", "family": "mean_field", "notes": "{}"}  # fmt: skip
    return made


@cache
def chains() -> xr.DataTree:
    """Four chains of a sampler."""
    rng = np.random.default_rng(4)
    shape, dims = (4, 500), ("chain", "draw")
    return xr.DataTree.from_dict(
        {
            "/posterior": xr.Dataset({"mu": (dims, rng.standard_normal(shape))}),
            "/sample_stats": xr.Dataset({"diverging": (dims, np.zeros(shape, bool))}),
        }
    )


def changed(group: str, change: Change, tree: xr.DataTree | None = None) -> xr.DataTree:
    made = (tree or good()).copy()
    made[group] = xr.DataTree(change(made[group].to_dataset()))
    return made


def values(variable: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """The values of one variable, with its dimensions and labels."""
    return lambda data: data.assign(
        {variable: data[variable].copy(data=change(data[variable].values))}
    )


def spot(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """One value among the others, in chain 1, draw 7."""

    def change(held: np.ndarray) -> np.ndarray:
        held = held.astype(float)
        held[1, 7] = value
        return held

    return change


def said(key: str, value: Any) -> xr.DataTree:
    """The good tree whose group vi_fit says something else."""
    return changed("vi_fit", lambda data: data.assign_attrs({key: value}))


def without(group: str, *variables: str) -> xr.DataTree:
    return changed(group, lambda data: data.drop_vars(list(variables)))
