"""What is known of one approximation when it is judged, and the judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from guidebook.diagnostics.evidence.testimony import Testimony


class Verdict(Enum):
    """What to do with an approximation."""

    TRUST = "trust"
    REWEIGHT = "reweight"
    REJECT = "reject"


@dataclass(frozen=True)
class Findings:
    """One approximation of n posteriors (n = 1 for a global one) and what the witnesses state of it.

    Attributes:
        names: of the marginals (M). kind: "density", "point", "chains" or "particles".
        discrete: some marginal takes separate values. family, engine, draws: where they come from.
        converged, status: how the fit ended, None and "" where a file does not say.
        posteriors: n. testimonies: by witness, in the order of hearing.
        sampled: places of the rows that the costly witnesses looked at; None: all of them.
        fitted: of draws that were moved after the fit, why the draws as fitted cannot be used, and how
            they were moved; "" of draws as fitted.
    """

    names: Sequence[str]
    kind: str = "density"
    discrete: bool = False
    family: str = ""
    engine: str = ""
    draws: int = 0
    converged: bool | None = None
    status: str = ""
    posteriors: int = 1
    testimonies: Mapping[str, Testimony] = field(default_factory=dict)
    sampled: Sequence[int] | None = None
    fitted: str = ""

    def absent(self) -> list[str]:
        """What could not be computed, and why."""
        return [f"{t.witness} ({t.absent})" for t in self.testimonies.values() if t.absent]

    def sentences(self) -> list[str]:
        """What every witness states, for page and terminal."""
        said = [f"{t.witness}: {words}" for t in self.testimonies.values() for words in t.words]
        return said + [f"Not checked: {one}." for one in self.absent()]


@dataclass(frozen=True)
class Judgement:
    """The verdict, why, and what to try next, as sentences."""

    verdict: Verdict
    reason: str
    next: str
