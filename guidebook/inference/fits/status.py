"""How a fit came about and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from guidebook.inference.fits.chains import ESS_PER_CHAIN, RHAT_LIMIT


class Status(Enum):
    """How a fit ended. The value is a sentence that says what to do about it."""

    CONVERGED = (
        "Converged: the objective and the parameters had stopped moving (for chains: R-hat and the "
        "effective sample sizes are within their limits)."
    )
    STILL_MOVING = (
        "Not converged: the parameters were still moving when the engine stopped. Raise steps "
        "(sweeps, iterations), or continue from the checkpoint."
    )
    RESTARTS_DISAGREE = (
        "Not converged: the restarts ended in different places (R-hat above 1.05), so the "
        "objective has several optima. Raise steps, or use a richer guide or nuts."
    )
    STOPPED_BY_NAN = (
        "Stopped: the objective became infinite or NaN; the parameters are those of the step "
        "before. notes['nan'] names the site, the step and the likely cause."
    )
    INTERRUPTED = (
        "Interrupted: the fit holds the result of the last whole step. Call the engine again to finish, with "
        "the same checkpoint if it takes one."
    )
    DIVERGENCES = (
        "Not trustworthy: trajectories of NUTS diverged, so part of the posterior may be missing "
        "from the draws. Reparameterise (the non-centred model), or raise target_accept."
    )
    CHAINS_DISAGREE = (
        f"Not converged: R-hat is above {RHAT_LIMIT} or an effective sample size is below "
        f"{ESS_PER_CHAIN} per chain. Raise tune and draws."
    )
    NO_MODE = (
        "No mode: the log density has no maximum with negative definite Hessian, so the Laplace "
        "approximation does not exist. Use svi or nuts, or reparameterise."
    )
    EXACT = "Exact: the guide is the posterior, up to rounding (checked on draws)."

    @property
    def good(self) -> bool:
        """Whether the engine reached what it was after."""
        return self in (Status.CONVERGED, Status.EXACT)


@dataclass(frozen=True, eq=False)
class Record:
    """What is known of the making of a fit; attributes as those of `guidebook.Fit`."""

    engine: str
    status: Status
    seed: int
    seconds: float
    history: np.ndarray
    notes: Mapping[str, Any]
