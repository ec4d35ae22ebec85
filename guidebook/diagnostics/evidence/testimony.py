"""What a witness states: estimated errors of the draws, and what speaks for or against using them.

Every array has one entry a posterior, (n,), or one a posterior and marginal, (n, M): a global
approximation is one posterior, an amortised one has a posterior for every row of the data. The limits
that make an error matter are here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

MEAN_LIMIT = 0.1
"""In posterior standard deviations; with the sd limits, the definition of a good approximation."""
SD_LOW, SD_HIGH = 1 / 1.2, 1.2
"""Within 20 % on the scale of the logarithm, the stricter side of 'within 20 %' below."""
ERRORS = 2.0
"""Standard errors added to an estimated error before it is held against its limit."""


@dataclass(frozen=True)
class Estimate:
    """Estimated errors of draws, per posterior and marginal (n, M), with their standard errors.

    shift: (mean of q - mean of p) / sd of p; log_ratio: log(sd of q / sd of p). `able` says for
    which marginals an error of the size that matters would have been seen.
    """

    shift: np.ndarray
    shift_se: np.ndarray
    log_ratio: np.ndarray
    log_ratio_se: np.ndarray
    able: np.ndarray

    def good(self) -> np.ndarray:
        """Per posterior: every marginal could be judged and is in bounds, errors included."""
        return self.able.all(-1) & self.within(ERRORS)

    def within(self, errors: float) -> np.ndarray:
        """Per posterior: are all errors, moved away from zero by this many standard errors, in bounds?"""
        shift = np.abs(self.shift) + errors * self.shift_se
        ratio = np.abs(self.log_ratio) + errors * self.log_ratio_se
        return (shift < MEAN_LIMIT).all(-1) & (ratio < math.log(SD_HIGH)).all(-1)

    def bad(self) -> np.ndarray:
        """Per posterior: is some error that could be seen out of bounds by two standard errors?"""
        shift = np.abs(self.shift) - ERRORS * self.shift_se > MEAN_LIMIT
        ratio = np.abs(self.log_ratio) - ERRORS * self.log_ratio_se > math.log(SD_HIGH)
        return (self.able & (shift | ratio)).any(-1)

    def worst(self, names: Sequence[str], posterior: int | None = None) -> str:
        """The marginal that is most off, of one posterior or of all, in words."""
        shift, log_ratio = (
            np.atleast_2d(a) if posterior is None else np.atleast_2d(a)[[posterior]]
            for a in (self.shift, self.log_ratio)
        )  # fmt: skip
        off, spread = np.abs(shift) / MEAN_LIMIT, np.abs(log_ratio) / math.log(SD_HIGH)
        if np.nanmax(off) >= np.nanmax(spread):
            row, i = map(int, np.unravel_index(np.nanargmax(off), off.shape))
            way = "high" if shift[row, i] > 0 else "low"
            return f"the mean of {names[i]} is {abs(shift[row, i]):.2g} sd too {way}"
        row, i = map(int, np.unravel_index(np.nanargmax(spread), spread.shape))
        way = "narrow" if log_ratio[row, i] < 0 else "wide"
        return f"{names[i]} is too {way} (sd ratio {math.exp(log_ratio[row, i]):.2g})"

    def widened(self, tails: np.ndarray) -> Estimate:
        """With the errors of the standard deviations multiplied by `tails`."""
        return replace(self, log_ratio_se=self.log_ratio_se * tails)


Role = Literal["confirms", "sharpens", "contradicts", "compares"]
"""What the judge may do with an estimate of the raw draws: rest a trust on it; combine it with one
that confirms; only hold it against them; the same, and show it before others (a reference's)."""


@dataclass(frozen=True)
class Testimony:
    """What one witness computed of n posteriors, and what follows from it for their draws.

    Attributes:
        witness: its name, as the page prints it.
        absent: why it could not be computed; all else is then empty.
        words: sentences for page and terminal.
        role, estimate, weighted: errors of the raw and of the importance-weighted draws.
        doubt: (n,), at least 1: by how much the errors of a sharpening estimate are widened before
            it is combined; infinite where it is not to be.
        against: (n,), "" or why the raw draws cannot be used; against_weighted: the same of the
            weighted ones; weak_weighted: the same, unless a confirming witness's estimate of the
            weighted draws is within bounds.
        rules_out: "" or why nothing of this approximation can be used.
        vouches: (n,), the raw draws are confirmed without an estimate; alone: (n,), they are where
            no confirming witness could judge them and the gradients do not contradict.
        supports: (n,), that the gradients of log p were looked at: without that nothing is confirmed
            by its weights alone.
        checks: (n,), that the weighted draws were held against something besides their weights.
        far: (n,), that mass far from the draws would have been seen, and none speaks against them.
        agreement: what a trust may cite of it. remedy: what to try next where it speaks against.
        numbers: (n,) each, by the column of the table that they belong to.
        detail: what other witnesses may use of it.
    """

    __test__: ClassVar[bool] = False  # pytest takes every class called Test... for tests

    witness: str
    absent: str = ""
    words: tuple[str, ...] = ()
    role: Role = "contradicts"
    estimate: Estimate | None = None
    weighted: Estimate | None = None
    doubt: np.ndarray | None = None
    against: Sequence[str] = ()
    against_weighted: Sequence[str] = ()
    weak_weighted: Sequence[str] = ()
    rules_out: str = ""
    vouches: np.ndarray | None = None
    alone: np.ndarray | None = None
    supports: np.ndarray | None = None
    checks: np.ndarray | None = None
    far: np.ndarray | None = None
    agreement: str = ""
    remedy: str = ""
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    detail: Any = None


def where(condition: np.ndarray, words: Any) -> list[str]:
    """One string a posterior: words(i) where the condition (n,) holds, else ""."""
    return [words(i) if held else "" for i, held in enumerate(np.atleast_1d(condition))]


def among(testimony: Testimony, chosen: np.ndarray, count: int) -> Testimony:
    """A testimony on some posteriors, whose places are `chosen`, as one on all `count` of them.

    Of the others it states nothing: estimates are NaN and cannot judge, sentences are empty.
    """

    def spread(values: Any, filler: Any) -> Any:
        values = np.asarray(values)
        whole = np.full((count, *values.shape[1:]), filler)
        whole[chosen] = values
        return whole

    def estimate(one: Estimate | None) -> Estimate | None:
        if one is None:
            return None
        return Estimate(
            spread(one.shift, np.nan),
            spread(one.shift_se, np.nan),
            spread(one.log_ratio, np.nan),
            spread(one.log_ratio_se, np.nan),
            spread(one.able, False),
        )

    def sentences(given: Sequence[str]) -> list[str]:
        whole = [""] * (count if given else 0)
        for place, words in zip(chosen, given, strict=False):
            whole[place] = words
        return whole

    def flags(given: np.ndarray | None) -> np.ndarray | None:
        return None if given is None else spread(given, False)

    return replace(
        testimony,
        estimate=estimate(testimony.estimate),
        weighted=estimate(testimony.weighted),
        doubt=None if testimony.doubt is None else spread(testimony.doubt, np.inf),
        against=sentences(testimony.against),
        against_weighted=sentences(testimony.against_weighted),
        weak_weighted=sentences(testimony.weak_weighted),
        vouches=flags(testimony.vouches),
        alone=flags(testimony.alone),
        supports=flags(testimony.supports),
        checks=flags(testimony.checks),
        far=flags(testimony.far),
        numbers={name: spread(v, np.nan) for name, v in testimony.numbers.items()},
    )


def joined(parts: Sequence[Testimony]) -> Testimony:
    """Testimonies of one witness on blocks of rows as one on all rows."""
    first = parts[0]
    if len(parts) == 1 or first.absent:
        return first

    def arrays(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    def estimates(name: str) -> Estimate | None:
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            return None
        names = ("shift", "shift_se", "log_ratio", "log_ratio_se", "able")
        return Estimate(*(np.concatenate([getattr(v, n) for v in values]) for n in names))

    def sentences(name: str) -> list[str]:
        return [words for part in parts for words in getattr(part, name)]

    return replace(
        first,
        estimate=estimates("estimate"),
        weighted=estimates("weighted"),
        doubt=arrays("doubt"),
        vouches=arrays("vouches"),
        alone=arrays("alone"),
        supports=arrays("supports"),
        checks=arrays("checks"),
        far=arrays("far"),
        against=sentences("against"),
        against_weighted=sentences("against_weighted"),
        weak_weighted=sentences("weak_weighted"),
        numbers={n: np.concatenate([part.numbers[n] for part in parts]) for n in first.numbers},
        detail=[part.detail for part in parts],
    )


def percent(share: float) -> str:
    """A share in words, to three digits: of the mass, or of the draws."""
    return f"{100 * share:.3g} %"
