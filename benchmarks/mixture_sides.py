"""Rows of a mixture, and both sides that fit them: `gb.cavi` and scikit-learn, from one start."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

import guidebook as gb
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.inference.cavi import CHUNK
from guidebook.inference.protocols.conjugate import START_ROWS, whole_pass
from guidebook.models.mixture import GaussianMixture
from guidebook.programs.rows import chunks, some_rows

K, D = 20, 10
MODEL = GaussianMixture(K, D, concentration=1.0, mean_precision=0.1, df=D + 2.0, inverse_scale=2.0)
CPU = torch.device("cpu")
Hyper = dict[str, np.ndarray]


def write(path: Path, rows: int, dtype: type) -> None:
    """Rows of a mixture, by pieces; those of a smaller file begin the larger one."""
    law = np.random.default_rng(0)
    weights = law.dirichlet(np.full(K, 5.0))
    means = 2 * law.standard_normal((K, D))
    roots = 0.4 * law.standard_normal((K, D, D)) + np.eye(D)
    x = np.lib.format.open_memmap(path, "w+", dtype, (rows, D))
    for number, start in enumerate(range(0, rows, 100_000)):
        rng = np.random.default_rng((1, number))
        size = min(rows, start + 100_000) - start
        z = rng.choice(K, size, p=weights)
        noise = rng.standard_normal((size, D))
        piece = means[z]
        for k in range(K):
            piece[z == k] += noise[z == k] @ roots[k].T
        x[start : start + size] = piece
    x.flush()


def start_of(x: np.ndarray) -> Hyper:
    """The parameters from which gb.cavi(seed=0) starts."""
    guide = MixtureMeanField(MODEL).double()
    sample = some_rows({"x": x}, START_ROWS, 0, CPU)["x"]
    found = guide.hyper(guide.initial_natural(sample, len(x), 0))
    return {name: value.numpy() for name, value in found.items()}


def scikit_learn(x: np.ndarray, start: Hyper, iterations: int) -> BayesianGaussianMixture:
    """BayesianGaussianMixture with MODEL's priors, continued from `start`."""
    side = BayesianGaussianMixture(
        n_components=K, tol=0.0, reg_covar=0.0, max_iter=iterations, warm_start=True,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=MODEL.concentration, mean_precision_prior=MODEL.mean_precision,
        mean_prior=np.zeros(D), degrees_of_freedom_prior=MODEL.df,
        covariance_prior=float(MODEL.inverse_scale) * np.eye(D),
    )  # fmt: skip
    side.weight_concentration_ = start["concentration"]
    side.mean_precision_, side.means_ = start["mean_precision"], start["loc"]
    side.degrees_of_freedom_ = start["df"]
    side.covariances_ = start["inverse_scale"] / start["df"][:, None, None]
    precisions = np.linalg.inv(side.covariances_)
    side.precisions_cholesky_ = np.linalg.cholesky(precisions)  # any root will do for its E-step
    side.converged_, side.lower_bound_ = False, -np.inf  # so that fit() continues
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of so few iterations
        side.fit(x)
    assert side.n_iter_ == iterations
    return side


def guidebook_side(x: np.ndarray, sweeps: int) -> gb.Fit:
    found = gb.cavi(
        MODEL, MixtureMeanField(MODEL), {"x": x}, sweeps=sweeps, tolerance=0.0, progress=False
    )
    assert found.notes["sweeps"] == sweeps
    return found


def elbo_of(natural: dict[str, torch.Tensor], guide: MixtureMeanField, x: np.ndarray) -> float:
    """The ELBO over all rows of q with these natural parameters."""
    found = whole_pass(guide, natural, chunks({"x": x}, CHUNK, CPU), SimpleNamespace(stopped=False))
    assert found is not None
    return found[0]
