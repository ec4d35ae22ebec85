"""The bound of each row against its evidence, where the model can sum over all states of its latents.

    log p(x_i) = log sum_z p(x_i, z)

A state of posterior probability a that the guide never visits lowers the importance-weighted bound
by -log(1 - a), about a nats, and shows in nothing else: discrete latents have no gradients, and
weights of visited states look the same. Where bound and evidence agree, the weights see everything,
so the moments that they give are the posterior's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony, where
from guidebook.diagnostics.witnesses import importance

NAME = "Enumeration"
EVIDENCE_LIMIT, EVIDENCE_NOISE = 0.05, 0.025
"""Nats by which the bound of a row may miss the exact evidence, and the most that its error adds
(twice): a state of posterior probability 0.05 that the guide never visits costs 0.05 nats."""


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Discrete posteriors only: vouches where bound and evidence agree and the weights find no error."""
    weights = heard[importance.NAME]
    if not subject.is_discrete or weights.estimate is None:
        return Testimony(NAME)
    if subject.evidence is None:
        return Testimony(NAME, absent=subject.lacks.get("evidence", ""))
    bound, error = weights.numbers["log_evidence"], weights.numbers["log_evidence_se"]
    noise = np.minimum(np.nan_to_num(error, nan=EVIDENCE_NOISE), EVIDENCE_NOISE)
    agrees = np.abs(bound - subject.evidence) <= EVIDENCE_LIMIT + 2 * noise
    words = where(
        ~agrees,
        lambda i: (
            f"The draws miss states of the latents: the importance-weighted bound is {bound[i]:.4g} "
            f"nats, the exact log evidence (all states summed) {subject.evidence[i]:.4g}."
        ),
    )
    return Testimony(
        NAME,
        words=(
            f"The importance-weighted bound equals the exact log evidence (all states summed) for "
            f"{agrees.mean():.0%} of the rows.",
        ),
        against=words,
        against_weighted=words,
        vouches=agrees & weights.estimate.good(),
        checks=agrees,
        agreement="the importance-weighted bound equals the exact log evidence",
    )
