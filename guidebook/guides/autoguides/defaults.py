"""What a guide says of how it is fitted: read by `svi` where its caller leaves a setting out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """The settings of stochastic gradients that suit a family; a guide has them as `guide.defaults`.

    Attributes:
        steps: updates of the parameters, planned: more are taken while the objective truly falls.
        rate: Adam's step size at the start; None: 0.001 where guide or model have a matrix of
            parameters (a network), 0.01 where they have none.
        particles: draws averaged in a step that takes all rows, with the objective left to `svi`.
        loc_scatter: standard deviation of the starts of restarts, in parameters named `loc`.
        scatter: the same in all other parameters; None: a tenth of the standard deviation of the
            parameter's own entries.
        standardised: the parameters are measured in posterior standard deviations, so the objective
            has about unit curvature in them, and their drift and mean gradient over the last steps
            say how far the fit is from its optimum.
    """

    steps: int = 5000
    rate: float | None = None
    particles: int = 1
    loc_scatter: float = 0.5
    scatter: float | None = None
    standardised: bool = False
