"""NEEDS A DOCSTRING: guidebook.inference.protocols.maximisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from guidebook.errors import GuideError

Tensors = dict[str, Tensor]


@runtime_checkable
class ExpectationMaximization(Protocol):
    """What `em` asks of a guide: the exact posterior of the local latents, and the two steps.

    Parameters and statistics are dicts of float64 tensors. `rows` and `data` are the model's keyword
    arguments as tensors, with all or some of the rows. A guide may also offer
    `expected_log_joint(statistics, parameters)`, E[log p(x, z | parameters)] summed over the rows and
    differentiable, with parameters that are free real numbers: then M-steps may be partial.
    """

    def start(self, data: Mapping[str, Any], seed: int) -> Tensors:
        """Parameters to start from, by the seed alone; `data` holds at most 100,000 rows."""
        ...

    def e_step(self, rows: Mapping[str, Any], parameters: Tensors) -> tuple[Tensors, Tensor]:
        """Expected sufficient statistics and log p(rows | parameters), both summed over the rows."""
        ...

    def m_step(self, statistics: Tensors, parameters: Tensors) -> Tensors:
        """The maximising parameters; `parameters` are those of the E-step."""
        ...

    def log_prior(self, parameters: Tensors) -> Tensor:
        """log p(parameters), a scalar; 0 for maximum likelihood."""
        ...

    def finished(self, model: Any, parameters: Tensors) -> tuple[Any, Any]:
        """Copies of the model and of the guide with these parameters in them."""
        ...


METHODS = ("start", "e_step", "m_step", "log_prior", "finished")


# the structure, and what is kept ----------------------------------------------------------------


def _structure(guide: Any, partial: int | None) -> ExpectationMaximization:
    """The guide, if it has what `em` asks for."""
    name = getattr(guide, "__name__", type(guide).__name__)
    if not isinstance(guide, ExpectationMaximization):
        missing = [method for method in METHODS if not hasattr(guide, method)]
        raise GuideError(
            f"em needs a guide that is the exact posterior of the local latents, with an E- and an "
            f"M-step, and {name} lacks {', '.join(missing)}. For linear Gaussian decoders there is "
            "gb.guides.FactorPosterior; fit other pairs with svi, which trains the model's "
            "parameters too."
        )
    if partial is not None and not hasattr(guide, "expected_log_joint"):
        raise GuideError(
            f"partial={partial} needs the method expected_log_joint(statistics, parameters), which "
            f"{name} lacks: leave partial=None for its complete M-step."
        )
    return guide
