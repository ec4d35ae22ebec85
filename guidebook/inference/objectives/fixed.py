"""A guide with its parameters held fixed: for gradients through the draws alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn

from guidebook.errors import GuideError
from guidebook.scope import quiet


def with_fixed_parameters(part: Any) -> Callable[..., Any]:
    """The part with its parameters as constants: gradients reach its inputs alone.

    Raises GuideError where the part is no module, so that its parameters are not known.
    """
    if not isinstance(part, nn.Module):
        raise GuideError(
            "This gradient estimator holds the parameters of the guide fixed, and those of a plain "
            "function are not accessible: write the guide as a pyro.nn.PyroModule."
        )
    fixed = {name: parameter.detach() for name, parameter in part.named_parameters()}

    def call(**data: Any) -> Any:
        # Pyro's own SVI collects every param statement, and these are constants; a network that is
        # not registered is what Pyro warns about.
        unregistered = ".*was not registered in the param store"
        with quiet(unregistered), poutine.block(hide_types=["param"]), _Detached():
            return torch.func.functional_call(part, fixed, (), data)

    return call


class _Detached(Messenger):
    """Parameters that Pyro's store gives out are constants."""

    def _pyro_post_param(self, msg: Any) -> None:
        msg["value"] = msg["value"].detach()
