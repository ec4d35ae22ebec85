"""An optimiser of pyro.optim, read as a rule with its numbers at every step.

Every number is asked of torch itself: an optimiser and its scheduler are made for each group of
parameters with the same options, are stepped without a gradient, and what they say of themselves is
written down. So options that are not given, and schedules of any kind, are torch's own.

In Pyro the caller steps a scheduler, once a step or once an epoch; here it advances once a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.optim
import torch
from pyro.optim.adagrad_rmsprop import AdagradRMSProp
from pyro.optim.clipped_adam import ClippedAdam
from pyro.params.param_store import (
    module_from_param_with_module_name,
    normalize_param_name,
    user_param_name,
)
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.inference.optimisers.adam import ADAM, CLIPPED_ADAM
from guidebook.inference.optimisers.descent import ADAGRAD_RMSPROP, RMSPROP, SGD
from guidebook.inference.optimisers.optimiser import CLIPS, Optimiser
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.scope import quiet

RULES = {
    torch.optim.Adam: ADAM,
    torch.optim.AdamW: ADAM,
    torch.optim.SGD: SGD,
    torch.optim.RMSprop: RMSPROP,
    ClippedAdam: CLIPPED_ADAM,
    AdagradRMSProp: ADAGRAD_RMSPROP,
}
"""What can be recorded, by the class that Pyro makes for every parameter."""

WITHOUT_EFFECT = {"foreach", "capturable", "differentiable", "fused", "lrd"}
"""How torch computes the same numbers, and what has gone into the rate (lrd) when it is read."""

REFUSED = {
    torch.optim.lr_scheduler.ReduceLROnPlateau: (
        "ReduceLROnPlateau waits for a metric that its caller computes, and a fit has no such call. Give a "
        "schedule that is known before, as pyro.optim.ExponentialLR, or no optim: the default lowers the "
        "rate when the ELBO has stopped rising."
    ),
    torch.optim.SparseAdam: (
        "SparseAdam needs sparse gradients, and those of a Pyro program are dense. Give "
        "pyro.optim.Adam({...}) in its place."
    ),
}


def is_scheduler(optim: Any) -> bool:
    """Whether the optimiser has a schedule that somebody must step."""
    return isinstance(optim, pyro.optim.PyroLRScheduler)


def check_optimiser(optim: Any) -> None:
    """Raises SettingError, with the remedy, for what is no optimiser that a fit can run."""
    if optim is None:
        return
    if isinstance(optim, pyro.optim.multi.MultiOptimizer):
        raise SettingError(
            f"optim is a {type(optim).__name__}, which takes a loss where pyro.infer.SVI gives gradients. "
            "Give pyro.optim.Adam({...}), or a callable of the parameter's name for options of its own."
        )
    if not isinstance(optim, pyro.optim.PyroOptim):
        raise SettingError(
            f"optim={_told(optim)} is not an optimiser of pyro.optim. {_instead(optim)}"
        )
    if isinstance(optim, pyro.optim.HorovodOptimizer):
        raise SettingError(
            "A HorovodOptimizer averages gradients over processes, and a fit runs in one. Give the "
            "optimiser inside it."
        )
    for made in (getattr(optim, "pt_scheduler_constructor", None), optim.pt_optim_constructor):
        if made in REFUSED:
            raise SettingError(REFUSED[made])
    if optim._state_waiting_to_be_consumed:
        raise SettingError(
            "optim holds a state that was loaded (load, set_state), and a fit starts its optimiser anew. "
            "Give a new one; to continue an interrupted fit give checkpoint=."
        )


def _told(optim: Any) -> str:
    kind = optim if isinstance(optim, type) else type(optim)
    return (
        f"torch.optim.{kind.__name__}" if issubclass(kind, torch.optim.Optimizer) else repr(optim)
    )


def _instead(optim: Any) -> str:
    """The sentence that names the optimiser of Pyro's that was probably meant."""
    kind = optim if isinstance(optim, type) else type(optim)
    name = kind.__name__ if hasattr(pyro.optim, kind.__name__) else "Adam"
    rate = 0.01
    if isinstance(optim, torch.optim.Optimizer):
        rate = float(optim.param_groups[0].get("lr", rate))
    return f'Give pyro.optim.{name}({{"lr": {rate:g}}}): it makes one for every parameter that it meets.'


# what an optimiser says of a parameter ----------------------------------------------------------


def options_of(optim: pyro.optim.PyroOptim, name: str) -> dict[str, Any]:
    """The options of a parameter of this name, as Pyro asks for them."""
    given = optim.pt_optim_args
    if not callable(given):
        return dict(given)
    if optim.pt_optim_args_argc == 1:
        return _checked(given(normalize_param_name(name)), name)
    return _checked(given(module_from_param_with_module_name(name), user_param_name(name)), name)


def clips_of(optim: pyro.optim.PyroOptim, name: str) -> dict[str, Any]:
    """How the gradient of a parameter of this name is clipped, as Pyro asks for it."""
    given = optim.pt_clip_args
    if not callable(given):
        return dict(given or {})
    return _checked(given(module_from_param_with_module_name(name), user_param_name(name)), name)


def _checked(options: Any, name: str) -> dict[str, Any]:
    if not isinstance(options, dict):
        raise SettingError(
            f"optim's function of a parameter's name gives {options!r} for '{name}': let it give a dict "
            "of options for every name."
        )
    return dict(options)


# read as a rule ---------------------------------------------------------------------------------


def read(
    optim: pyro.optim.PyroOptim,
    parameters: Sequence[tuple[str, Tensor]],
    unseen: Callable[[], Sequence[bool]],
    steps: int,
) -> Optimiser:
    """The optimiser of these parameters, by the names that Pyro has for them, for so many steps.

    `unseen`, asked where weights decay: which of them the objective does not depend on. They have no
    gradient, so Pyro's optimisers never move them.

    Raises:
        SettingError: options that torch refuses; a schedule that ends before the last step.
        CannotRecord: an optimiser, or an option, that no rule has.
    """
    groups: list[Any] = []
    group = [
        _place(groups, (options_of(optim, name), _limits(clips_of(optim, name)), value.dim()))
        for name, value in parameters
    ]
    columns = [_course(optim, options, dim, steps) | limits for options, limits, dim in groups]
    rule = _rule(optim, columns)
    decays = any(column.get("weight_decay") for column in columns)
    still = unseen() if decays else [False] * len(group)
    apart: list[Any] = []
    group = [
        _place(apart, columns[its] | ({"weight_decay": 0} if at_rest else {}))
        for its, at_rest in zip(group, still, strict=True)
    ]
    numbers = _combined(apart, steps)
    sizes = torch.tensor([value.numel() for _, value in parameters])
    entry = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    rates = numbers.pop("lr")
    if not isinstance(rates, Tensor):
        varied = [n for n in numbers.values() if isinstance(n, Tensor)]
        rates = torch.full(varied[0].shape if varied else (steps,), rates, dtype=torch.float64)
    device = parameters[0][1].device
    owner = torch.tensor(group)[entry].to(device)
    return Optimiser(rule, rates, numbers, False, entry.to(device), owner)


def _place(groups: list[Any], one: Any) -> int:
    """The place of one among the groups, where it enters if it is new."""
    if one not in groups:
        groups.append(one)
    return groups.index(one)


def _course(
    optim: pyro.optim.PyroOptim, options: dict[str, Any], dim: int, steps: int
) -> dict[str, Any]:
    """What torch's optimiser of these options reads at every step: a number, or a list of so many."""
    try:
        one = optim.pt_optim_constructor([torch.nn.Parameter(torch.zeros([1] * dim))], **options)
        scheduler = None
        if is_scheduler(optim):
            with quiet():
                scheduler = optim.pt_scheduler_constructor(one, **optim.kwargs)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise SettingError(
            f"torch refuses the options of optim: {error}. Options: {options}."
        ) from error
    group = one.param_groups[0]
    moves = scheduler is not None or group.get("lrd", 1) != 1
    rows = []
    for step in range(steps if moves else 1):
        if step == 0 or "lrd" in group:
            one.step()
        rows.append(_flat({name: group[name] for name in one.defaults}))
        if scheduler is not None and step < steps - 1:
            _advance(scheduler, step + 1, steps)
    found = {name: [row[name] for row in rows] for name in rows[0]}
    return {n: v[0] if all(x == v[0] for x in v) else v for n, v in found.items()}


def _advance(scheduler: Any, done: int, steps: int) -> None:
    try:
        with quiet():
            scheduler.step()
    except ValueError as error:
        raise SettingError(
            f"The schedule of optim ends after {done:,} steps, and the fit may take {steps:,}: give "
            f"steps={done} or fewer, or a longer schedule."
        ) from error


def _flat(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a torch optimiser as plain numbers, `betas` as two."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        if name == "betas":
            found |= {"b1": float(value[0]), "b2": float(value[1])}
        elif name == "eta":
            found["lr"] = float(value)
        elif name not in WITHOUT_EFFECT:
            found[name] = value.item() if isinstance(value, Tensor) else value
    return found


def _rule(optim: pyro.optim.PyroOptim, columns: Sequence[dict[str, Any]]) -> Any:
    if type(optim) not in (pyro.optim.PyroOptim, pyro.optim.PyroLRScheduler):
        raise CannotRecord(f"{type(optim).__name__} is a class of optimisers of its own")
    name = getattr(optim.pt_optim_constructor, "__name__", "optim")
    rule = RULES.get(optim.pt_optim_constructor)
    if rule is None:
        known = ", ".join(sorted(kind.__name__ for kind in RULES))
        raise CannotRecord(f"{name} is not among the optimisers that are recorded ({known})")
    for column in columns:
        for option in sorted(set(column) - {*rule.options, *CLIPS}):
            if column[option]:
                raise CannotRecord(f"{option}={column[option]} of {name} is not recorded")
            del column[option]
    return rule


def _limits(clips: dict[str, Any]) -> dict[str, float]:
    unknown = set(clips) - {"clip_norm", "clip_value"}
    if unknown:
        raise SettingError(
            f"optim clips gradients by {sorted(unknown)}, which Pyro does not know: give clip_norm or "
            "clip_value."
        )
    values = clips.get("clip_norm"), clips.get("clip_value")
    limits = (math.inf if value is None else float(value) for value in values)
    return dict(zip(CLIPS, limits, strict=True))


def _combined(columns: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """Numbers that are the same everywhere, and tables (steps,) or (steps, groups) of the others."""
    found: dict[str, Any] = {}
    for name in columns[0]:
        values = [column[name] for column in columns]
        if not isinstance(values[0], list) and all(v == values[0] for v in values):
            found[name] = values[0]
            continue
        if any(isinstance(v, bool) for v in values):
            raise CannotRecord(f"{name} differs among parameters")
        for value in values:
            if name != "lr" and isinstance(value, list) and 0 in value:
                raise CannotRecord(f"the schedule turns {name} off and on")
        found[name] = torch.stack(
            [torch.tensor(v, dtype=torch.float64).expand(steps) for v in values], 1
        )
    if len(columns) == 1:
        return {k: v[:, 0] if isinstance(v, Tensor) else v for k, v in found.items()}
    return found
