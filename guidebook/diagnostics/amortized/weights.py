"""Every row of an amortised fit as a posterior of its own: draws, weights, diagnostics.

The cheap witnesses are heard on every row, block by block; the costly ones on a random sample of
the rows, where their latents are all real numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.amortized.annealing import (
    FEWER,
    REFINED,
    TEMPERATURES,
    affordable_draws,
    annealed_from_prior,
)
from guidebook.diagnostics.amortized.density import RowDensity
from guidebook.diagnostics.amortized.numbers import LeftOut
from guidebook.diagnostics.amortized.rows import (
    Latent,
    discrete,
    draw_rows,
    latents_of,
    names_of,
    some_rows,
    terms_of_draws,
)
from guidebook.diagnostics.evidence.subject import Annealed, Effort, Own, Subject
from guidebook.diagnostics.evidence.testimony import Testimony, among, joined
from guidebook.diagnostics.witnesses import annealed, importance
from guidebook.diagnostics.witnesses.hearing import heard_on
from guidebook.errors import ModelError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.protocols.rows import RowPosterior
from guidebook.programs.graphs.recorded import recording
from guidebook.scope import local_parameters, precision, random_state

DRAWS = 2000
SAMPLED, WORST, SAMPLED_DRAWS = 24, 8, 1000
"""Random rows for the costly witnesses, those with the largest k-hats besides, and draws of each."""
FIGURES, SHOWN, POINTS = 3, 400, 200
"""Rows with an explanation that q leaves out that are drawn, draws of q of each, and of its posterior."""
CHAINS, BEGINNING, ANNEALING = (32, 256), 64, 2e8
"""Of the chains annealed from the prior; at most where mixtures go on from them; numbers that their first
gradients go through, some seconds."""
OWN_DRAWS = 4_000
"""Of q, for its moments."""
OTHERS, SCANNED, SCANNING, OTHER_DRAWS = "Annealing from the prior, other rows", 8_000, 1e9, 500
"""Chains of all other rows together, numbers that their first gradients go through, and draws of a row."""
ADAPTED = 400_000
"""Draws of all other rows together from their mixtures."""
MOST_LATENTS, LATENTS_OF_PARTS = 8_000_000, 1_000_000
"""Latent numbers drawn at a time: rows are taken in blocks; and where draws are taken in parts."""
WORK = 1_000_000_000
"""Rows x draws x pixels: a minute or less of decoding a small image on two cores."""


@dataclass(frozen=True)
class Weighed:
    """Per row (n,): ELBO, importance-weighted bound, k-hat with its error; moments of q (n, D).

    `heard`: the testimonies on all rows; `sampled`: places of the random rows that the costly ones are
    of, None where none could be computed; `worst`: places of the rows with the largest k-hats that they
    are of besides, of those whose weights cannot be used. `elsewhere` (n,): the share of a row's posterior
    in explanations that q leaves out, 0 where none was found or looked for.
    """

    elbo: np.ndarray
    bound: np.ndarray
    khat: np.ndarray
    khat_se: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    draws: int
    heard: Mapping[str, Testimony]
    sampled: Sequence[int] | None
    names: Sequence[str]
    discrete: bool = False
    worst: Sequence[int] = ()
    elsewhere: np.ndarray | None = None
    left_out: tuple[LeftOut, ...] = ()


def weigh(
    fit: Fit, x: Tensor, seed: int, draws: int | None = None, effort: Effort = "full"
) -> Weighed:
    """Draws of each row of x (n, ...) with their weights, and the witnesses on them.

    `draws` of each (None: 2,000, fewer where rows x draws x pixels exceed a thousand million).
    """
    draws = draws or max(200, min(DRAWS, WORK // max(1, x.numel())))
    parts, moments = [], []
    with (
        local_parameters(), precision(x.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        latents = latents_of(fit, x)
        whole = discrete(fit, x, latents)
        for rows in x.split(max(1, MOST_LATENTS // (draws * len(whole)))):
            subject, z = _subject(fit, rows, draws, latents, whole)
            moments.append(_moments(fit, rows, z))
            parts.append(heard_on(subject, cheap=True))
    heard = {name: joined([part[name] for part in parts]) for name in parts[0]}
    numbers = heard[importance.NAME].numbers
    real = all(one.real for one in latents)
    # without gradients one row is enough to say why the costly witnesses could not be computed
    sampled = some_rows(len(x), SAMPLED if real else 1, seed)
    worst = _worst(heard[importance.NAME], sampled) if real else sampled[:0]
    chosen = np.concatenate([sampled, worst])
    subject, costly = _on_a_sample(fit, x, seed, draws, latents, whole, chosen, effort)
    heard |= {name: among(t, chosen, len(x)) for name, t in costly.items() if name not in heard}
    elsewhere, told = np.zeros(len(x)), costly.get(annealed.NAME)
    if told is not None and told.detail is not None:
        elsewhere[chosen] = told.detail
        others, scanned = _on_others(fit, x, seed, latents, whole, chosen, subject)
        if others is not None:
            heard[OTHERS], elsewhere[scanned] = among(others, scanned, len(x)), others.detail
    return Weighed(
        elbo=numbers["elbo"],
        bound=numbers["log_evidence"],
        khat=numbers["khat"],
        khat_se=numbers["khat_se"],
        mean=np.concatenate([part[0] for part in moments]),
        sd=np.concatenate([part[1] for part in moments]),
        draws=draws,
        heard=heard,
        sampled=list(map(int, sampled)) if real else None,
        names=names_of(latents),
        discrete=bool(whole.any()),
        worst=list(map(int, worst)),
        elsewhere=elsewhere,
        left_out=_left_out(subject, elsewhere[chosen], chosen),
    )


def _worst(weights: Testimony, sampled: np.ndarray) -> np.ndarray:
    """Places of the rows with the largest k-hats, of those whose weights cannot be used."""
    assert weights.doubt is not None
    unusable = np.setdiff1d(np.flatnonzero(~np.isfinite(weights.doubt)), sampled)
    order = np.argsort(-np.nan_to_num(weights.numbers["khat"][unusable], nan=np.inf), kind="stable")
    found: np.ndarray = unusable[order[:WORST]]
    return found


def _subject(
    fit: Fit, rows: Tensor, draws: int, latents: Sequence[Latent], whole: np.ndarray
) -> tuple[Subject, Tensor]:
    """Fresh draws z (draws, n, D) of these rows with their weights."""
    z, log_q = draw_rows(fit, rows, draws)
    terms = terms_of_draws(fit, rows, z, latents)
    log_joint = (terms.prior + terms.likelihood).double()
    subject = Subject(
        kind="density",
        names=names_of(latents),
        values=z.double().cpu().numpy(),
        discrete=whole,
        coordinates=names_of(latents),
        log_ratio=(log_joint - log_q.double()).cpu().numpy(),
        log_density=log_joint.cpu().numpy(),
        status=fit.status,
        amortized=True,
        evidence=_evidence(fit, rows) if whole.any() else None,
        lacks=_LACKS,
    )
    return subject, z


_LACKS = {
    "evidence": "the model does not sum over the states of its latents; DiscreteVAE does",
    "gradient": "latents that are not all real numbers",
    "density": "latents that are not all real numbers",
    "modes": "other explanations of a row are looked for by annealing from the prior",
}


def _on_a_sample(
    fit: Fit,
    x: Tensor,
    seed: int,
    draws: int,
    latents: Sequence[Latent],
    whole: np.ndarray,
    chosen: np.ndarray,
    effort: Effort,
) -> tuple[Subject, dict[str, Testimony]]:
    """Every witness on the chosen rows, and what they were heard on."""
    rows = x[torch.as_tensor(chosen, device=x.device)]
    with (
        local_parameters(), precision(x.dtype), random_state(seed + 1), torch.no_grad(), recording(),
    ):  # fmt: skip
        subject, z = _subject(fit, rows, min(draws, SAMPLED_DRAWS), latents, whole)
    if all(one.real for one in latents):
        density = RowDensity(fit, rows, latents)
        _, gradient = density.value_and_grad(z)
        position, slope = (a.double().cpu().numpy() for a in (z, gradient))
        subject = replace(
            subject, position=position, gradient=slope, density=density, seed=seed, effort=effort
        )
        work, refined = (0.0, FEWER) if effort == "quick" else (ANNEALING, REFINED)
        affordable = work / (len(rows) * TEMPERATURES * density.cost)
        subject = _annealed(
            fit, rows, latents, subject, int(np.clip(affordable, *CHAINS)), refined, seed + 2
        )
    return subject, heard_on(subject)


def _annealed(
    fit: Fit,
    rows: Tensor,
    latents: Sequence[Latent],
    subject: Subject,
    chains: int,
    draws: int,
    seed: int,
) -> Subject:
    """With weighted draws by chains annealed from the prior, and better moments of q than its draws have."""
    draws = affordable_draws(fit, rows, draws)
    drawn = annealed_from_prior(
        fit, rows, latents, chains=min(chains, BEGINNING) if draws else chains,
        temperatures=TEMPERATURES, seed=seed, draws=draws,
    )  # fmt: skip
    z, log_w, center, spread = (
        a.double().cpu().numpy() for a in (drawn.z, drawn.log_w, drawn.center, drawn.spread)
    )
    found = Annealed(z, log_w, drawn.known, center, spread)
    with (
        local_parameters(), precision(rows.dtype), random_state(seed), torch.no_grad(), recording(),
    ):  # fmt: skip
        own = _own_draws(fit, rows)
        mean, sd, exact = _moments(fit, rows, own)
    size = math.inf if exact else len(own)
    return replace(subject, annealed=found, own=Own(mean, sd, size, own.double().cpu().numpy()))


def _own_draws(fit: Fit, rows: Tensor) -> Tensor:
    """z (OWN_DRAWS, n, D) of q: a flow holds many numbers for each, so they are drawn in parts."""
    first, _ = draw_rows(fit, rows, 1)
    part = max(1, LATENTS_OF_PARTS // first.numel())
    rest = (draw_rows(fit, rows, n)[0] for n in _parts(OWN_DRAWS - 1, part))
    return torch.cat([first, *rest])


def _parts(total: int, part: int) -> list[int]:
    """Counts of at most `part` that add up to the total."""
    return [min(part, total - done) for done in range(0, total, part)]


def _on_others(
    fit: Fit,
    x: Tensor,
    seed: int,
    latents: Sequence[Latent],
    whole: np.ndarray,
    chosen: np.ndarray,
    closely: Subject,
) -> tuple[Testimony | None, np.ndarray]:
    """Chains from the prior on as many of the other rows as can be afforded, and the places of these.

    A few rows in a hundred may have a second explanation, and a random sample none of these; nothing else
    sees what q leaves out.
    """
    assert closely.density is not None
    affordable = min(SCANNED, SCANNING / (TEMPERATURES * closely.density.cost))
    rest = np.setdiff1d(np.arange(len(x)), chosen)
    rest = rest[some_rows(len(rest), int(affordable / CHAINS[0]), seed)]
    if not len(rest):
        return None, rest
    rows = x[torch.as_tensor(rest, device=x.device)]
    with (
        local_parameters(), precision(x.dtype), random_state(seed + 3), torch.no_grad(), recording(),
    ):  # fmt: skip
        subject, _ = _subject(fit, rows, OTHER_DRAWS, latents, whole)
    subject = replace(subject, density=RowDensity(fit, rows, latents))
    chains = int(np.clip(affordable / len(rest), *CHAINS))
    draws = int(np.clip(ADAPTED / len(rest), FEWER, REFINED))
    subject = _annealed(fit, rows, latents, subject, chains, draws, seed + 4)
    return replace(annealed.hear(subject, {}), witness=OTHERS, agreement=""), rest


def _left_out(subject: Subject, share: np.ndarray, chosen: np.ndarray) -> tuple[LeftOut, ...]:
    """The rows that lose most of their posterior by what q leaves out."""
    if subject.annealed is None:
        return ()
    weights = annealed.normalised(subject.annealed.log_w)
    found = []
    for i in np.argsort(-share)[:FIGURES]:
        if share[i] > 0:
            chosen_ends = weights[:, i] > 0
            ends, w = subject.annealed.values[chosen_ends, i], weights[chosen_ends, i]
            if subject.annealed.known[
                i
            ]:  # too many to be seen: equal weights, by systematic resampling
                at = np.searchsorted(np.cumsum(w), (np.arange(POINTS) + 0.5) / POINTS)
                ends, w = ends[np.minimum(at, len(w) - 1)], np.full(POINTS, 1 / POINTS)
            left = LeftOut(int(chosen[i]), float(share[i]), subject.values[:SHOWN, i], ends, w)
            found.append(left)
    return tuple(found)


def _evidence(fit: Fit, x: Tensor) -> np.ndarray | None:
    """log p(x_i) by enumeration (n,), where the model offers it and its states are few enough."""
    known = getattr(fit.model, "log_evidence", None)
    if not callable(known):
        return None
    try:
        evidence: np.ndarray = known(x).double().cpu().numpy()
    except ModelError:  # too many states
        return None
    return evidence


def _moments(fit: Fit, x: Tensor, z: Tensor) -> tuple[np.ndarray, np.ndarray, bool]:
    """Mean and standard deviation of q (n, D), and whether in closed form and not of its draws."""
    mean, sd, exact = z.mean(0), z.std(0), False
    if isinstance(fit.guide, RowPosterior):
        q = fit.guide.posterior(x)
        with contextlib.suppress(NotImplementedError):  # a flow
            mean, sd = q.mean.reshape(mean.shape), q.variance.sqrt().reshape(sd.shape)
            exact = True
    return mean.double().cpu().numpy(), sd.double().cpu().numpy(), exact


def codes(fit: Fit, x: Tensor) -> Weighed:
    """A deterministic guide: the codes, and nothing that needs a posterior."""
    with local_parameters(), precision(x.dtype), torch.no_grad(), recording():
        z, _ = draw_rows(fit, x, 1)
        names = names_of(latents_of(fit, x))
    code = z[0].double().cpu().numpy()
    unknown = np.full(len(x), math.nan)
    ended = Testimony("Convergence", words=(fit.status.value,))
    return Weighed(
        *(unknown,) * 4, code, np.zeros_like(code), 1, {"Convergence": ended}, None, names
    )
