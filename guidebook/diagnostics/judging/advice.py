"""What to try next: by what was found, and by the family that was fitted."""

from __future__ import annotations

from guidebook.diagnostics.judging.findings import Findings

_FACTORISED = "try full_rank, or a reparameterised (non-centred) model"
_LOW_RANK = "try full_rank or flow"
_GAUSSIAN = "try flow, a reparameterised (non-centred) model, or nuts"

RICHER = {
    **dict.fromkeys(("mean_field", "AutoNormal", "AutoDiagonalNormal", "delta"), _FACTORISED),
    **dict.fromkeys(("low_rank", "AutoLowRankMultivariateNormal"), _LOW_RANK),
    **dict.fromkeys(("full_rank", "AutoMultivariateNormal"), _GAUSSIAN),
}
"""What to fit after a family that was too poor."""


def advice(f: Findings) -> str:
    """The next step, as sentences."""
    for testimony in f.testimonies.values():
        if testimony.remedy:
            return testimony.remedy
    if f.kind == "chains" and f.converged:
        return "Check that the draws were made with this model and these data."
    if f.kind == "chains":
        return "Raise tune and draws, or reparameterise the model."
    if f.kind == "particles":
        return "Raise particles and steps, or use nuts."
    if f.converged is False and f.status:
        remedy = f.status.split(". ", 1)[-1]
        return f"{capital(richer(f))}. {remedy}" if _surely_off(f) else remedy
    return capital(richer(f)) + "."


def richer(f: Findings) -> str:
    """The next richer family, by what is wrong."""
    if f.posteriors > 1 and f.discrete:
        return (
            "give the model a method log_evidence(x) that sums over all states, as DiscreteVAE does"
        )
    if f.posteriors > 1:
        return "try covariance='full', a larger encoder or more steps; see the worst rows"
    if f.discrete and not any(t.role == "compares" for t in f.testimonies.values()):
        return "compare with gb.exact or gb.gibbs as reference"
    if f.discrete:
        return "try larger blocks of units, or gibbs"
    return RICHER.get(f.family, "try nuts, or a reparameterised model")


def _surely_off(f: Findings) -> bool:
    """An error beyond its limits by two standard errors, whatever more steps would do."""
    return any(
        bool(t.estimate.bad().any())
        for t in f.testimonies.values()
        if t.estimate is not None and t.role != "sharpens"
    )


def capital(text: str) -> str:
    """With a capital first letter."""
    return text[:1].upper() + text[1:]
