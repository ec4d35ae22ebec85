"""From a line of the catalogue to fits: the model, its guides, and what it calls its truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from guidebook.errors import NameNotFound, nearest
from guidebook.inference.boltzmann import boltzmann_learning
from guidebook.inference.cavi import cavi
from guidebook.inference.em import em
from guidebook.inference.ep import ep
from guidebook.inference.exact import exact
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.status import Status
from guidebook.inference.gibbs import gibbs
from guidebook.inference.natural_svi import natural_svi
from guidebook.inference.nuts import nuts
from guidebook.inference.svi import svi
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.shelf.pair import Pair

ENGINES: dict[str, Any] = {
    "cavi": cavi,
    "em": em,
    "ep": ep,
    "gibbs": gibbs,
    "natural_svi": natural_svi,
}


def chosen_guides(pair: Pair, names: Iterable[str] | None) -> list[str]:
    """Return the guides and roads to fit, all of the pair's if none was asked for, each once.

    Raises NameNotFound for a name that the pair does not have.
    """
    known = [*pair.guides, *(n for n in pair.roads if n != _reference_road(pair))]
    if names is None:
        return known
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in known:
            raise NameNotFound(
                f"The pair {pair.name!r} has no guide {name!r}. {nearest(name, known)}"
            )
    return wanted


def _reference_road(pair: Pair) -> str | None:
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
    if isinstance(model, BoltzmannMachine):
        names = ("seed", "device", "weight_decay", "steps", "progress")
        known = {n: settings[n] for n in names if n in settings}
        learned = _complete(boltzmann_learning(model, data, **known)).model
        assert isinstance(learned, torch.nn.Module)
        return learned.requires_grad_(False)
    if "em" in pair.roads:  # the road of every pair with trained parameters that has one
        shared = {name: settings[name] for name in ("seed", "device") if name in settings}
        trained = _complete(em(model, pair.roads["em"][1](model), data, **shared)).model
    else:
        trained = _svi(model, pair.exact(model), data, **settings).model
    assert isinstance(trained, torch.nn.Module)
    return trained.requires_grad_(False)


def fit_guide(
    pair: Pair, name: str, model: Any, data: Mapping[str, Any], checkpoint: Path, **settings: Any
) -> Fit:
    """Fit one guide of the pair by `svi`, which continues from `checkpoint` if it is there.

    The name of a road is fitted by its own engine, which keeps no checkpoint.
    """
    if name in pair.roads:
        return _by_road(pair, name, model, data, **settings)
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
        return "Gibbs", _by_road(pair, "gibbs", model, data, seed=seed, device=device)
    if pair.exact is not None:
        return "exact", exact(model, pair.exact(model), data, seed=seed, device=device)
    return None


def _by_road(pair: Pair, name: str, model: Any, data: Mapping[str, Any], **settings: Any) -> Fit:
    engine, guide = pair.roads[name]
    shared = {key: settings[key] for key in ("seed", "device") if key in settings}
    return _complete(ENGINES[engine](model, guide(model), data, **shared))


def _svi(model: Any, guide: Any, data: Mapping[str, Any], **settings: Any) -> Fit:
    return _complete(svi(model, guide, data, **settings))


def _complete(fit: Fit) -> Fit:
    if fit.status is Status.INTERRUPTED:  # engines return what they had; a whole pair stops here
        raise KeyboardInterrupt
    return fit
