r"""Leave-one-out cross-validation of an approximation, by importance sampling.

The predictive density of a row given all others, and the log weights that turn draws z_s of q into draws
of p(z | y_{-i}), smoothed (PSIS):

.. math:: \text{elpd} = \sum_i \log p(y_i \mid y_{-i}), \qquad
    \log r_{is} = \log p(y, z_s) - \log q(z_s) - \log p(y_i \mid z_s)

so that the error of the approximation is corrected with the same weights; chains have log p(y, z) = log q(z)
there. Each row has a k-hat of its own: above its limit the row moves the posterior too far for its
predictive density to be estimated from these draws.

LOO-PIT are the probabilities p(y~_i <= y_i | y_{-i}), uniform where the model predicts its rows; of
counts and other values that can be equal, uniform between both sides of the step.

Sources: Vehtari, Gelman and Gabry 2017, "Practical Bayesian model evaluation using leave-one-out
cross-validation and WAIC"; Magnusson, Andersen, Jonasson and Vehtari 2019, "Bayesian leave-one-out
cross-validation for large data".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import kstest
from torch import Tensor

from guidebook.diagnostics.numerics.psis import smoothed_rows
from guidebook.errors import GuidebookError
from guidebook.inference.fits.datatree import replicated
from guidebook.inference.fits.fit import Fit
from guidebook.programs.nodes import log_likelihoods
from guidebook.programs.potential import Potential
from guidebook.scope import quiet

if TYPE_CHECKING:
    import xarray as xr

MOST_ROWS = 2000
LEAST_ROWS = 3
WORK, LEAST_DRAWS = 4_000_000, 1000
"""Draws times rows: a few seconds. Of many rows fewer draws are used, down to so many."""


@dataclass(frozen=True)
class LeaveOneOut:
    """What the N rows of a plate say of a model, one left out at a time.

    Attributes:
        plate: the plate's name. draws: S, so many were used.
        elpd, elpd_se: sum of log p(y_i | y_{-i}) in nats, and its standard error over rows.
        parameters: the effective number of parameters, log p(y_i | y) - log p(y_i | y_{-i}) summed.
        rows, khat: (N,), log p(y_i | y_{-i}) and the k-hat of each; limit: of k-hat.
        pit: (N,), p(y~_i <= y_i | y_{-i}); None where the model cannot simulate a single number for
            each row, or the rows are zeros and ones.
    """

    plate: str
    draws: int
    elpd: float
    elpd_se: float
    parameters: float
    rows: np.ndarray
    khat: np.ndarray
    limit: float
    pit: np.ndarray | None

    @property
    def unreliable(self) -> int:
        """How many rows have a k-hat above its limit."""
        return int((~(self.khat < self.limit)).sum())

    @property
    def pit_pvalue(self) -> float:
        """Of the Kolmogorov-Smirnov test that the LOO-PIT are uniform; NaN where there are none."""
        return math.nan if self.pit is None else float(kstest(self.pit, "uniform").pvalue)


def leave_one_out(fit: Fit, tree: xr.DataTree, seed: int = 0) -> LeaveOneOut | None:
    """The numbers of draws (1, S) of a fit, with their positions and, of a density, lp and log_q.

    None where they do not apply: no plate that holds all that is observed, sites that are summed out, or
    fewer than 3 or more than 2,000 rows.
    """
    if not fit.approximation.has_joint or "unconstrained" not in tree.children:
        return None
    potential = fit.potential
    plate = _plate_of_rows(potential)
    if plate is None:
        return None
    name, dim, count = plate
    position = tree["unconstrained"]["position"].values[0]
    size = min(len(position), max(LEAST_DRAWS, WORK // count))
    chosen = np.linspace(0, len(position) - 1, size).round().astype(int)
    u = torch.as_tensor(position[chosen], dtype=potential.dtype, device=potential.device)
    by_row = _log_likelihood(potential, u, dim, count)
    if by_row is None:
        return None
    return _numbers(
        by_row, _log_ratio(tree, chosen), name, _predicted(fit, tree, u, count, seed), seed
    )


def _plate_of_rows(potential: Potential) -> tuple[str, int, int] | None:
    """The largest plate that holds every observed site: name, dim and size."""
    if potential.plate_nesting is not None or not potential.observed:
        return None
    each = [set(potential.plates[name]) for name in potential.observed]
    common = set.intersection(*each)
    sizes = [(potential.plate_sizes[name], name, dim) for name, dim in common]
    if not sizes:
        return None
    count, name, dim = max(sizes)
    return (name, dim, count) if LEAST_ROWS <= count <= MOST_ROWS else None


def _log_likelihood(potential: Potential, u: Tensor, dim: int, count: int) -> np.ndarray | None:
    """log p(y_i | z_s), (S, N), of all that is observed in row i; None where a site has no such rows."""

    def collect(trace: Any) -> dict[str, Tensor]:
        return log_likelihoods(trace, potential.observed)

    total = np.zeros((len(u), count))
    for value in potential.replay("log likelihood of rows", collect, u).values():
        found = value.double().cpu().numpy()
        if found.ndim - 1 < -dim or found.shape[dim] != count:
            return None
        total += np.moveaxis(found, dim, -1).reshape(len(u), -1, count).sum(1)
    return total if np.isfinite(total).all() else None


def _log_ratio(tree: xr.DataTree, chosen: np.ndarray) -> np.ndarray:
    """log p(y, z) - log q(z), (S,): zeros of chains, which are draws of the posterior."""
    stats = tree["sample_stats"]
    if "log_q" not in stats.data_vars:
        return np.zeros(len(chosen))
    values: np.ndarray = (stats["lp"] - stats["log_q"]).values[0][chosen]
    return values


def _predicted(
    fit: Fit, tree: xr.DataTree, u: Tensor, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Replicated rows (S, N) and the observed ones (N,); None where a row is not one number."""
    potential = fit.potential
    if len(potential.observed) != 1:
        return None
    try:
        drawn = replicated(fit.approximation, u, seed)[potential.observed[0]]
    except GuidebookError:  # a model that cannot run without its data
        return None
    observed = tree["observed_data"][potential.observed[0]].values.astype(float)
    if observed.shape != (count,) or drawn.shape[1:] != (count,):
        return None
    if not np.isfinite(observed).all() or np.isin(observed, (0.0, 1.0)).all():
        return None
    return drawn.double().cpu().numpy(), observed


def _numbers(
    by_row: np.ndarray,
    log_ratio: np.ndarray,
    plate: str,
    predicted: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
) -> LeaveOneOut:
    """By arviz_stats, from log likelihoods (S, N) and log ratios (S,)."""
    import arviz_base
    import arviz_stats

    groups: dict[str, Any] = {
        "posterior": {"unused": log_ratio[None]},
        "log_likelihood": {"y": by_row[None]},
    }
    if predicted is not None:
        groups["posterior_predictive"] = {"y": predicted[0][None]}
        groups["observed_data"] = {"y": predicted[1]}
    tree = arviz_base.from_dict(groups, dims={"y": ["row"]})
    likelihood = tree["log_likelihood"]["y"]
    # the weights of the posterior without row i: r / p(y_i | z)
    smoothed, khat = smoothed_rows((log_ratio - log_ratio.max())[:, None] - by_row)
    known = {
        "log_weights": likelihood.copy(data=smoothed[None]),
        "pareto_k": likelihood[0, 0].drop_vars(["chain", "draw"]).copy(data=khat),
    }
    with quiet(category=UserWarning):  # of high k-hats, which the result holds
        found = arviz_stats.loo(tree, pointwise=True, var_name="y", reff=1.0, **known)
    pit = None
    if predicted is not None:
        named = {key: value.to_dataset(name="y") for key, value in known.items()}
        pit = arviz_stats.loo_pit(tree, var_names="y", random_state=seed, **named)["y"].values
    return LeaveOneOut(
        plate=plate,
        draws=len(by_row),
        elpd=float(found.elpd),
        elpd_se=float(found.se),
        parameters=float(found.p),
        rows=found.elpd_i.values,
        khat=khat,
        limit=float(found.good_k),
        pit=pit,
    )
