"""Before a reject: can the draws be moved to where the posterior is, and used with their weights?

The draws of a global fit with a density are moved by moment matching (`numerics.matching`), first to the
moments that the gradients at the draws point at where that lowers k-hat, drawn anew
through the maps that were found, and judged by the same witnesses and the same judge as any other draws;
modes are searched for once more, at the scale of the moved draws. They are reweighted or not used:
the verdict stays a reject unless every check of the weighted draws agrees.

Costs: at most 30 evaluations of log p at up to 10,000 draws, then, only where k-hat has fallen below its
limit, one gradient for each of as many draws as were judged, and the witnesses again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from guidebook.diagnostics.assess import assess
from guidebook.diagnostics.evidence.subject import Reference, marginals_of
from guidebook.diagnostics.judging.assessment import Assessment
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.numerics import matching
from guidebook.diagnostics.numerics.basins import Basins, search_around
from guidebook.diagnostics.numerics.matching import Affine, Density, Matching
from guidebook.diagnostics.numerics.modes import log_density
from guidebook.diagnostics.numerics.psis import khat_limit
from guidebook.diagnostics.witnesses import importance, stein, transport
from guidebook.inference.fits.approximation import Approximation
from guidebook.inference.fits.datatree import to_datatree
from guidebook.inference.fits.fit import Fit
from guidebook.programs.labels import exchangeable

if TYPE_CHECKING:
    import xarray as xr

NAME = "Moment matching"
DRAWS, LEAST_DRAWS = 10_000, 1000
WORK = 4e9
"""Numbers computed in the search for maps, some seconds."""
DENSITY_WORK, LEAST_FRESH = 2e9, 200
"""Numbers computed for log q at fresh positions, some seconds: an autoregressive flow inverts one coordinate
after another there."""
SEARCH_DRAWS = 200
OF_WEIGHTS = ("khat", "khat_se", "ess", "log_evidence", "log_evidence_se")
"""The columns of the table that are of the moved draws; all others are of the draws as fitted."""


@dataclass(frozen=True, eq=False)
class Moved(Approximation):
    """An approximation whose draws go through affine maps in turns, with the density of the mixture."""

    maps: tuple[Affine, ...] = ()

    def draw(self, draws: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """u (1, draw, D) after the maps, and log of their density (1, draw)."""
        u, log_q = super().draw(draws, seed)
        assert log_q is not None
        before = u[0].double().cpu().numpy()
        v = matching.moved(self.maps, before)
        if len(self.maps) == 1:
            log_r = log_q[0].double().cpu().numpy() - self.maps[0].log_det
        else:
            of_q = density_of(self)
            assert of_q is not None
            log_r = matching.log_mixture(self.maps, of_q, v, log_q[0].double().cpu().numpy())
        return torch.as_tensor(v).to(u)[None], torch.as_tensor(log_r).to(log_q)[None]


def density_of(approximation: Approximation) -> Density | None:
    """log q(u) at fresh positions, of a guide that is a distribution over positions; else None."""
    q = approximation.over_positions()
    if q is None:
        return None
    potential = approximation.potential

    def log_q(u: np.ndarray) -> np.ndarray:
        at = torch.as_tensor(u, dtype=potential.dtype, device=potential.device)
        with torch.no_grad():
            value: np.ndarray = q.log_prob(at).double().cpu().numpy()
        return value

    return log_q


class _Numbers(TorchDispatchMode):
    """Counts the elements that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += sum(t.numel() for t in pytree.tree_leaves(out) if isinstance(t, Tensor))
        return out


def affordable(log_q: Density, u: np.ndarray) -> int:
    """Fresh positions at which `DENSITY_WORK` numbers evaluate log q, by what one more of u (S, D) takes."""
    counts = []
    for size in (1, 2):
        with _Numbers() as numbers:
            log_q(u[:size])
        counts.append(numbers.count)
    return int(DENSITY_WORK / max(counts[1] - counts[0], 1))


def rescued(
    found: Assessment,
    tree: xr.DataTree,
    fit: Fit | None,
    reference: Reference | None = None,
    modes: Basins | None = None,
    seed: int = 0,
) -> Assessment:
    """The assessment as it is, or that of moved draws where it is a reject and they can be used.

    Arguments: as those of `assess`, and what it found.
    """
    if fit is None or not _may_be_moved(found, tree, fit):
        return found
    matched = _matched(found, tree, fit)
    if matched is None:
        return found
    size = tree["posterior"].sizes["draw"]
    if not matched.khat < khat_limit(size):
        return _said(found, f"{_fell(matched)}, above its limit; the draws stay as fitted.")
    if not matched.together < khat_limit(size):
        return _said(
            found,
            f"{_fell(matched)}. Together with the draws as fitted it is {matched.together:.2f}: the moved "
            "draws leave out what those have seen, and are not used.",
        )
    draws = Moved(fit.model, fit.guide, fit.data, fit.sites, maps=matched.maps)
    moved = to_datatree(draws, fit.record, size, seed + 1)
    u = moved["unconstrained"]["position"].values[0]
    around = search_around(fit.potential, u[:SEARCH_DRAWS], seed, modes)
    reason = (
        f"{found.judgement.reason} Moment matching ({matched.words}) moved the draws (k-hat "
        f"{found.numbers['khat']:.2f} before)."
    )
    again = assess(moved, fit, reference, around, seed, reason)
    against = "" if again.judgement.verdict is Verdict.REWEIGHT else again.judgement.reason
    against = against or _contradicted(found, again, moved)
    if against:
        return _said(found, f"{_fell(matched)}. The moved draws fail: {against}")
    numbers = found.numbers | {name: again.numbers[name] for name in OF_WEIGHTS}
    said = [
        *found.witnesses,
        f"{NAME}: {_fell(matched)}.",
        *(f"Moved: {w}" for w in again.witnesses),
    ]
    return replace(again, numbers=numbers, witnesses=said, matched=moved)


def _may_be_moved(found: Assessment, tree: xr.DataTree, fit: Fit) -> bool:
    """Of a density over positions, with gradients, where nothing rules the approximation out and the
    weights cannot be used.

    What weights that can be used are blind to, moved draws would hide. Components that can change places
    would leave their order on the way.
    """
    findings = found.findings
    told = findings.testimonies.get(importance.NAME)
    unusable = told is not None and any((*told.against_weighted, *told.weak_weighted))
    return (
        unusable
        and found.judgement.verdict is Verdict.REJECT
        and findings.kind == "density"
        and not findings.discrete
        and not any(t.rules_out for t in findings.testimonies.values())
        and "unconstrained" in tree.children
        and "log_q" in tree["sample_stats"].data_vars
        and fit.potential.vectorised
        and exchangeable(fit.model) is None
        and fit.approximation.over_positions() is not None
    )


def _matched(found: Assessment, tree: xr.DataTree, fit: Fit) -> Matching | None:
    """The maps, found from as many draws as are cheap; None where they are too few or none helps."""
    potential = fit.potential
    u = tree["unconstrained"]["position"].values[0]
    stats = tree["sample_stats"]
    log_ratio = (stats["lp"] - stats["log_q"]).values[0]
    size = int(min(len(u), DRAWS, WORK / potential.cost / matching.MOST_ROUNDS))
    log_q = density_of(fit.approximation)
    assert log_q is not None  # `_may_be_moved`
    fresh = affordable(log_q, u)
    if size < min(LEAST_DRAWS, len(u)) or fresh < LEAST_FRESH:
        return None
    if fresh < len(u):  # a split would need them all
        fresh = min(fresh, size - 1)
    return matching.match(
        lambda at: log_density(potential, at),
        u[:size],
        log_ratio[:size],
        log_q,
        _towards(found, u),
        fresh,
    )


def _towards(found: Assessment, u: np.ndarray) -> Affine | None:
    """The map to the normal that matches the gradients at the draws u (S, D), by Stein's identities."""
    heard = found.findings.testimonies.get(stein.NAME)
    told = heard.detail[0] if heard is not None and heard.detail else None
    if told is None or told.covariance is None or len(told.mean) != u.shape[1]:
        return None
    own = np.atleast_2d(np.cov(u, rowvar=False))
    return matching.between(u.mean(0), own, told.mean, told.covariance)


def _contradicted(found: Assessment, again: Assessment, moved: xr.DataTree) -> str:
    """What the run from the draws as fitted says against the weighted moved draws; "" where nothing.

    Draws that shrink to a part of the posterior may agree with a run from there: the run from where they
    came has seen more.
    """
    heard = found.findings.testimonies.get(transport.NAME)
    if heard is None or heard.detail is None or again.weights is None:
        return ""
    values = marginals_of(moved).values[:, None]
    error = transport.of_weighted(values, heard.detail, again.weights[:, None])
    if not error.bad()[0]:
        return ""
    return f"Compared with a short HMC run from the draws as fitted, {error.worst(again.findings.names)}."


def _fell(matched: Matching) -> str:
    return (
        f"k-hat fell from {matched.khat_before:.2f} to {matched.khat:.2f} ({matched.words}; "
        f"{matched.rounds} evaluations of every draw)"
    )


def _said(found: Assessment, words: str) -> Assessment:
    """The assessment as it is, with what moment matching did among what the witnesses state."""
    return replace(found, witnesses=[*found.witnesses, f"{NAME}: {words}"])
