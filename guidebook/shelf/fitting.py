"""From a line of the catalogue to fits: the model, its guides, and what it calls its truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from guidebook.errors import NameNotFound, nearest
from guidebook.inference.exact import exact
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.inference.nuts import nuts
from guidebook.inference.svi import svi
from guidebook.shelf.pair import Pair


def chosen_guides(pair: Pair, names: Iterable[str] | None) -> list[str]:
    """Return the guides and engines to fit, all of the pair's if none was asked for, each once.

    Raises NameNotFound for a name that the pair does not have.
    """
    known = [*pair.guides, *(n for n in pair.engines if n != _reference_engine(pair))]
    if names is None:
        return known
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise NameNotFound(
                f"The pair {pair.name!r} has no guide {name!r}. {nearest(name, known)}"
            )
    return wanted


def _reference_engine(pair: Pair) -> str | None:
    return "gibbs" if pair.truth == "Gibbs" else None


def trained_model(pair: Pair, data: Mapping[str, Any], **settings: Any) -> Any:
    """Give the model; one with parameters and a known posterior is trained with that, and frozen.

    Every guide would otherwise train parameters of its own, and the posterior known for one model
    would be no truth for the others. Without a known posterior they are trained with each guide.
    """
    model = pair.model()
    if pair.exact is None or not isinstance(model, torch.nn.Module):
        return model
    if not any(p.requires_grad for p in model.parameters()):  # it comes with its parameters
        return model
    trained = (
        _svi(model, pair.exact(model), data, **settings).model
        if pair.trained is None
        else pair.trained(model, data, settings)
    )
    assert isinstance(trained, torch.nn.Module)
    return trained.requires_grad_(False)


def fit_guide(
    pair: Pair, name: str, model: Any, data: Mapping[str, Any], checkpoint: Path, **settings: Any
) -> Fit:
    """Fit one guide of the pair by `svi`, which continues from `checkpoint` if it is there.

    The name of an engine of the pair is fitted by it, and keeps no checkpoint.
    """
    if name in pair.engines:
        return _by_engine(pair, name, model, data, **settings)
    return _svi(model, pair.guides[name](model), data, checkpoint=checkpoint, **settings)


def fit_reference(
    pair: Pair,
    model: Any,
    data: Mapping[str, Any],
    *,
    seed: int,
    device: str | None,
    **sampling: Any,
) -> tuple[str, Fit] | None:
    """Fit what the pair calls its truth; give its name with it, or None where nothing is known.

    `sampling` holds further settings of `nuts`.
    """
    if pair.truth == "NUTS":
        return "NUTS", nuts(model, data, seed=seed, device=device, **sampling)
    if pair.truth == "Gibbs":
        return "Gibbs", _by_engine(pair, "gibbs", model, data, seed=seed, device=device)
    if pair.exact is not None:
        return "exact", exact(model, pair.exact(model), data, seed=seed, device=device)
    return None


def _by_engine(pair: Pair, name: str, model: Any, data: Mapping[str, Any], **settings: Any) -> Fit:
    engine, guide = pair.engines[name]
    shared = {key: settings[key] for key in ("seed", "device") if key in settings}
    return _complete(engine(model, guide(model), data, **shared))


def _svi(model: Any, guide: Any, data: Mapping[str, Any], **settings: Any) -> Fit:
    return _complete(svi(model, guide, data, **settings))


def _complete(fit: Fit) -> Fit:
    if fit.status is Status.INTERRUPTED:  # engines return what they had; a whole pair stops here
        raise KeyboardInterrupt
    return fit
