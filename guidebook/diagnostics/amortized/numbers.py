"""The numbers of an amortised fit, row by row, as page and user read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized.collapse import Collapse
    from guidebook.diagnostics.amortized.gap import GapLedger
    from guidebook.diagnostics.amortized.generation import Generation
    from guidebook.diagnostics.judging.findings import Judgement
    from guidebook.diagnostics.measures.gradients import Noise
    from guidebook.diagnostics.measures.similarity import Warned


class LeftOut(NamedTuple):
    """A row with an explanation that the guide leaves out: `row`, its place among the rows assessed;
    `share` of its posterior there; draws of q (S, D); where chains from the prior end (C, D), with
    their weights (C,).
    """

    row: int
    share: float
    draws: np.ndarray
    ends: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class AmortizedNumbers:
    """Diagnostics of an amortised fit, row by row: n rows of P numbers, D latent dimensions.

    `index`: the rows' numbers in the data; `khat_ses`: the error of each k-hat; `point`: the guide
    gives a code, no posterior, and what needs one is NaN or None. `uses`: the judgement by use
    (`guidebook.diagnostics.amortized.uses`); `row_verdicts` (n,): "trust", "reweight" or "reject" by the
    witnesses that looked at the row; `left_out`: a few rows of which q keeps one of several explanations.
    `ledger`, `collapse`,
    `generation` and `warned` are None where they cannot be had.
    """

    data: np.ndarray
    khat: np.ndarray
    khat_se: float
    elbo: np.ndarray
    bound: np.ndarray
    reconstruction: np.ndarray
    latent_mean: np.ndarray
    latent_sd: np.ndarray
    prior_samples: np.ndarray
    traversals: np.ndarray
    worst: np.ndarray
    image_shape: tuple[int, int] | None
    labels: np.ndarray | None = None
    index: np.ndarray | None = None
    khat_ses: np.ndarray | None = None
    point: bool = False
    ledger: GapLedger | None = None
    collapse: Collapse | None = None
    generation: Generation | None = None
    warned: Warned | None = None
    gradients: Mapping[str, Noise] = field(default_factory=dict)
    uses: Mapping[str, Judgement] = field(default_factory=dict)
    row_verdicts: np.ndarray | None = None
    left_out: tuple[LeftOut, ...] = ()
