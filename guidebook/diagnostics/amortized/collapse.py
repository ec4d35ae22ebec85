r"""Is the latent used at all: KL by dimension, active units, mutual information, and the decoder.

A fit can be the exact posterior of a model whose decoder ignores z: then p(z | x) = p(z), q = p(z) is
right, and the verdict on the *posterior* may well be trust. The model is of no use all the same, and
what is said here is said beside the verdict, with the remedy.

    KL_j      mean over rows of KL(q(z_j | x) || p(z_j)), nats
    active    variance over rows of E_q z_j, in prior variances, above 0.01
    swap      mean over rows of log p(x_i | z_i) - log p(x_i | z_k), z_k another row's draw, nats

Sources: Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders" (active units);
Hoffman and Johnson 2016, "ELBO surgery: yet another way to carve up the variational evidence lower
bound"; Lucas, Tucker, Grosse and Norouzi 2019, "Don't blame the ELBO! A linear VAE perspective on
posterior collapse" (the fixed variance as the cause); Bowman et al. 2016, "Generating sentences from
a continuous space" (warm-up, and decoders that need no latent).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyro import poutine
from scipy.special import psi
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from guidebook.diagnostics.amortized.rows import (
    Latent,
    draw_rows,
    is_amortized,
    latents_of,
    observed,
    prior_draws,
    reads,
    rows_of,
    some_rows,
    split,
    terms_of_draws,
    unwrapped,
)
from guidebook.diagnostics.amortized.surgery import surgery
from guidebook.diagnostics.judging.findings import Judgement
from guidebook.diagnostics.measures.information import Estimate
from guidebook.errors import GuideError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.gradient.activity import (
    ACTIVE,
    NOTHING,
    REMEDY,
    kl_by_dimension,
    normal_rows,
)
from guidebook.inference.protocols.rows import RowPosterior
from guidebook.programs.graphs.recorded import recording
from guidebook.scope import local_parameters, precision, random_state

IGNORED = 0.1
"""Nats a row. A decoder whose log density drops by less when z is another row's ignores z."""
DRAWS, ROWS_OF_FLOWS = 200, 300
"""Draws of a row; rows between which mutual information is taken where q is no normal: every draw of a row
is inverted for every other one.
"""


@dataclass(frozen=True)
class Collapse:
    """How much the latents say about the rows and the decoder uses; D dimensions of all sites in turn.

    `names` and `kl` (D,), nats; `variance` (D,), of the posterior means over rows, in prior
    variances; `information` and `marginal_kl` from ELBO surgery (NaN for guides of several sites),
    `limit` = log rows; `swapped`: what log p(x | z) loses when z is another row's, `from_prior`:
    when z is drawn from the prior; nats a row.
    """

    names: tuple[str, ...]
    kl: np.ndarray
    variance: np.ndarray
    information: Estimate
    marginal_kl: Estimate
    limit: float
    swapped: Estimate
    from_prior: Estimate
    rows: int

    @property
    def active(self) -> np.ndarray:
        """Which dimensions are active (D,)."""
        return self.variance > ACTIVE

    @property
    def ignored(self) -> bool:
        """The decoder ignores z: swapping costs less than 0.1 nats, two standard errors included."""
        return self.swapped.value + 2 * self.swapped.se < IGNORED

    @property
    def collapsed(self) -> bool:
        """The decoder ignores all dimensions, or none is active and q is the prior.

        A q with two mirrored branches has a mean of nil for every row, and is far from the prior.
        """
        return self.ignored or (not self.active.any() and not self.kl.max() >= NOTHING)

    def sentence(self) -> str:
        """The finding in words."""
        used, D = int(self.active.sum()), len(self.kl)
        swap = f"{self.swapped.value:.2g} +- {self.swapped.se:.1g} nats a row"
        if self.collapsed:
            cause = (
                f"the decoder ignores z (another row's z lowers log p(x | z) by {swap})"
                if self.ignored
                else f"q(z | x) hardly depends on the row (KL to the prior {self.kl.sum():.2g} nats a row)"
            )
            return f"Collapsed: {used} of {D} latent dimensions are active, and {cause}."
        told = f"{used} of {D} latent dimensions are active; another row's z lowers log p(x | z) by {swap}."
        if math.isfinite(self.information.value):
            told += (
                f" Mutual information of row and z {self.information.value:.2g} +- "
                f"{self.information.se:.1g} nats (possible: at most {self.limit:.2g}), KL of the "
                f"aggregate posterior to the prior "
                f"{self.marginal_kl.value:.2g} +- {self.marginal_kl.se:.1g}."
            )
        return told


def collapse(fit: Fit, *, rows: int = 1000, draws: int = DRAWS, seed: int = 0) -> Collapse:
    """KL by dimension, active units and use of z by the decoder, on up to `rows` rows of the data.

    KL per dimension is in closed form between normals (marginals of a full covariance), and from the
    spacings of `draws` draws otherwise. Raises GuideError for a guide without a q(z | x).
    """
    if not is_amortized(fit):
        raise GuideError(
            "collapse needs a guide with a q(z | x) for each row, such as AmortizedNormal; this one is "
            f"{type(fit.guide).__name__}."
        )
    index = some_rows(len(observed(fit)), rows, seed)
    x = rows_of(fit, observed(fit), index)
    with (
        local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        latents = latents_of(fit, x)
        z, _ = draw_rows(fit, x, min(draws, max(20, 20_000_000 // max(1, x.numel()))))
        kl, prior_sd = _by_dimension(fit, x, z, latents)
        swapped, from_prior = _swaps(fit, x, z[:8], latents)
        variance = _between(z) / np.square(prior_sd)
    found = Collapse(
        tuple(_names(latents)), kl, variance, *_NO_SURGERY, math.log(len(x)), swapped, from_prior,
        len(x),
    )  # fmt: skip
    if isinstance(fit.guide, RowPosterior) and len(latents[0].shape) == 1:
        with contextlib.suppress(NotImplementedError):  # surgery reads the mean of q
            with local_parameters(), precision(x.dtype), torch.no_grad():
                closed = normal_rows(fit.guide.posterior(x[:1])) is not None
            some = rows if closed else min(rows, ROWS_OF_FLOWS)
            parts = surgery(fit, rows=some, draws=2, seed=seed)
            found = replace(
                found, information=parts.mutual_information, marginal_kl=parts.marginal_kl, limit=parts.limit
            )  # fmt: skip
    return found


_NO_SURGERY = (Estimate(math.nan, math.nan), Estimate(math.nan, math.nan))


def active_dimensions(guide: RowPosterior, x: Tensor, prior_scale: float = 1.0) -> Tensor:
    """KL(q(z_j | x) || N(0, prior_scale^2)) by dimension, on average over the rows x: (D,), nats.

    Cheap enough for every report of a training run: one pass of the encoder, closed form for normal
    guides, 100 draws for others. Near 0 in every dimension: the posterior has collapsed.
    """
    with torch.no_grad(), local_parameters():
        q = guide.posterior(x)
        normal = normal_rows(q)
        if normal is not None:
            return kl_by_dimension(normal, prior_scale)
        z = q.sample(torch.Size((100,))).reshape(100, len(x), -1)
        return _by_spacing(z, Normal(torch.zeros_like(z), prior_scale)).mean(0).to(z.dtype)


def with_collapse(judgement: Judgement, found: Collapse) -> Judgement:
    """The judgement on the posterior, and beside it that the model makes no use of its latents."""
    if not found.collapsed:
        return judgement
    return Judgement(
        judgement.verdict,
        f"{found.sentence()} {judgement.reason}",
        f"To prevent the collapse: {REMEDY}. {judgement.next}",
    )


# by dimension ------------------------------------------------------------------------------------


def _names(latents: tuple[Latent, ...]) -> list[str]:
    return [f"{one.name}[{j}]" for one in latents for j in range(math.prod(one.shape))]


def _by_dimension(
    fit: Fit, x: Tensor, z: Tensor, latents: tuple[Latent, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """KL of every dimension, on average over rows, and the prior's standard deviation: (D,) each.

    A site whose prior or posterior depends on another one is averaged over that one's draws.
    """
    assert fit.model is not None
    some = z[: min(len(z), max(1, 200_000 // max(1, len(x))))]
    kls, sds = [], []
    repeats = 1 if len(latents) == 1 else len(some)
    rows = x.repeat(repeats, *(1 for _ in x.shape[1:]))
    values = split(latents, some[:repeats].reshape(repeats * len(x), -1))
    p = poutine.trace(poutine.condition(fit.model, data=values)).get_trace(**{reads(fit): rows})
    q = poutine.trace(poutine.condition(fit.guide, data=values)).get_trace(**{reads(fit): rows})
    start = 0
    for one in latents:
        width = math.prod(one.shape)
        ahead, own = p.nodes[one.name]["fn"], q.nodes[one.name]["fn"]
        prior_inner: Any = unwrapped(ahead)
        inner = unwrapped(own)
        normal = isinstance(prior_inner, Normal) and isinstance(inner, Normal | MultivariateNormal)
        total = (repeats * len(x), width)
        if normal:
            mean = own.mean.expand(total[0], *one.shape).reshape(total)
            sd = own.variance.sqrt().expand(total[0], *one.shape).reshape(total)
            prior = Normal(
                prior_inner.loc.expand(total[0], *one.shape).reshape(total),
                prior_inner.scale.expand(total[0], *one.shape).reshape(total),
            )
            kls.append(kl_divergence(Normal(mean, sd), prior).mean(0))
            sds.append((prior.variance.mean(0) + prior.mean.var(0, correction=0)).sqrt())
        else:
            kls.append(
                _site_kl(ahead, own, values[one.name], z[..., start : start + width], len(x))
            )
            try:
                spread = ahead.variance.reshape(-1, width).mean(0).sqrt()
            except NotImplementedError:
                spread = ahead.sample(torch.Size((50,))).reshape(-1, width).std(0)
            sds.append(spread.to(z.dtype).clamp_min(1e-12))
        start += width
    return torch.cat(kls).double().cpu().numpy(), torch.cat(sds).double().cpu().numpy()


def _site_kl(ahead: Any, own: Any, value: Tensor, z: Tensor, n: int) -> Tensor:
    """From spacings under a normal prior; else the site's own KL, spread over its dimensions."""
    inner = unwrapped(ahead)
    if isinstance(inner, Normal):
        shape = (
            (-1, n, z.shape[-1]) if inner.loc.numel() >= n * z.shape[-1] else (1, 1, z.shape[-1])
        )
        loc = inner.loc.reshape(shape)[0] if inner.loc.numel() > 1 else inner.loc
        scale = inner.scale.reshape(shape)[0] if inner.scale.numel() > 1 else inner.scale
        return _by_spacing(z, Normal(loc.expand_as(z), scale.expand_as(z))).mean(0).to(z.dtype)
    try:
        total = kl_divergence(own, ahead).reshape(len(value), -1).sum(1).mean()
    except NotImplementedError:
        total = (own.log_prob(value) - ahead.log_prob(value)).reshape(len(value), -1).sum(1).mean()
    return (total / z.shape[-1]).expand(z.shape[-1])


def _by_spacing(z: Tensor, prior: Normal) -> Tensor:
    r"""KL(q_j || p_j) of every row and dimension, (n, D), from draws z (S, n, D).

    u = F(z), F the prior's distribution function, is uniform where q_j is the prior, and
    KL(q_j || p_j) = -h(u). With m = sqrt(S) / 2 and the m-spacings D of the sorted u,

    .. math:: -\hat h = \psi(m) - \psi(S + 1) - \overline{\log D}

    which is 0 on average for a uniform u, and some hundredths too large elsewhere.

    Source: Vasicek (1976), A test for normality based on sample entropy; the correction is the
    expectation of uniform spacings.
    """
    S = len(z)
    m = max(2, int(math.sqrt(S) / 2))
    u = torch.special.ndtr((z.double() - prior.loc) / prior.scale).sort(0).values
    gaps = (u[m:] - u[:-m]).clamp_min(1e-300)
    return float(psi(m) - psi(S + 1)) - gaps.log().mean(0)


def _between(z: Tensor) -> np.ndarray:
    """Variance over rows of E_q z (D,), without the noise that a mean of S draws adds."""
    S = len(z)
    noise = z.var(0).mean(0) / S
    found: np.ndarray = (z.mean(0).var(0) - noise).clamp_min(0).double().cpu().numpy()
    return found


# the decoder -------------------------------------------------------------------------------------


def _swaps(
    fit: Fit, x: Tensor, z: Tensor, latents: tuple[Latent, ...]
) -> tuple[Estimate, Estimate]:
    """What log p(x | z) loses by another row's z, and by a draw of the prior."""
    n = len(x)
    if n < 2:
        return _NO_SURGERY
    own = terms_of_draws(fit, x, z, latents).likelihood
    shifts = torch.randint(1, n, (len(z),))
    other = torch.stack([one.roll(int(s), 0) for one, s in zip(z, shifts, strict=True)])
    ahead = prior_draws(fit, len(z) * n, latents, z.flatten(0, 1)).reshape(z.shape)
    losses = [own - terms_of_draws(fit, x, at, latents).likelihood for at in (other, ahead)]
    first, second = (_over_rows(one.double().mean(0)) for one in losses)
    return first, second


def _over_rows(values: Tensor) -> Estimate:
    return Estimate(float(values.mean()), float(values.std() / math.sqrt(len(values))))
