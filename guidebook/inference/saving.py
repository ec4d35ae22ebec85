"""A fit as one file: tensors and plain values, no pickled code, no training data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from guidebook.errors import FileError, GuideError, ModelError
from guidebook.guides.families import FAMILIES, Whitened
from guidebook.guides.unconstrained import Site
from guidebook.inference.capture import local_parameters, precision, random_state
from guidebook.inference.checkpoint import read, usable, write_atomically
from guidebook.inference.data import as_tensors
from guidebook.inference.fit import Fit, Status
from guidebook.inference.owned import Owned, copied
from guidebook.models.energy import plus_minus_one

FORMAT = "guidebook fit 1"
PARTS = (
    "engine", "status", "seed", "seconds", "history", "notes", "sites", "draws", "guide", "model",
)  # fmt: skip


def save(fit: Fit, path: str | Path) -> Path:
    """Writes the fit; `load` reads it.

    Raises:
        FileError: the path cannot be written; nothing is left behind.
    """
    where = usable(path)
    assert where is not None
    content = {
        "format": FORMAT,
        "engine": fit.engine,
        "status": fit.status.name,
        "seed": fit.seed,
        "seconds": fit.seconds,
        "history": torch.from_numpy(np.ascontiguousarray(fit.history)),
        "notes": json.dumps(dict(fit.notes)),
        "sites": [_encode_site(site) for site in fit.sites],
        "draws": fit.draws.cpu() if fit.draws is not None else None,
        "guide": _encode_guide(fit.guide),
        "model": _state(fit.model),
    }
    write_atomically(content, where)
    return where


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
            the same encoder, a Pyro autoguide, a guide function).
        data: the model's keyword arguments, needed for lp, gradients and predictions; draws of
            gb.guides need neither model nor data.

    Raises:
        FileError: missing, truncated, foreign or of a newer format.
        GuideError, ModelError: a guide or model that does not fit the file.
    """
    content = read(Path(path), FORMAT)
    missing = [part for part in PARTS if part not in content]
    if missing:
        raise FileError(f"'{path}' is damaged: it lacks {missing}. Save the fit again.")
    try:
        sites = tuple(_decode_site(site) for site in content["sites"])
        status = Status[content["status"]]
        notes = json.loads(content["notes"])
    except (KeyError, ValueError, TypeError) as error:
        raise FileError(f"'{path}' is damaged: {error}. Save the fit again.") from error
    twin = _with_state(model, content["model"])
    kind = content["guide"]
    if kind is None:
        restored = None
    elif kind["family"] in FAMILIES:
        restored = _restore_family(kind, sites, twin)
    else:
        restored = _restore_given(kind, guide, data)
    return Fit(
        twin, restored, data, content["history"].numpy(), status, content["seed"],
        content["seconds"], content["engine"], sites, content["draws"], notes,
    )  # fmt: skip


# guides -----------------------------------------------------------------------------------------


def _state(part: Any) -> dict[str, Tensor] | None:
    if isinstance(part, Owned):
        return None if not part.names else {n: part.value(n).detach() for n in part.names}
    return dict(part.state_dict()) if isinstance(part, nn.Module) else None


def _encode_guide(guide: Any) -> dict[str, Any] | None:
    if guide is None:
        return None
    if isinstance(guide, Whitened):
        state = {k: v.detach().cpu() for k, v in guide.state_dict().items()}
        return {"family": guide.family, "options": dict(guide.options), "state": state}
    encoded: dict[str, Any] = {"family": type(guide).__name__, "state": _state(guide) or {}}
    if isinstance(guide, Owned):
        encoded["constraints"] = {n: _encode_support(c) for n, c in guide.constraints.items()}
    return encoded


def _restore_family(kind: dict[str, Any], sites: tuple[Site, ...], model: Any) -> Whitened:
    guide = FAMILIES[kind["family"]](model or _no_model, **kind["options"])
    with local_parameters():
        guide.restore(sites, like=kind["state"]["center"])
        for name in ("center", "factor", "unit"):  # a full factor replaces the diagonal one
            if name in kind["state"]:
                setattr(guide, name, kind["state"][name].clone())
        guide.load_state_dict(kind["state"])
    _, guide = copied(guide.model, guide)
    return guide


def _no_model(**data: Any) -> None:
    raise ModelError("This fit was loaded without its model: gb.load(path, model=model).")


def _restore_given(kind: dict[str, Any], guide: Any, data: Mapping[str, Any] | None) -> Any:
    if guide is None:
        raise GuideError(
            f"The file holds the parameters of a {kind['family']}, which is not one of gb.guides: "
            "give the same guide untrained, gb.load(path, guide=...)."
        )
    _, twin = copied(guide, guide)
    if "constraints" in kind:
        owned = twin if isinstance(twin, Owned) else Owned(twin)
        for name, value in kind["state"].items():
            owned.adopt(name, value, _decode_support(kind["constraints"][name]))
        return owned
    return _with_state(twin, kind["state"], what="guide", data=data)


def _with_state(
    part: Any, state: dict[str, Tensor] | None, what: str = "model", data: Any = None
) -> Any:
    if part is None or not state:
        return part
    twin, _ = copied(part, part)
    if not isinstance(twin, nn.Module):
        owned = Owned(twin)
        for name, value in state.items():
            owned.adopt(name, value, constraints.real)
        return owned
    if data is not None and not list(twin.parameters()):
        dtype = next((v.dtype for v in state.values() if v.is_floating_point()), torch.float64)
        tensors = as_tensors(data, dtype, torch.device("cpu"))
        with local_parameters(), precision(dtype), random_state(0), torch.no_grad():
            twin(**tensors)  # a lazy Pyro autoguide makes its parameters at the first call
    try:
        twin.load_state_dict(state)
        twin.eval()  # as svi hands it back
    except RuntimeError as error:
        kind = GuideError if what == "guide" else ModelError
        raise kind(
            f"The {what} given does not have the saved parameters ({str(error).splitlines()[-1].strip()}). "
            f"Give the {what} of the same architecture; a lazy Pyro autoguide needs data= too."
        ) from error
    return twin


# sites ------------------------------------------------------------------------------------------


def _encode_site(site: Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "shape": list(site.shape),
        "unconstrained_shape": list(site.unconstrained_shape),
        "event_dim": site.event_dim,
        "plates": [list(p) for p in site.plates],
        "varying": site.varying,
        "support": None if site.varying else _encode_support(site.support),
    }


def _decode_site(kept: dict[str, Any]) -> Site:
    support = constraints.real if kept["support"] is None else _decode_support(kept["support"])
    return Site(
        kept["name"],
        torch.Size(kept["shape"]),
        torch.Size(kept["unconstrained_shape"]),
        kept["event_dim"],
        support,
        tuple((n, d, s) for n, d, s in kept["plates"]),
        kept["varying"],
    )


PLAIN = (
    "real", "real_vector", "positive", "nonnegative", "unit_interval", "simplex", "lower_cholesky",
    "corr_cholesky", "positive_definite", "ordered_vector", "positive_ordered_vector",
    "softplus_positive", "softplus_lower_cholesky", "unit_lower_cholesky", "sphere", "circular",
    "corr_matrix", "boolean", "one_hot", "nonnegative_integer", "positive_integer",
)  # fmt: skip
BOUNDED = {
    "_GreaterThan": (constraints.greater_than, ("lower_bound",)),
    "_GreaterThanEq": (constraints.greater_than_eq, ("lower_bound",)),
    "_LessThan": (constraints.less_than, ("upper_bound",)),
    "_Interval": (constraints.interval, ("lower_bound", "upper_bound")),
    "_HalfOpenInterval": (constraints.half_open_interval, ("lower_bound", "upper_bound")),
    "_IntegerInterval": (constraints.integer_interval, ("lower_bound", "upper_bound")),
}


def _encode_support(support: Any) -> list[Any]:
    if isinstance(support, constraints.independent):
        inner = _encode_support(support.base_constraint)
        return ["independent", inner, support.reinterpreted_batch_ndims]
    if type(support) is type(plus_minus_one):
        return ["plus_minus_one"]
    for name in PLAIN:
        known = getattr(constraints, name, None)
        same_kind = type(support) is type(known) and not vars(support)
        if known is not None and (support is known or same_kind):
            return [name]
    kind = type(support).__name__
    for name, (_, bounds) in BOUNDED.items():
        if kind == name:
            return [name, *[_plain_bound(getattr(support, b)) for b in bounds]]
    raise FileError(
        f"A site has support {support}, which a file cannot hold. Write the site with a support of "
        "torch.distributions.constraints."
    )


def _plain_bound(bound: Any) -> Any:
    """A bound as it is: a number stays one, since a tensor of it would take torch's default dtype."""
    return bound.detach().cpu() if isinstance(bound, Tensor) else bound


def _decode_support(kept: list[Any]) -> Any:
    if kept[0] == "independent":
        return constraints.independent(_decode_support(kept[1]), kept[2])
    if kept[0] == "plus_minus_one":
        return plus_minus_one
    if kept[0] in PLAIN:
        return getattr(constraints, kept[0])
    return BOUNDED[kept[0]][0](*kept[1:])
