"""NEEDS A DOCSTRING: guidebook.diagnostics.judging.findings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from guidebook.diagnostics.witnesses.testimony import Estimate


class Verdict(Enum):
    """What to do with an approximation."""

    TRUST = "trust"
    REWEIGHT = "reweight"
    REJECT = "reject"


@dataclass(frozen=True)
class Findings:
    """What the witnesses said of one approximation; None where a witness could not be heard."""

    names: list[str]
    family: str = ""
    engine: str = ""
    draws: int = 0
    converged: bool | None = None
    status: str = ""
    vetoed: str = ""
    khat: float = math.nan
    khat_se: float = math.nan
    khat_limit: float = 0.7
    khat_moments: float = math.nan
    ess: float = math.nan
    importance: Estimate | None = None
    stein: float = math.nan
    stein_words: str = ""
    stein_weighted: float = math.nan
    transport: Estimate | None = None
    weighted_transport: Estimate | None = None
    missing_mode: str = ""
    modes_searched: bool = False
    reference: Estimate | None = None
    reference_sound: bool = False
    weighted_reference: Estimate | None = None
    sampler: bool = False
    point: bool = False
    discrete: bool = False
    absent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Judgement:
    """The verdict, why, and what to try next, as sentences."""

    verdict: Verdict
    reason: str
    next: str
