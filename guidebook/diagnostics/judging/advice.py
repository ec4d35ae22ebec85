"""What to try next: by what was found, and by the family that was fitted."""

from __future__ import annotations

from guidebook.diagnostics.judging.findings import Findings

RICHER = {
    "mean_field": "try full_rank, or a reparameterised (non-centred) model",
    "AutoNormal": "try full_rank, or a reparameterised (non-centred) model",
    "AutoDiagonalNormal": "try full_rank, or a reparameterised (non-centred) model",
    "delta": "try full_rank, or a reparameterised (non-centred) model",
    "low_rank": "try full_rank or flow",
    "AutoLowRankMultivariateNormal": "try full_rank or flow",
    "full_rank": "try flow, a reparameterised (non-centred) model, or nuts",
    "AutoMultivariateNormal": "try flow, a reparameterised (non-centred) model, or nuts",
}
"""What to fit after a family that was too poor."""


def advice(f: Findings) -> str:
    """The next step, as sentences."""
    if f.kind == "chains" and f.converged:
        return "Check that the draws were made with this model and these data."
    if f.kind == "chains":
        return "Raise tune and draws, or reparameterise the model."
    if f.kind == "particles":
        return "Raise particles and steps, or use nuts."
    if f.converged is False and f.status:
        remedy = f.status.split(". ", 1)[-1]
        return f"{capital(richer(f))}. {remedy}" if _surely_off(f) else remedy
    if any(t.rules_out for t in f.testimonies.values()):
        return "Use nuts with several chains, or order the components of a mixture."
    return capital(richer(f)) + "."


def richer(f: Findings) -> str:
    """The next richer family, by what is wrong."""
    reference = f.testimonies.get("Reference")
    if f.posteriors > 1 and f.discrete:
        return (
            "give the model a method log_evidence(x) that sums over all states, as DiscreteVAE does"
        )
    if f.posteriors > 1:
        return "try covariance='full', a larger encoder or more steps; see the worst rows"
    if f.discrete and (reference is None or reference.estimate is None):
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
