"""NEEDS A DOCSTRING: guidebook.diagnostics.judging.advice."""

from __future__ import annotations

from guidebook.diagnostics.judging.findings import Findings

# advice ------------------------------------------------------------------------------------------


def _advice(f: Findings) -> str:
    if f.converged is False and f.engine == "svi":
        remedy = f.status.split(". ", 1)[-1] if f.status else "Raise steps."
        sure = any(e is not None and e.bad() for e in (f.reference, f.transport))
        return f"{_capital(_richer(f))}. {remedy}" if sure else remedy
    if f.sampler:
        return "Raise tune and draws, or reparameterise the model."
    if f.missing_mode:
        return "Use nuts with several chains, or order the components of a mixture."
    return _capital(_richer(f)) + "."


def _richer(f: Findings) -> str:
    """The next richer family, by what is wrong."""
    if f.discrete and f.reference is None:
        return "compare with gb.exact or gb.gibbs as reference"
    if f.discrete:
        return "try larger blocks of units, or gibbs"
    if f.family in ("mean_field", "AutoNormal", "AutoDiagonalNormal", "delta"):
        return "try full_rank, or a reparameterised (non-centred) model"
    if f.family in ("low_rank", "AutoLowRankMultivariateNormal"):
        return "try full_rank or flow"
    if f.family in ("full_rank", "AutoMultivariateNormal"):
        return "try flow, a reparameterised (non-centred) model, or nuts"
    return "try nuts, or a reparameterised model"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
