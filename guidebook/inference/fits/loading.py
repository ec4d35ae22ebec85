"""A saved fit read back, with copies of what the file does not hold: model, data, a user's guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guidebook.errors import FileError, GuideError, ModelError
from guidebook.guides.autoguides.whitened import Whitened
from guidebook.guides.families import FAMILIES
from guidebook.inference.fits.content import checked, damaged
from guidebook.inference.fits.files import path_of, read
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.saving import FORMAT
from guidebook.inference.fits.supports import decode_support
from guidebook.programs.data import arguments, as_tensors
from guidebook.programs.owned import STATEMENTS, Owned, copied, owning, settled, statements_of
from guidebook.programs.sites import Site
from guidebook.scope import local_parameters, precision, random_state


def load(
    path: str | Path,
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> Fit:
    """Reads a saved fit, running no code from the file.

    Arguments:
        model: the model function, or a module of the same architecture: it gets the saved
            parameters, in a copy.
        guide: for guides other than gb.guides: the same guide, untrained (an AmortizedNormal with
            the same encoder, a Pyro autoguide, a guide function). A guide that reads the model is
            made of the model given here, and then reads the copy with the saved parameters.
        data: the model's keyword arguments, needed for lp, gradients and predictions; draws of
            gb.guides need neither model nor data.

    Raises:
        FileError: missing, truncated, damaged, foreign or of a newer format.
        GuideError, ModelError: a guide or model that does not fit the file.
    """
    content = read(path_of(path, "gb.load('{}')"), FORMAT, "Save the fit again.")
    sites, status, notes = checked(content, path)
    if data is not None and model is not None:
        data = arguments(model, data)
    pair: tuple[Any, Any] = (model, guide)
    twin, given = owning(*copied(*pair), pair)  # together, for guides that hold their model
    _restore(twin, content["model"], "model", None)
    kept = content["guide"]
    if kept is None:
        restored = None
    elif "options" in kept:
        restored = _rebuilt(kept, sites, settled(twin, None)[0], path)
    else:
        restored = _given(kept, given, data)
    twin, restored = settled(twin, restored)
    return Fit(
        twin, restored, data, content["history"].numpy(), status, content["seed"],
        content["seconds"], content["engine"], sites, content["draws"], notes,
        content["draws_are"],
    )  # fmt: skip


def _rebuilt(
    kept: dict[str, Any], sites: tuple[Site, ...], model: Any, path: str | Path
) -> Whitened:
    """A guide of gb.guides, made anew from its family, options and state."""
    if kept["family"] not in FAMILIES:
        raise FileError(
            f"'{path}' holds a guide of the family '{kept['family']}', which this Guidebook does not "
            "have: install the Guidebook that wrote it, or a newer one."
        )
    try:
        guide = FAMILIES[kept["family"]](model or _no_model, **kept["options"])
        with local_parameters():
            guide.restore(sites, like=kept["state"]["center"])
            guide.load_state_dict(kept["state"])
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        told = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise damaged(path, f"its guide does not fit its parameters ({told})") from error
    _, guide = copied(guide.model, guide)
    return guide


def _no_model(**data: Any) -> None:
    raise ModelError("This fit was loaded without its model: gb.load(path, model=model).")


def _given(kept: dict[str, Any], guide: Any, data: Mapping[str, Any] | None) -> Any:
    """The guide, which is a copy of the caller's, with the saved parameters."""
    if guide is None:
        raise GuideError(
            f"The file holds the parameters of a guide of your own, {kept['family']}: give the same "
            "guide untrained, gb.load(path, guide=...)."
        )
    _restore(guide, kept, "guide", data)
    return guide


def _restore(part: Any, kept: Mapping[str, Any], what: str, data: Any) -> None:
    """Puts saved parameters and buffers into a part of a pair of `owning`."""
    if part is None:
        return
    statements = statements_of(part)
    if statements is not None:
        constrained = {n: decode_support(c) for n, c in kept["constraints"].items()}
        statements.restore(kept["statements"], constrained)
        # whether a module tells Pyro of its own networks shows in a run, and there was none
        statements.answered |= not isinstance(part, Owned)
    made = part.below if isinstance(part, Owned) else part
    if isinstance(made, nn.Module):
        if data is not None and kept["state"]:
            _make_parameters(made, part, kept["state"], data)
        own = made.state_dict()
        state = kept["state"] | {n: v for n, v in own.items() if n.startswith(f"{STATEMENTS}.")}
    try:
        if isinstance(made, nn.Module):
            made.load_state_dict(state)
        elif kept["state"]:
            raise RuntimeError(f"it is a function, and {sorted(kept['state'])} are a module's")
    except RuntimeError as error:
        kind = GuideError if what == "guide" else ModelError
        raise kind(
            f"The {what} given does not have the saved parameters "
            f"({str(error).splitlines()[-1].strip()}). Give the {what} of the same architecture; "
            "a lazy Pyro autoguide needs data= too."
        ) from error
    part.eval()  # as svi hands it back


def _make_parameters(
    made: nn.Module, part: Any, state: Mapping[str, Tensor], data: Mapping[str, Any]
) -> None:
    """Calls a guide that has no parameters yet, as lazy Pyro autoguides make them at the first call."""
    if any(not n.startswith(f"{STATEMENTS}.") for n, _ in made.named_parameters()):
        return
    dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float64)
    tensors = as_tensors(data, dtype, torch.device("cpu"))
    with local_parameters(), precision(dtype), random_state(0), torch.no_grad():
        part(**tensors)
