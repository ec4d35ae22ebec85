r"""Weighted draws of many posteriors at once, from mixtures that adapt to them: population Monte Carlo.

Each of n posteriors has its own mixture of K Student t distributions with 5 degrees of freedom, and one
more that stays where it is (the approximation that is judged, with wider tails). In every round, with
draws z_s of the mixture r, weights w_s = p(z_s) / r(z_s) and responsibilities rho_sk,

.. math:: \alpha_k = \sum_s w_s \rho_{sk}, \quad
    \mu_k = \frac{\sum_s w_s \rho_{sk} \gamma_{sk} z_s}{\sum_s w_s \rho_{sk} \gamma_{sk}}, \quad
    \Sigma_k = \frac{\sum_s w_s \rho_{sk} \gamma_{sk} (z_s - \mu_k) (z_s - \mu_k)'}
        {\sum_s w_s \rho_{sk}}, \quad \gamma_{sk} = \frac{5 + D}{5 + \delta_{sk}},

delta the squared distance in units of Sigma_k; the step that brings the mixture closest to p in
Kullback-Leibler divergence. The last round's draws are fresh, so that mean w is an unbiased estimate of
the normaliser, and the whole mixture stands in the denominator of every draw.

Sources: Cappe, Douc, Guillin, Marin and Robert 2008, "Adaptive importance sampling in general mixture
classes"; Owen and Zhou 2000, "Safe and effective importance sampling" (the fixed component); Ionides 2008,
"Truncated importance sampling" (weights of a round are cut at sqrt S times their mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.numerics.psis import psis

COMPONENTS, ROUNDS, LEAST = 6, 4, 300
"""Of a mixture; in which it adapts, by as many draws together as are given at last; of one at least."""
FREEDOM = 5.0
LEAST_SHARE, FIXED_SHARE = 0.04, 0.1
"""Of the draws, from every component that adapts and from the one that does not: a branch with a hundredth
of the mass is drawn from as well."""
CANDIDATE = 0.01
"""Of the largest weight: ends with less are no centres to begin with."""
JITTER = 1e-8
LIGHT, LEAST_EVEN = 0.5, 0.05
"""k-hat, with its error, below which weights have a finite variance; effective draws, as a share."""
ALIKE, ALIKE_TOP = 0.75, 15.0
"""Weights of which such a share is effective, none above so many times the mean, have no tail whose k-hat
would mean anything: standard errors say what the largest of them do."""


class Mixture(NamedTuple):
    """Of n posteriors: shares (K, n), means (K, n, D), lower triangular factors (K, n, D, D)."""

    share: Tensor
    mean: Tensor
    tril: Tensor

    def draw(self, size: int) -> Tensor:
        """Draws (size, n, D), by systematic shares of the components."""
        K, n, D = self.mean.shape
        place = torch.multinomial(self.share.T, size, replacement=True).T
        noise = torch.randn(size, n, D, dtype=self.mean.dtype, device=self.mean.device)
        half = torch.full((size, n, 1), FREEDOM / 2, dtype=noise.dtype, device=noise.device)
        noise = noise * (FREEDOM / 2 / torch._standard_gamma(half)).sqrt()
        z = torch.zeros_like(noise)
        for k in range(K):
            moved = self.mean[k] + torch.einsum("nij,snj->sni", self.tril[k], noise)
            z = torch.where((place == k)[..., None], moved, z)
        return z

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations, (n, D) each."""
        share = self.share[..., None]
        mean = (share * self.mean).sum(0)
        own = self.tril.square().sum(-1) * (FREEDOM / (FREEDOM - 2))
        return mean, (share * (own + (self.mean - mean).square())).sum(0).sqrt()

    def log_parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """log share + log t of every component, (K, S, n), and squared distances (K, S, n)."""
        D = z.shape[-1]
        constant = math.lgamma((FREEDOM + D) / 2) - math.lgamma(FREEDOM / 2)
        constant -= 0.5 * D * math.log(FREEDOM * math.pi)
        parts, distances = [], []
        for share, mean, tril in zip(*self, strict=True):
            centred = (z - mean).permute(1, 2, 0)  # (n, D, S)
            white = torch.linalg.solve_triangular(tril, centred, upper=False)
            distance = white.square().sum(1).T
            volume = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            tail = -0.5 * (FREEDOM + D) * torch.log1p(distance / FREEDOM)
            parts.append(share.log() + constant - volume + tail)
            distances.append(distance)
        return torch.stack(parts), torch.stack(distances)


class Weighted(NamedTuple):
    """Draws z (S, n, D) of n posteriors with log weights (S, n), and of which posteriors (n,) they are so
    many, and so even, that means, standard deviations and the normaliser have small errors. Theirs are
    independent draws of distributions with means `center` and standard deviations `spread`, (n, D) each, in
    closed form.
    """

    z: Tensor
    log_w: Tensor
    known: np.ndarray
    center: Tensor
    spread: Tensor


def refined(
    log_density: Callable[[Tensor], Tensor],
    ends: Tensor,
    tops: Tensor,
    log_w: Tensor,
    own: tuple[Tensor, Tensor],
    draws: int,
) -> Weighted:
    """Draws of the mixtures of those posteriors that they came close to; of the others the ends as they are.

    Arguments: `log_density` of z (S, n, D), (S, n); `ends` (C, n, D) with log weights (C, n), and `tops`
    (T, n, D), where log p has modes whatever their mass: there the mixtures begin; `own`, the mean (n, D) and
    factor (n, D, D) of the component that stays; `draws`, of which there are at least C.

    The mean of w estimates the normaliser in both kinds; draws of zero weight fill up the ends.
    """
    found, log_v, mixture = population(log_density, ends, tops, log_w, own, draws)
    known = np.array([_even(column) for column in log_v.cpu().numpy().T])
    here = torch.as_tensor(known, device=ends.device)
    more = draws - len(ends)
    padded = torch.cat([ends, ends[:1].expand(more, -1, -1)])
    nothing = log_w.new_full((more, len(known)), -math.inf)
    filled = torch.cat([log_w + math.log(draws / len(ends)), nothing])  # the same mean w
    return Weighted(
        torch.where(here[:, None], found, padded), torch.where(here, log_v, filled), known,
        *mixture.moments(),
    )  # fmt: skip


def population(
    log_density: Callable[[Tensor], Tensor],
    ends: Tensor,
    tops: Tensor,
    log_w: Tensor,
    own: tuple[Tensor, Tensor],
    draws: int,
) -> tuple[Tensor, Tensor, Mixture]:
    """Draws z (draws, n, D) of mixtures r, log weights log p(z) - log r(z) (draws, n), and r itself;
    arguments as of `refined`.
    """
    mixture = _begun(ends, tops, log_w, own)
    for _ in range(ROUNDS):
        z = mixture.draw(max(LEAST, draws // ROUNDS))
        mixture = _adapted(mixture, z, log_density(z))
    z = mixture.draw(draws)
    return z, log_density(z) - mixture.log_parts(z)[0].logsumexp(0), mixture


def _even(log_w: np.ndarray) -> bool:
    """Whether weights have a light tail and many effective draws, or hardly differ."""
    found = psis(log_w)
    if found is None:
        return False
    w = np.exp(log_w - log_w.max())
    share = 1 / (np.square(w / w.sum()).sum() * len(w))
    alike = share >= ALIKE and w.mean() * ALIKE_TOP >= 1.0
    light = found.khat + found.khat_se < LIGHT and share >= LEAST_EVEN
    return bool(alike or light)


def _begun(ends: Tensor, tops: Tensor, log_w: Tensor, own: tuple[Tensor, Tensor]) -> Mixture:
    """Components around ends and tops that are far from one another, the heaviest end first."""
    n, D = ends.shape[1:]
    weight = (log_w - log_w.amax(0)).exp()
    allowed = torch.where(weight >= CANDIDATE, 0.0, -math.inf)
    weight = weight / weight.sum(0)
    mean = (weight[..., None] * ends).sum(0)
    variance = (weight[..., None] * (ends - mean).square()).sum(0)
    variance = torch.maximum(variance, 1e-2 * own[1].square().sum(-1))
    row = torch.arange(n, device=ends.device)
    places = torch.cat([ends, tops])
    allowed = torch.cat([allowed, torch.zeros_like(tops[..., 0])])
    chosen = [weight.argmax(0)]
    apart = torch.full_like(allowed, math.inf)
    for _ in range(COMPONENTS - 1):
        last = places[chosen[-1], row]
        apart = torch.minimum(apart, ((places - last).square() / variance).sum(-1))
        chosen.append((apart + allowed).argmax(0))
    centres = torch.stack([places[k, row] for k in chosen])
    wide = torch.diag_embed((0.3 * variance).sqrt()).expand(COMPONENTS, n, D, D)
    share = torch.full((COMPONENTS, n), 1 / COMPONENTS, dtype=ends.dtype, device=ends.device)
    near = Mixture(share, centres, wide)
    # every end belongs to the component that it is nearest to: one without ends stays at its top
    log_t, distance = near.log_parts(ends)
    mine = torch.arange(COMPONENTS, device=ends.device)[:, None, None] == log_t.argmax(0)
    free = _moved(near, ends, weight * mine, distance)
    return _with_fixed(free, own)


def _adapted(mixture: Mixture, z: Tensor, log_p: Tensor) -> Mixture:
    """One step, with the weights of draws z (S, n, D) of the mixture."""
    log_t, distance = mixture.log_parts(z)
    whole = log_t.logsumexp(0)
    log_w = (log_p - whole).nan_to_num(-math.inf, -math.inf, -math.inf)
    w = (log_w - log_w.amax(0)).exp()
    w = torch.minimum(w, math.sqrt(len(z)) * w.mean(0))
    responsible = w / w.sum(0) * (log_t - whole).exp()
    free = Mixture(*(part[:-1] for part in mixture))
    fixed = mixture.mean[-1], mixture.tril[-1]
    return _with_fixed(_moved(free, z, responsible[:-1], distance[:-1]), fixed)


def _moved(mixture: Mixture, z: Tensor, responsible: Tensor, distance: Tensor) -> Mixture:
    """The means and factors of weighted draws, held near those before where few are effective.

    `responsible` (K, S, n): weights times responsibilities, that sum to at most 1.
    """
    D = z.shape[-1]
    total = responsible.sum(1).clamp_min(1e-300)
    size = total.square() / responsible.square().sum(1).clamp_min(1e-300)  # effective draws (K, n)
    pull = responsible * (FREEDOM + D) / (FREEDOM + distance)
    means, trils = [], []
    for k, (mean, tril) in enumerate(zip(mixture.mean, mixture.tril, strict=True)):
        here = torch.einsum("sn,snd->nd", pull[k], z) / pull[k].sum(0).clamp_min(1e-300)[:, None]
        kept = (1 / (1 + size[k]))[:, None]
        here = kept * mean + (1 - kept) * here
        scaled = (pull[k].sqrt()[..., None] * (z - here)).transpose(0, 1)  # (n, S, D)
        spread = scaled.mT @ scaled / total[k][:, None, None]
        before = tril @ tril.mT
        kept = ((D + 1) / (D + 1 + size[k]))[:, None, None]
        covariance = kept * before + (1 - kept) * spread
        floor = JITTER * before.diagonal(dim1=-2, dim2=-1)
        means.append(here)
        trils.append(torch.linalg.cholesky(covariance + torch.diag_embed(floor)))
    share = total / total.sum(0)
    share = share.clamp_min(LEAST_SHARE)
    return Mixture(share / share.sum(0), torch.stack(means), torch.stack(trils))


def _with_fixed(free: Mixture, own: tuple[Tensor, Tensor]) -> Mixture:
    share = torch.cat(
        [(1 - FIXED_SHARE) * free.share, torch.full_like(free.share[:1], FIXED_SHARE)]
    )
    return Mixture(
        share, torch.cat([free.mean, own[0][None]]), torch.cat([free.tril, own[1][None]])
    )
