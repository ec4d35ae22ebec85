"""Does this installation still see what it should? Planted failures, judged by the public `compare`.

    guidebook selftest

Where the posterior is known in closed form, approximations of it are wrong by construction (too
narrow, too wide, shifted, without a mode, with modes in wrong shares, stopped early, fitted to other
data), and some are right: their sound twins. A judge that trusts a failure, or none of whose sound
twins it trusts, cannot be relied on, whatever changed: the versions of torch, Pyro or ArviZ, the
processor's arithmetic, a patch.

The target is a mixture of normals, p(u) = sum_k w_k N(u; m_k, L_k L_k'), u in R^D, which the model has
as its density; the approximation is another such mixture, with a density that is known.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide.initialization import init_to_value

from guidebook.diagnostics.judging.findings import Verdict
from guidebook.guides.autoguides.mixture import NormalMixture
from guidebook.guides.families import full_rank
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import opened
from guidebook.inference.fits.status import Status
from guidebook.inference.svi import svi
from guidebook.reports.comparison import compare

VERSIONS = ("torch", "pyro-ppl", "arviz-stats", "numpy", "scipy")
D = 5


@dataclass(frozen=True)
class Mixture:
    """Shares (K,), means (K, D) and lower triangular factors (K, D, D)."""

    shares: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (D,)."""
        mean = self.shares @ self.means
        variances = np.square(self.factors).sum(-1) + np.square(self.means - mean)
        return mean, np.sqrt(self.shares @ variances)


def mixture_of_normals(
    log_shares: torch.Tensor, means: torch.Tensor, factors: torch.Tensor
) -> None:
    """u with the density of a mixture of normals; its prior is N(0, 10^2), taken out again."""
    prior = dist.Normal(means.new_zeros(means.shape[1]), 10.0).to_event(1)
    u = pyro.sample("u", prior)
    normals = torch.distributions.MultivariateNormal(means, scale_tril=factors, validate_args=False)
    density = (normals.log_prob(u.unsqueeze(-2)) + log_shares).logsumexp(-1)
    pyro.factor("density", density - prior.log_prob(u))


def planted(target: Mixture, approximation: Mixture) -> Fit:
    """A fit to the target whose approximation is this mixture."""
    data = {
        "log_shares": np.log(target.shares),
        "means": target.means,
        "factors": target.factors,
    }
    guide = NormalMixture(mixture_of_normals, len(approximation.shares))
    q = approximation
    with opened("planted", mixture_of_normals, guide, data, seed=0, device=None) as run:
        run.guide.place(*map(torch.as_tensor, (np.log(q.shares), q.means, q.factors)))
    return run.fit(Status.CONVERGED, sites=run.guide.sites)


# what is planted -------------------------------------------------------------------------------------


class Planting(NamedTuple):
    """`sound`: it must be trusted; otherwise it must not be."""

    name: str
    what: str
    fit: Callable[[], Fit]
    sound: bool = False


def _normal() -> Mixture:
    correlation = 0.5 ** np.abs(np.subtract.outer(np.arange(D), np.arange(D)))
    spread = 10.0 ** np.linspace(-1, 1, D)
    factor = spread[:, None] * np.linalg.cholesky(correlation)
    return Mixture(np.ones(1), np.linspace(-1, 1, D)[None] * spread, factor[None])


def _two_modes() -> Mixture:
    means = np.zeros((2, D))
    means[1, 0] = 8.0
    return Mixture(np.array([0.7, 0.3]), means, np.stack([np.eye(D), 0.7 * np.eye(D)]))


def _normal_but(scale: float = 1.0, shift: float = 0.0) -> Fit:
    p = _normal()
    _, sd = p.moments()
    return planted(p, replace(p, factors=scale * p.factors, means=p.means + shift * sd))


def _two_modes_but(*shares: float) -> Fit:
    p, kept = _two_modes(), len(shares)
    q = Mixture(np.array(shares), p.means[:kept], p.factors[:kept])
    return planted(p, q)


def regression(X: torch.Tensor, y: torch.Tensor | None = None) -> None:
    """y = X b + N(0, 1), b ~ N(0, 5^2)."""
    b = pyro.sample("b", dist.Normal(X.new_zeros(X.shape[1]), 5.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def _rows(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(40, 3))
    return {"X": X, "y": X @ np.array([1.0, -2.0, 0.5]) + rng.normal(size=40)}


def _stopped_early() -> Fit:
    far = {"b": torch.full((3,), 4.0, dtype=torch.float64)}
    guide = AutoNormal(regression, init_loc_fn=init_to_value(values=far))
    return svi(regression, guide, _rows(0), steps=30, compile="graph", progress=False)


def _converged() -> Fit:
    return svi(regression, full_rank(regression), _rows(0), compile="graph", progress=False)


def _other_data() -> Fit:
    return replace(_converged(), data=_rows(1))


PLANTED = (
    Planting("exact", "the posterior itself", _normal_but, sound=True),
    Planting("near", "means off by 0.03 sd, sds by 5 %", lambda: _normal_but(0.95, 0.03), sound=True),
    Planting("both modes", "two modes in their shares", lambda: _two_modes_but(0.7, 0.3), sound=True),
    Planting("converged", "a full-rank normal fitted to a normal", _converged, sound=True),
    Planting("narrow", "sds 0.6 of the posterior's", lambda: _normal_but(0.6)),
    Planting("wide", "sds 1.5 of the posterior's", lambda: _normal_but(1.5)),
    Planting("shifted", "means off by 0.3 sd", lambda: _normal_but(1.0, 0.3)),
    Planting("missing mode", "a mode of 30 % without a draw", lambda: _two_modes_but(1.0)),
    Planting("wrong shares", "modes of 70 : 30 drawn 40 : 60", lambda: _two_modes_but(0.4, 0.6)),
    Planting("unconverged", "svi stopped after 30 steps, far away", _stopped_early),
    Planting("swapped data", "fitted to other rows of the same model", _other_data),
)  # fmt: skip


def selftest() -> bool:
    """Judges every planting, prints a line for each, and says whether all were judged rightly."""
    began = time.perf_counter()
    print(_heading())
    wrong = []
    for one in PLANTED:
        found = compare({one.name: one.fit()})
        verdict = found.verdicts[one.name]
        right = (verdict is Verdict.TRUST) is one.sound
        wrong += [] if right else [one.name]
        kind = "sound twin" if one.sound else "failure"
        print(
            f"{'ok   ' if right else 'WRONG'}  {kind:<10}  {one.name}: {one.what}: {verdict.value}"
        )
        if not right:
            print(f"       {found.table.loc[one.name, 'reason']}")
    print(_summary(wrong, time.perf_counter() - began), flush=True)
    return not wrong


def _heading() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    from guidebook import __version__

    return f"guidebook {__version__}; Python {platform.python_version()}, {versions}"


def _summary(wrong: Sequence[str], seconds: float) -> str:
    sound = sum(one.sound for one in PLANTED)
    if not wrong:
        return (
            f"This installation sees all {len(PLANTED) - sound} planted failures and trusts all "
            f"{sound} sound twins ({seconds:.0f} s)."
        )
    return (
        f"Judged wrongly: {', '.join(wrong)} ({seconds:.0f} s). Verdicts of this installation cannot be "
        "relied on: install the versions of constraints.txt, and run this again."
    )
