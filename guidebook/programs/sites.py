"""Between the latent sites of a model and one flat vector of real numbers.

A site z_k with support S_k is written z_k = T_k(u_k), where T_k = biject_to(S_k) and u_k is free;
u = (u_1, ..., u_K) is the position of the model on the unconstrained scale, and

    log p(x, u) = log p(x, z(u)) + sum_k log |det dT_k / du_k|.

The order of the sites is the order in which the model samples them, so a support may depend on the
sites before it (beta1 in (0, 1 - alpha1)): the transform is taken anew at every run of the model.

A discrete site that is not enumerated has no such scale. Where its values are all that is asked for
(draws of `gibbs` or `exact`) they stand in u as they are, with T the identity, and log p(x, u) has no
gradient by them; engines that need one refuse such a model.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.util import sum_rightmost
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Categorical, biject_to
from torch.distributions.transforms import identity_transform

from guidebook.errors import ModelError
from guidebook.scope import random_state

Model = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """A latent site: its name, constrained shape, event dimensions, support and plates.

    plates holds (name, dim, size) from the outermost in, dim counted from the right of the batch
    shape as Pyro does. `varying` says that the support depends on other sites.
    """

    name: str
    shape: torch.Size
    unconstrained_shape: torch.Size
    event_dim: int
    support: constraints.Constraint
    plates: tuple[tuple[str, int, int], ...]
    varying: bool = False

    @property
    def size(self) -> int:
        return self.unconstrained_shape.numel()

    @property
    def discrete(self) -> bool:
        return bool(self.support.is_discrete)


class Substitute(Messenger):
    """Runs a model at the position u (D,): every latent site takes its slice of u.

    After the run `values` holds the constrained value of each site and `log_dets` its
    log |det dT/du| in the site's batch shape. Sites that are enumerated are left to Pyro's enumeration.
    """

    def __init__(
        self, position: Tensor | None = None, sizes: Sequence[int] = (), depth: int | None = None
    ) -> None:
        """`sizes`: of the slices, where they are known: taken at once, their gradients are put together
        at once, where many slices would each fill a vector of the length of u. `depth`: of the plates, where
        Pyro's enumeration has dimensions left of them, which a distribution has and its value has not.
        """
        super().__init__()
        self.position, self.depth = position, depth
        fits = position is not None and sum(sizes) == len(position)  # not where it is of more rows
        self._pieces = list(position.split(list(sizes))) if fits and position is not None else []
        self.values: dict[str, Tensor] = {}
        self.log_dets: dict[str, Tensor] = {}
        self._offset = self._taken = 0

    def __enter__(self) -> Substitute:
        self.values, self.log_dets, self._offset, self._taken = {}, {}, 0, 0
        super().__enter__()
        return self

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_enumerated(msg):
            return
        transform = bijection(msg["fn"].support)
        shape = transform.inverse_shape(self._shape(msg["fn"]))
        if self.position is None:  # a look at the model: every free coordinate at zero
            flat = torch.zeros(shape, device=_device(msg["fn"]))
            if msg["fn"].support.is_discrete:
                flat = some_value(msg["fn"])
        else:
            size = shape.numel()
            if self._offset + size > len(self.position):  # more sites than a position has room for
                raise sites_change({msg["name"]})
            flat = self._slice(size).reshape(shape)
        value = as_label(msg["fn"], transform(flat))
        self.values[msg["name"]] = value
        self.log_dets[msg["name"]] = log_abs_det(transform, flat, value, msg["fn"].event_dim)
        msg["value"] = value
        msg["done"] = True

    def _shape(self, fn: Any) -> torch.Size:
        batch = tuple(fn.batch_shape)
        if self.depth is not None:
            batch = batch[max(0, len(batch) - self.depth) :]
        return torch.Size((*batch, *fn.event_shape))

    def _slice(self, size: int) -> Tensor:
        assert self.position is not None
        start, self._offset = self._offset, self._offset + size
        pieces, place = self._pieces, self._taken
        self._taken += 1
        if place < len(pieces) and len(pieces[place]) == size:
            return pieces[place]
        self._pieces = []  # other sizes than were known
        return self.position[start : start + size]


class Inverse(Messenger):
    """Runs a model with the sites at given values and keeps u = T^-1(z) of each."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values
        self.flat: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            value = self.values[msg["name"]].reshape(msg["fn"].shape())
            self.flat[msg["name"]] = bijection(msg["fn"].support).inv(value)
            msg["value"], msg["done"] = value, True


class PriorDraw(Messenger):
    """Draws every latent site from its prior and keeps u; a flat prior gives N(0, 2^2) in u."""

    def __init__(self) -> None:
        super().__init__()
        self.flat: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or is_enumerated(msg):
            return
        fn = msg["fn"]
        transform = bijection(fn.support)
        flat = torch.full((), math.nan)
        with contextlib.suppress(NotImplementedError):
            flat = transform.inv(fn.sample())
        if not bool(flat.isfinite().all()):
            flat = 2 * torch.randn(transform.inverse_shape(fn.shape()), device=_device(fn))
        self.flat[msg["name"]] = flat
        msg["value"], msg["done"] = transform(flat), True


def bijection(support: constraints.Constraint) -> Any:
    """From the real numbers to the support; the identity where the support is discrete.

    Raises:
        ModelError: torch knows none, as for positive definite matrices and the sphere.
    """
    if support.is_discrete:
        return identity_transform
    try:
        return biject_to(support)
    except NotImplementedError as error:
        raise ModelError(
            f"A latent site has the support {support}, and no bijection between it and the real "
            "numbers is known. Write the site in free coordinates: a covariance matrix by "
            "LKJCholesky and positive scales, a direction by a normal vector."
        ) from error


def some_value(fn: Any) -> Tensor:
    """A value of a discrete distribution at which a model can be looked at: 0, 1, or a draw."""
    for number in (0.0, 1.0):
        value = torch.full(fn.shape(), number, device=_device(fn))
        if bool(fn.support.check(value).all()):
            return value
    with random_state(0):  # a look takes none of the caller's random numbers
        drawn: Tensor = fn.sample()
    return drawn.to(torch.get_default_dtype())


def as_label(fn: Any, value: Tensor) -> Tensor:
    """The value as the distribution gives it: a model may take a row of a table by a Categorical."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return value.long() if isinstance(fn, Categorical) else value


def log_abs_det(transform: Any, flat: Tensor, value: Tensor, event_dim: int) -> Tensor:
    """log |det dT/du| of one site, summed over what belongs to its event."""
    if transform is identity_transform:  # of a discrete value, which may be a whole number
        return flat.new_zeros(flat.shape[: flat.dim() - event_dim])
    log_det = transform.log_abs_det_jacobian(flat, value)
    return sum_rightmost(log_det, log_det.dim() - (value.dim() - event_dim))


def is_enumerated(msg: Any) -> bool:
    """Whether Pyro's enumeration sums the site out."""
    return msg["infer"].get("enumerate") is not None and msg["fn"].has_enumerate_support


def _device(fn: Any) -> torch.device | None:
    """Where a distribution's tensors are, its own before those of the distributions it is made of."""
    parts = vars(fn).values()
    for value in parts:
        if isinstance(value, Tensor):
            return value.device
    made_of = (_device(p) for p in parts if isinstance(p, torch.distributions.Distribution))
    return next((place for place in made_of if place is not None), None)


def trace_at(
    model: Model, data: Mapping[str, Any], position: Tensor | None
) -> tuple[Any, Substitute]:
    """The trace of model(**data) at a position (None: the origin), with what Substitute saw."""
    substitute = Substitute(position)
    with substitute:
        trace = poutine.trace(model).get_trace(**data)
    return trace, substitute


def latent_sites(
    model: Model, data: Mapping[str, Any], *, discrete: bool = False
) -> tuple[Site, ...]:
    """The model's latent sites in order, read from runs at the origin and a step away from it.

    Raises:
        ModelError: a discrete site that is not enumerated (unless `discrete`), a site whose support
            has no bijection to the real numbers, or sites that change from run to run.
    """
    trace, seen = trace_at(model, data, None)
    _check_names(trace)
    supports = {name: trace.nodes[name]["fn"].support for name in seen.values}
    whole = [name for name, support in supports.items() if support.is_discrete]
    if whole and not discrete:
        raise ModelError(
            f"The latent site '{whole[0]}' is discrete, so it has no unconstrained scale. "
            'Enumerate it: infer={"enumerate": "parallel"} at the site (or '
            "pyro.infer.config_enumerate on the model) and objective=TraceEnum_ELBO(...); or use a "
            "guide that samples it, gibbs or exact."
        )
    positions = [
        value.reshape(-1).to(torch.get_default_dtype()) if name in whole
        else torch.full((bijection(supports[name]).inverse_shape(value.shape).numel(),), 0.5,
                        device=value.device)
        for name, value in seen.values.items()
    ]  # fmt: skip
    away, again = trace_at(model, data, torch.cat(positions) if positions else torch.zeros(0))
    if set(again.values) != set(seen.values):
        raise sites_change(set(again.values) ^ set(seen.values))
    sites = []
    for name, value in seen.values.items():
        node = trace.nodes[name]
        fn, support = node["fn"], node["fn"].support
        frames = sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)
        sites.append(
            Site(
                name=name,
                shape=value.shape,
                unconstrained_shape=bijection(support).inverse_shape(value.shape),
                event_dim=fn.event_dim,
                support=support,
                plates=tuple((f.name, f.dim, f.size) for f in frames),
                varying=_differs(support, away.nodes[name]["fn"].support),
            )
        )
    return tuple(sites)


def _check_names(trace: Any) -> None:
    """ModelError for a site that no group of ArviZ can hold as a variable."""
    for name, node in trace.nodes.items():
        of_draws = name in ("chain", "draw", "sample")
        if node["type"] == "sample" and not site_is_subsample(node) and (of_draws or "/" in name):
            why = "draws have a dimension of that name" if of_draws else "names with '/' are paths"
            raise ModelError(
                f"The site '{name}' cannot be a variable in ArviZ's groups, where {why}: rename it."
            )


def sites_change(names: set[str]) -> ModelError:
    """The error of a model that has these sites in some of its runs."""
    return ModelError(
        f"The latent sites change from run to run: '{min(names)}' is there in one and not in another. A fit "
        "needs the same sites in every run: sample as many as there can be, and let the draws say which of "
        "them count (for example by pyro.poutine.mask)."
    )


def _differs(one: Any, other: Any) -> bool:
    """Whether two supports hold different bounds."""
    for key, value in vars(one).items():
        twin = vars(other).get(key)
        if isinstance(value, constraints.Constraint):
            changed = _differs(value, twin)
        elif isinstance(value, Tensor) and isinstance(twin, Tensor):
            changed = value.shape != twin.shape or not torch.equal(value, twin)
        else:
            continue
        if changed:
            return True
    return False


def unpack(sites: tuple[Site, ...], position: Tensor) -> list[tuple[Site, Tensor]]:
    """Slices of u (..., D) in the unconstrained shape of each site.

    Dimensions left of D are those of plates outside the model (Pyro's vectorised particles), and
    broadcast against the site's own plates as in Pyro's autoguides.
    """
    pieces = position.split([site.size for site in sites], dim=-1)
    result = []
    for site, piece in zip(sites, pieces, strict=True):
        event = site.event_dim + len(site.unconstrained_shape) - len(site.shape)
        outer = position.shape[:-1] + (1,) * event
        shape = torch.broadcast_shapes(site.unconstrained_shape, outer)
        result.append((site, piece.reshape(shape)))
    return result


def coordinate_names(sites: tuple[Site, ...]) -> list[str]:
    """A label for each free coordinate: 'tau', 'theta[3]', 'L[1, 0]'."""
    labels: list[str] = []
    for site in sites:
        if not site.unconstrained_shape:
            labels.append(site.name)
            continue
        grid = itertools.product(*[range(n) for n in site.unconstrained_shape])
        labels.extend(f"{site.name}[{', '.join(map(str, index))}]" for index in grid)
    return labels
