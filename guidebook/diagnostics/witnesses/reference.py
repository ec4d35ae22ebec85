"""The draws against those of a reference, marginal by marginal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import wasserstein_distance

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony, where
from guidebook.diagnostics.numerics.psis import weighted_moments
from guidebook.diagnostics.witnesses.importance import weights_of

NAME = "Reference"
LISTED = 5
"""Parameters that a sentence names."""
LARGEST = 200
"""Marginals whose Wasserstein distance is computed; with more, every so many-th."""


def wasserstein_in_sds(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest 1-Wasserstein distance over marginals, in standard deviations of theirs.

    Of draws (S, M): the integral over probabilities of how far the two quantile functions are apart.
    """
    scale = np.maximum(theirs.std(0), 1e-300)
    every = max(1, ours.shape[1] // LARGEST)
    return max(
        (
            float(wasserstein_distance(ours[:, m] / scale[m], theirs[:, m] / scale[m]))
            for m in range(0, ours.shape[1], every)
        ),
        default=0.0,
    )


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Errors of raw and weighted draws against the reference's, with both Monte Carlo errors.

    A sound reference comes first: it speaks against draws that are at the limit. It vouches for
    draws that nothing else can judge: discrete ones, and those of files without log q.
    """
    reference = subject.reference
    if reference is None or subject.posteriors > 1:
        return Testimony(NAME)
    theirs = reference.marginals.in_order_of(subject.names)
    if theirs is None:
        return Testimony(
            NAME, absent=f"the reference '{reference.name}' lacks all of the parameters"
        )
    shared = ~np.isnan(theirs).all(0)  # a reparameterised model has sites of its own
    raw = _estimate(subject, theirs, None)
    weights = weights_of(heard)
    weighted = None if weights is None else _estimate(subject, theirs, weights[:, 0])
    sound, names = reference.sound, subject.names
    alone = subject.log_ratio is None and subject.kind != "chains"
    lacking = [name for name, there in zip(names, shared, strict=True) if not there]
    return Testimony(
        NAME,
        words=(f"Largest error against '{reference.name}': {raw.worst(names)}.", *_lacks(lacking)),
        role="compares",
        estimate=raw,
        weighted=weighted,
        against=_against(raw, names, subject.kind) if sound else (),
        against_weighted=where(
            weighted.bad(),
            lambda i: f"After weighting, compared with the reference, {weighted.worst(names, i)}.",
        )
        if sound and weighted is not None
        else (),
        vouches=np.atleast_1d(
            sound
            and not lacking
            and ((alone and raw.good()) or (subject.is_discrete and raw.within(0.0)))
        ),
        checks=np.full(1, sound and weighted is not None),
        agreement="means and standard deviations match the reference" if sound else "",
        numbers={
            "wasserstein": np.array(
                [wasserstein_in_sds(subject.values[:, 0][:, shared], theirs[:, shared])]
            )
        },
        detail=reference,
    )


def _lacks(names: Sequence[str]) -> tuple[str, ...]:
    """The sentence on the parameters that could not be compared."""
    if not names:
        return ()
    listed = ", ".join(names[:LISTED]) + ", ..." * (len(names) > LISTED)
    return (f"The reference has no {listed}: compared are the parameters that both have.",)


def _against(raw: Estimate, names: Sequence[str], kind: str) -> list[str]:
    off = where(raw.bad(), lambda i: f"Compared with the reference, {raw.worst(names, i)}.")
    if kind == "chains":  # two samplers: a difference within their errors is noise
        return off
    edge = where(
        ~raw.within(0.0),
        lambda i: (
            f"Compared with the reference, {raw.worst(names, i)}, beyond a limit by less than two standard "
            "errors."
        ),
    )
    return [a or b for a, b in zip(off, edge, strict=True)]


def _estimate(subject: Subject, theirs: np.ndarray, weights: np.ndarray | None) -> Estimate:
    reference, least = subject.reference, subject.least_sd
    assert reference is not None
    values = subject.values[:, 0]
    mean, sd = weighted_moments(values, weights)
    sd = np.maximum(sd, least)
    ref_mean, ref_sd = theirs.mean(0), np.maximum(theirs.std(0), least)
    size = len(values) if weights is None else 1 / np.square(weights).sum()
    error = math.sqrt(1 / size + 1 / max(reference.ess, 1)) * np.ones((1, len(mean)))
    shared = ~np.isnan(ref_mean)
    return Estimate(
        np.where(shared, (mean - ref_mean) / ref_sd, 0.0)[None],
        error,
        np.where(shared, np.log(sd / ref_sd), 0.0)[None],
        error / math.sqrt(2),
        (error > 0) & shared,
    )
