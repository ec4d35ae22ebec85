"""What stands in, while recording, for what torch and Pyro do in a way that no graph can follow.

Each has the same values and the same gradients, and draws the same random numbers; only where a
computation is vectorised over draws are the numbers others of the same distribution.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.util import Dice
from torch import Tensor
from torch.overrides import TorchFunctionMode

from guidebook.programs.graphs import older_functions
from guidebook.programs.graphs.tape import DependsOnValues

PLACES = ("pyro.infer", "pyro.poutine", "pyro.ops", "pyro.distributions", "torch.distributions")
"""Where functions are replaced by name."""

READS = (Tensor.tolist, Tensor.numpy, Tensor.__array__)
DRAWN_IN_PLACE = (
    Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.cauchy_, Tensor.log_normal_,
    Tensor.geometric_,
)  # fmt: skip


class Adapted(TorchFunctionMode):
    """Functions of torch that read values, or that vmap refuses, by others.

    - `value.data` is `value.detach()`: Pyro's enumeration reads shapes from it, which vmap refuses;
    - `one_hot` with a number of classes looks for the largest label, to say where it is too large;
    - distributions fill a fresh tensor with random numbers in place, for which vmap wants one with its rows;
    - `tolist` and `numpy` read memory past the tape, which asks first whether the values may be read.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func is torch.nn.functional.one_hot:
            classes = args[1] if len(args) > 1 else kwargs.get("num_classes", -1)
            return one_hot(args[0], classes) if classes > 0 else func(*args, **kwargs)
        if func in DRAWN_IN_PLACE and _called_by_a_distribution():
            return _filled(func, args, kwargs)
        if func in READS and args[0].numel():
            args[0].detach().reshape(-1)[0].item()
        return func(*args, **kwargs)


def _called_by_a_distribution() -> bool:
    """Whether the code that called torch uses the result, and not the tensor that was filled."""
    caller = sys._getframe(2).f_globals.get("__name__", "")
    return caller.startswith(("pyro.distributions", "torch.distributions"))


def _filled(func: Any, args: Any, kwargs: Any) -> Tensor:
    try:
        filled: Tensor = func(*args, **kwargs)
    except RuntimeError as error:
        if "inplace randomness" not in str(error):
            raise
        filled = func(torch.rand_like(args[0]), *args[1:], **kwargs)
    return filled


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """torch.nn.functional.one_hot, (..., classes), of labels that are known to be below `classes`."""
    zeros = labels.new_zeros((*labels.shape, classes))
    return zeros.scatter(-1, labels.unsqueeze(-1), 1)


class _Zeroed(TorchFunctionMode):
    """masked_select without dropping: zeros where the mask is false, the same sum afterwards."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.masked_select:
            value, mask = args
            return torch.where(mask, value, torch.zeros((), dtype=value.dtype, device=value.device))
        return func(*args, **(kwargs or {}))


def _expectation(dice: Dice, costs: Any) -> Tensor:
    with _Zeroed():
        return _compute_expectation(dice, costs)


_compute_expectation = Dice.compute_expectation


def _standard_normal(shape: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch's own, which on its JIT branch fills two tensors to draw from; the same numbers."""
    return torch.randn(shape, dtype=dtype, device=device)


def _safe_normalize(x: Tensor, *, p: float = 2) -> Tensor:
    """x / |x|_p, and (1, 0, ..., 0) at zero, without writing in place."""
    norm = torch.linalg.norm(x, dim=-1, ord=p, keepdim=True)
    x = x / norm.clamp(min=torch.finfo(x.dtype).tiny)
    first = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[0]
    return torch.where(x.eq(0).all(-1, keepdim=True), first, x)


def _ordered_logistic(
    self: Any, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None
) -> None:
    """OrderedLogistic made without writing in place: P(k) = sigmoid(c_k - x) - sigmoid(c_(k-1) - x)."""
    below = torch.sigmoid(cutpoints - predictor.unsqueeze(-1))
    self.predictor = predictor.expand(below.shape[:-1])
    self.cutpoints = cutpoints.expand(below.shape)
    pieces = below[..., :1], below[..., 1:] - below[..., :-1], 1 - below[..., -1:]
    super(dist.OrderedLogistic, self).__init__(torch.cat(pieces, -1), validate_args=validate_args)


def _multinomial_log_prob(self: Any, value: Tensor) -> Tensor:
    """Multinomial.log_prob without writing in place: a category without counts and chances adds 0."""
    logits, value = torch.broadcast_tensors(self.logits, value)
    logits = logits.masked_fill((value == 0) & (logits == -math.inf), 0)
    number = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
    return number + (logits * value).sum(-1)


def _multinomial_sample(self: Any, sample_shape: Any = ()) -> Tensor:
    """Multinomial.sample without writing in place: the counts of the same draws."""
    shape = torch.Size((self.total_count, *sample_shape))
    labels = self._categorical.sample(shape)
    return one_hot(labels, self._event_shape[-1]).sum(0).type_as(self.probs)


def _binary_cross_entropy(
    input: Tensor, target: Tensor, weight: None = None, reduction: str = "mean"
) -> Tensor:
    """As torch's own, whose rule for vmap takes exponentials of large negative numbers, which are slow where
    they are subnormal, as far from the mode.
    """
    if weight is not None or reduction != "none":
        functional = torch.nn.functional
        return functional.binary_cross_entropy_with_logits(
            input, target, weight, reduction=reduction
        )
    return (1 - target).mul(input).sub(torch.nn.functional.logsigmoid(input))


def _unchecked(self: Any, value: Any) -> None:
    """A distribution made before the recording keeps its validation, which reads values."""


def _seeded(*given: Any) -> Any:
    raise DependsOnValues(
        "the program sets the seed of torch's random numbers (poutine.seed, torch.manual_seed), and a "
        "graph draws its numbers in one stream"
    )


_NAMED: dict[str, Callable[..., Any]] = {
    # detached, as .item() is: Trace_ELBO takes the score-function term from such a difference
    "torch_item": lambda x: x.detach() if isinstance(x, Tensor) else x,
    "warn_if_nan": lambda value, *a, **k: value,
    "_standard_normal": _standard_normal,
    "safe_normalize": _safe_normalize,
    "binary_cross_entropy_with_logits": _binary_cross_entropy,
}
_METHODS: tuple[tuple[Any, str, Any], ...] = (
    (Dice, "compute_expectation", _expectation),
    (dist.OrderedLogistic, "__init__", _ordered_logistic),
    (torch.distributions.Multinomial, "log_prob", _multinomial_log_prob),
    (torch.distributions.Multinomial, "sample", _multinomial_sample),
    (torch.autograd.Function, "apply", classmethod(older_functions.apply)),
    (torch.distributions.Distribution, "_validate_sample", _unchecked),
)
SEEDS: tuple[tuple[Any, str, Any], ...] = (
    (torch, "manual_seed", _seeded),
    (torch, "set_rng_state", _seeded),
)
"""What cannot be recorded, and runs as it is otherwise."""


def stand_ins() -> tuple[tuple[Any, str, Any], ...]:
    """(owner, name, stand-in) of everything that is replaced."""
    return (*_METHODS, *_by_name(len(sys.modules), next(reversed(sys.modules))))


@lru_cache(maxsize=1)
def _by_name(count: int, newest: str) -> list[tuple[Any, str, Any]]:
    """(module, name, stand-in) of every module that took one of the functions that go by name.

    `count` and `newest` of the imported modules: an import makes the list anew.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(PLACES)]
    return [
        (module, key, stand_in)
        for module in modules
        for key, stand_in in _NAMED.items()
        if key in vars(module)
    ]
