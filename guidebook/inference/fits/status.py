"""NEEDS A DOCSTRING: guidebook.inference.fits.status."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """How a fit ended. The value is a sentence that says what to do about it."""

    CONVERGED = "Converged: nothing in how the fit ended speaks against it."
    STILL_MOVING = (
        "Not converged: the iterates still move at the end. Raise steps (sweeps, iterations), or "
        "continue from the checkpoint."
    )
    RESTARTS_DISAGREE = (
        "Not converged: restarts end in different places (R-hat above 1.05). The objective has "
        "several optima; raise steps, or use a richer guide or nuts."
    )
    STOPPED_BY_NAN = (
        "Stopped: the objective was not finite; the parameters are those before it. See "
        "notes['nan'] for the site, the step and the likely cause."
    )
    INTERRUPTED = (
        "Interrupted: holds what had been fitted. Call the engine again, with the same checkpoint "
        "if it takes one, to continue."
    )
    DIVERGENCES = (
        "Not trustworthy: trajectories of NUTS diverged, so a region of the posterior was not "
        "visited. Reparameterise (the non-centred model), or raise target_accept."
    )
    CHAINS_DISAGREE = (
        "Not converged: R-hat above 1.01 or an effective sample size below 100 per chain. Raise "
        "tune and draws."
    )
    NO_MODE = (
        "No mode: the density has no maximum with positive curvature, so the Laplace approximation "
        "does not exist. Use svi or nuts, or reparameterise."
    )
    EXACT = "Exact: the guide is the posterior, up to rounding (checked on draws)."

    @property
    def good(self) -> bool:
        return self in (Status.CONVERGED, Status.EXACT)
