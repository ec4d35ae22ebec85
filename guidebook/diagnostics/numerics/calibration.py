r"""What ranks of true values among the draws of their posteriors say: is an approximation calibrated?

N times a truth z* was drawn and data y* given it, and the posterior of z given y* was approximated. Where
draws are of the exact posterior, the rank of z* among L of them is uniform on 0, ..., L, for every scalar
function of z and y*. With p = (rank + U) / (L + 1), U uniform:

    p piled up on one side        the draws are biased: high where p is small, low where it is large
    p piled up at both ends       the draws are too narrow
    p piled up in the middle      the draws are too wide

A quantity is off where one of the three tests of `guidebook.diagnostics.numerics.uniformity` rejects at a
level that leaves a calibrated approximation 1 % to be called off in any of them (Bonferroni). Besides the
marginals, ranks are taken of the joint density log p(z, y*), which sees draws that ignore the data, and
of the distance to a random point, which sees errors of the dependence between coordinates.

Sources: Yao, Vehtari, Simpson and Gelman 2018, "Yes, but did it work? Evaluating variational inference";
Talts, Betancourt, Simpson, Vehtari and Gelman 2018, "Validating Bayesian inference algorithms with
simulation-based calibration"; Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman and Vehtari 2023,
"Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
sensitivity"; Lemos, Coogan, Hezaveh and Perreault-Levasseur 2023, "Sampling-based accuracy testing of
posterior estimators for general inference" (the distance, TARP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.special import ndtri

from guidebook.diagnostics.numerics.uniformity import Uniformity, band, uniformity

if TYPE_CHECKING:
    import pandas as pd

DENSITY, DISTANCE = "log p(z, y)", "distance to a random point"
"""Quantities of all sites together."""
FALSE_ALARM = 0.01
"""The chance that a calibrated approximation has any quantity called off."""
TESTS = 3
LEVELS = (0.5, 0.8, 0.95)
"""Of the central intervals whose coverage is given."""
CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Calibration:
    """Ranks of N truths among draws, quantity by quantity, and what follows from them.

    Attributes:
        of: "prior", an average over all data sets the prior gives, or "posterior", given the data.
        engine: what was fitted to every data set; "" of an amortised guide, which is not fitted anew.
        names: of the quantities (Q): scalar marginals, then `DENSITY` and `DISTANCE`.
        ranks: of each truth among its draws, (N, Q), from 0 to `draws`; ties are broken at random.
        draws: L, of each posterior.
        asked: how many replications were asked for; N of them have ranks.
        ended: how the fits ended that did not converge, to their number; of these `unranked` have no
            draws to rank among.
        seconds, seed: as named.
    """

    of: Literal["prior", "posterior"]
    engine: str
    names: Sequence[str]
    ranks: np.ndarray
    draws: int
    asked: int
    ended: Mapping[str, int] = field(default_factory=dict)
    unranked: int = 0
    seconds: float = 0.0
    seed: int = 0

    @property
    def replications(self) -> int:
        """N."""
        return len(self.ranks)

    @cached_property
    def p(self) -> np.ndarray:
        """P(draw < truth), (N, Q), uniform within its rank: of a calibrated approximation on (0, 1)."""
        jitter = np.random.default_rng(self.seed).random(self.ranks.shape)
        found: np.ndarray = (self.ranks + jitter) / (self.draws + 1)
        return found

    @cached_property
    def tests(self) -> dict[str, Uniformity]:
        """The tests of uniformity of every quantity."""
        return {name: uniformity(self.p[:, i]) for i, name in enumerate(self.names)}

    @property
    def level(self) -> float:
        """The p-value below which a single test rejects."""
        return FALSE_ALARM / (TESTS * len(self.names))

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the ECDF of every quantity, at the points of `uniformity.grid`."""
        return band(self.replications, 1 - self.level)

    @cached_property
    def off(self) -> list[str]:
        """The quantities that are not calibrated, the most certain first."""
        rejected = [name for name, test in self.tests.items() if test.least < self.level]
        return sorted(rejected, key=lambda name: self.tests[name].least)

    def finding(self, name: str) -> str:
        """What is wrong with a quantity, in words; "calibrated" where nothing was found."""
        test = self.tests[name]
        if test.least >= self.level:
            return CALIBRATED
        if name == DENSITY:
            return f"truths {self._likely(name)} likely"
        if name == DISTANCE:
            return "off"
        if test.asymmetry < self.level or test.asymmetry < test.width:
            return "biased high" if test.tilt < 0 else "biased low"
        return "too narrow" if test.ends > 0 else "too wide"

    def _likely(self, name: str) -> str:
        return "less" if self.tests[name].tilt < 0 else "more"

    def coverage(self, level: float) -> np.ndarray:
        """The share of truths in the central interval of this level, (Q,)."""
        inside: np.ndarray = (np.abs(2 * self.p - 1) <= level).mean(0)
        return inside

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a quantity: the finding; shift and sd_ratio, what a normal approximation with such p would
        have (its mean's error in its own standard deviations, and the ratio of standard deviations to the
        posterior's); the coverage of central intervals; and the p-values of the three tests.
        """
        import pandas as pd

        score = ndtri(self.p)
        columns: dict[str, Any] = {
            "finding": [self.finding(name) for name in self.names],
            "shift": -score.mean(0),
            "sd_ratio": 1 / np.maximum(score.std(0), 1e-300),
            **{f"coverage_{100 * one:.0f}": self.coverage(one) for one in LEVELS},
            **{key: [getattr(self.tests[n], key) for n in self.names]
               for key in ("band", "asymmetry", "width")},
        }  # fmt: skip
        return pd.DataFrame(columns, index=pd.Index(list(self.names), name="quantity"))

    def sentence(self) -> str:
        """The result in one sentence, with the numbers it rests on."""
        where = (
            "given the data" if self.of == "posterior" else "over data sets drawn from the prior"
        )
        many = f"{self.replications} data sets"
        if not self.off:
            return f"No error was found {where} ({many}); errors that average out over these are not seen."
        worst = [self._described(name) for name in self.off[:3]]
        more = f"; {len(self.off) - 3} more are off" if len(self.off) > 3 else ""
        return f"Not calibrated {where} ({many}): {'; '.join(worst)}{more}."

    def _described(self, name: str) -> str:
        place, level = list(self.names).index(name), LEVELS[-1]
        if name == DENSITY:
            return f"by {DENSITY} truths are {self._likely(name)} likely than draws"
        if name == DISTANCE:
            return "all coordinates together are off"
        share = float(self.coverage(level)[place])
        return f"{name} is {self.finding(name)} (its {level:.0%} intervals hold {share:.0%} of the truths)"

    def caveats(self) -> str:
        """How many replications did not come to a converged fit; "" where all did."""
        parts = [f"{count} ended {name}" for name, count in self.ended.items()]
        if self.unranked:
            parts.append(f"{self.unranked} gave no draws and are left out")
        return f"Of {self.asked} fits {', '.join(parts)}." if parts else ""

    def __repr__(self) -> str:
        engine = f", {self.engine}" if self.engine else ""
        said = f"{self.sentence()} {self.caveats()}".strip()
        return f"Calibration({self.of}{engine}, {self.seconds:.1f} s): {said}"

    def _repr_html_(self) -> str:
        import html

        return f"<p>{html.escape(repr(self))}</p>{self.table.to_html(float_format='{:.3g}'.format)}"
