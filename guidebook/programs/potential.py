"""The model's log density on the unconstrained scale, recorded once and evaluated in batches.

    log p(x, u) = log p(x, z(u)) + log |det dz/du|,     u in R^D,

with its gradient and Hessian. Discrete sites marked for enumeration are summed out exactly. What was
recorded serves at other data of the same shapes (`Potential.at`), where the data that change were named.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.mcmc.util import TraceEinsumEvaluator
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.programs.data import arrays
from guidebook.programs.graphs.interpreted import interpreted
from guidebook.programs.graphs.recorded import (
    CannotRecord,
    eager,
    joined,
    mapped,
    record,
    recording,
    spared,
)
from guidebook.programs.nodes import (
    constants,
    depends_on_latents,
    is_deterministic,
    plate_nesting,
    sample_nodes,
    scaled_log_prob,
)
from guidebook.programs.sites import (
    Inverse,
    PriorDraw,
    Site,
    Substitute,
    latent_sites,
)
from guidebook.scope import local_parameters, precision, random_state

ELEMENTS_AT_ONCE = 4_000_000
LONG, ROWS_OF_LONG = 2000, 256
"""Operations from which on a recording is long, as that of a loop over time: to record it again for another
number of positions takes longer than hundreds of evaluations, so it is evaluated at so many at a time."""


class Potential:
    """log p(x, u) of model(**data), for u (S, D) in the dtype of the data.

    Attributes:
        sites: the latent sites, in order; dimension: D, of all of them.
        nodes: the sample statements of one run, by name.
        vectorised: False once the model has shown that it must be run draw by draw.
        derived, observed: names of the deterministic and of the observed sites.
        plates: name to (plate, dim) of every site's plates; plate_sizes: the rows present in each.
        plate_nesting: how deep the plates go, of a model with enumerated sites; None without.
        changing: names of the tensors of the data that `at` may replace. A graph takes them as inputs,
            so a model that reads their values cannot be recorded: CannotRecord.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        data: Mapping[str, Any],
        sites: tuple[Site, ...] = (),
        changing: tuple[str, ...] = (),
    ) -> None:
        """ModelError where log p differs from run to run at one position."""
        self.model, self.data, self.changing = model, dict(data), changing
        self._default = torch.get_default_dtype()
        with local_parameters(), precision(self.dtype), torch.no_grad():
            self.sites = sites or latent_sites(model, self.data)
            nodes = sample_nodes(model, self.data)
            self.dimension = sum(site.size for site in self.sites)
            still = constants(model, self.data, nodes, self.dimension)
        self.nodes = nodes
        self.plate_nesting = plate_nesting(nodes)
        derived = [n for n, node in nodes.items() if depends_on_latents(node)]
        self.derived = tuple(n for n in derived if n not in still)
        self.observed = tuple(
            n for n, node in nodes.items() if node["is_observed"] and not is_deterministic(node)
        )
        self.plates = {
            n: tuple((f.name, f.dim) for f in node["cond_indep_stack"] if f.vectorized)
            for n, node in nodes.items()
        }
        self.plate_sizes = {
            f.name: int(f.size)
            for node in nodes.values()
            for f in node["cond_indep_stack"]
            if f.vectorized
        }
        tensors = self._tensors()
        rows = max((v.numel() for v in tensors), default=1)
        self.chunk = max(1, min(2048, ELEMENTS_AT_ONCE // max(rows, self.dimension)))
        self._graphs: dict[Any, Callable[..., Any]] = {}
        self._lengths: list[int] = []  # of the recordings
        self.vectorised = True
        self.device = tensors[0].device if tensors else torch.device("cpu")
        with local_parameters(), precision(self.dtype), torch.no_grad():
            self._check_repeats()

    def _check_repeats(self) -> None:
        """ModelError where log p(x, z) differs from run to run at one z, the origin: whatever needs log p
        would take that for a property of the posterior.
        """
        found = []
        for seed in (0, 1):
            with random_state(seed):
                before = torch.get_rng_state()
                origin = Substitute(depth=self.plate_nesting)
                found.append(float(self._log_joint(self._traced(origin))))
                if self.device.type == "cpu" and torch.equal(before, torch.get_rng_state()):
                    return  # nothing was drawn
        rounded = math.isclose(*found, rel_tol=1e-6)  # sums on a GPU are taken in any order
        if not rounded and not math.isnan(found[0]):
            raise ModelError(
                f"log p(x, z) is {found[0]:.6g} in one run of the model and {found[1]:.6g} in the next, at "
                "the same z: the model draws random numbers outside of pyro.sample (torch.randn, dropout "
                "that is always on), or hides a latent site. Make them latent sites, or data of the model."
            )

    def at(self, data: Mapping[str, Any]) -> Potential:
        """The potential at other data of the same shapes; what has been recorded is shared.

        `data` holds the tensors that are replaced, all of them named in `changing`.
        """
        twin = copy.copy(self)
        twin._graphs, twin._lengths = self._graphs, self._lengths
        twin.data = {**self.data, **data}
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without the graphs, which are recorded again."""
        return {**vars(self), "_graphs": {}, "_lengths": []}

    def _inputs(self) -> list[Tensor]:
        return [self.data[name] for name in self.changing]

    def _recorded(self, function: Callable[..., Any], u: Tensor) -> torch.fx.GraphModule:
        """The graph of function(potential, u), of u and the data that change."""

        def run(position: Tensor, *given: Tensor) -> Any:
            here = self.at(dict(zip(self.changing, given, strict=True))) if given else self
            return function(here, position)

        graph = record(run, u, *self._inputs())
        self._lengths.append(graph.meta["recorded"])
        return graph

    # one position -------------------------------------------------------------------------------

    def _evaluate(self, u: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """log p(x, z), log |det dz/du| and the values of the sites at u (D,)."""
        substitute = Substitute(u, [site.size for site in self.sites], self.plate_nesting)
        trace = self._traced(substitute)
        values = substitute.values | {n: trace.nodes[n]["value"] for n in self.derived}
        log_det = sum((d.sum() for d in substitute.log_dets.values()), u.new_zeros(()))
        return self._log_joint(trace), log_det, values

    def _traced(self, substitute: Substitute) -> Any:
        model = self.model
        if self.plate_nesting is not None:
            model = poutine.enum(model, first_available_dim=-1 - self.plate_nesting)
        with substitute:
            return poutine.trace(model).get_trace(**self.data)

    def _log_joint(self, trace: Any) -> Tensor:
        if self.plate_nesting is not None:
            summed: Tensor = TraceEinsumEvaluator(trace, True, self.plate_nesting).log_prob(trace)
            return summed
        log_joint = torch.zeros((), dtype=self.dtype, device=self.device)
        for node in trace.nodes.values():
            if node["type"] == "sample" and not site_is_subsample(node):
                log_joint = log_joint + scaled_log_prob(node).sum()
        return log_joint

    def _log_density(self, u: Tensor) -> Tensor:
        log_joint, log_det, _ = self._evaluate(u)
        return log_joint + log_det

    def value_and_grad_at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) and its gradient (D,) at u (D,), computed by Pyro: for recording."""
        grad, value = torch.func.grad_and_value(self._log_density)(u)
        return value, grad

    def value_and_grad_by_autograd(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a program that torch.func cannot transform, such as one that packs sequences."""
        with torch.enable_grad():
            at = u.detach().requires_grad_()
            value = self._log_density(at)
            (grad,) = torch.autograd.grad(value, at)
        return value.detach(), grad

    def single(self) -> torch.fx.GraphModule:
        """The recorded graph of u (D,), and the data that change -> (log p(x, u), gradient).

        Raises:
            CannotRecord: the model reads values.
        """
        if "single" not in self._graphs:
            u = torch.zeros(self.dimension, dtype=self.dtype, device=self.device)
            with local_parameters(), precision(self.dtype):
                self._graphs["single"] = self._recorded(Potential.value_and_grad_at, u)
        return self._graphs["single"]  # type: ignore[return-value]

    def run_single(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """`single`, ready to be called many times."""
        if "run single" not in self._graphs:
            self._graphs["run single"] = interpreted(self.single())
        run = self._graphs["run single"]
        given = self._inputs()
        return partial(_with_inputs, run, given) if given else run

    @property
    def dtype(self) -> torch.dtype:
        floats = [v for v in self._tensors() if v.is_floating_point()]
        return floats[0].dtype if floats else self._default

    def _tensors(self) -> list[Tensor]:
        """Those of the data, also inside of lists and dicts."""
        return [v for _, v in arrays(self.data) if isinstance(v, Tensor)]

    # batches of positions -----------------------------------------------------------------------

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, z) and log |det dz/du|, each (S,), at u (S, D)."""
        return self._batched("density", lambda p, v: p._evaluate(v)[:2], u)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) (S,) and its gradient (S, D) at u (S, D)."""
        return self._batched("gradient", Potential.value_and_grad_at, u)

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """The values of the sites and of what the model derives from them, each (S, *shape), at u (S, D)."""
        return self._batched("values", lambda p, v: p._evaluate(v)[2], u)

    def replay(self, key: str, collect: Callable[..., Any], u: Tensor) -> dict[str, Tensor]:
        """What `collect(trace)` takes from the model's trace at u (S, D), an enumerated one where sites are
        summed out, stacked in front.
        """

        def run(potential: Potential, one: Tensor) -> dict[str, Tensor]:
            return collect(potential._traced(Substitute(one, depth=potential.plate_nesting)))

        return self._batched(key, run, u)

    def hessian(self, u: Tensor) -> Tensor:
        """d^2 log p(x, u) / du du' (D, D) at u (D,); by differences where torch has no second
        derivative of an operation of the model.
        """
        if "hessian" not in self._graphs:
            self._graphs["hessian"] = self._hessian_graph(u)
        try:
            rows = self._graphs["hessian"](u, *self._inputs())
        except RuntimeError:  # no second derivative (NotImplementedError is one), or no factor here
            rows = self._difference_hessian(u)
        return (0.5 * (rows + rows.T)).detach()

    def _hessian_graph(self, u: Tensor) -> Callable[..., Tensor]:
        with local_parameters(), precision(self.dtype):
            with contextlib.suppress(CannotRecord):
                if self._long:
                    return interpreted(self._recorded(_derivative_of_graph, u))
            try:
                return interpreted(self._recorded(_second_derivative, u))
            except CannotRecord:  # no second derivative, or values are read
                if self.changing:
                    raise
                return self._eager_hessian

    def _eager_hessian(self, u: Tensor) -> Tensor:
        with local_parameters(), precision(self.dtype), eager():
            return _second_derivative(self, u)

    def _difference_hessian(self, u: Tensor) -> Tensor:
        step = 1e-4 * (1 + u.abs())
        shifts = torch.diag(step)
        _, ahead = self.value_and_grad(u + shifts)
        _, behind = self.value_and_grad(u - shifts)
        return (ahead - behind) / (2 * step[:, None])

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """u (S, D) of values of the sites, each (S, *shape)."""

        def invert(one: dict[str, Tensor]) -> Tensor:
            inverse = Inverse(one)
            with inverse:
                self.model(**self.data)
            return torch.cat([inverse.flat[site.name].reshape(-1) for site in self.sites])

        with local_parameters(), precision(self.dtype), torch.no_grad():
            try:
                with recording():
                    return torch.func.vmap(invert, randomness="different")(dict(values))
            except Exception:  # a model that cannot be vectorised: draw by draw
                count = len(next(iter(values.values())))
                with eager():
                    singles = [invert({n: v[i] for n, v in values.items()}) for i in range(count)]
                return torch.stack(singles)

    def prior_positions(self, count: int, seed: int) -> np.ndarray:
        """u (count, D) of draws from the prior; N(0, 2^2) where a site's prior cannot be drawn."""
        rows = []
        with local_parameters(), precision(self.dtype), random_state(seed), torch.no_grad():
            for _ in range(count):
                drawn = PriorDraw()
                with eager(), drawn:
                    self.model(**self.data)
                flat = [drawn.flat[site.name].reshape(-1) for site in self.sites]
                rows.append(torch.cat(flat).double().cpu().numpy())
        return np.array(rows)

    def _batched(self, key: str, function: Callable[..., Any], u: Tensor) -> Any:
        u = u.detach()
        size = self.chunk if len(u) > self.chunk else _rounded(len(u))
        if self._long and (key, size) not in self._graphs:
            size = min(self.chunk, ROWS_OF_LONG)
        pieces = []
        for piece in u.split(size):
            short = size - len(piece)
            padded = torch.cat([piece, piece[:1].expand(short, -1)]) if short else piece
            graph, given = self._graph(key, function, padded), self._inputs()
            result = spared(partial(_with_inputs, graph, given) if given else graph, padded)
            pieces.append(mapped(result, partial(_first, len(piece))))
        return joined(pieces)

    @property
    def _long(self) -> bool:
        return max(self._lengths, default=0) > LONG

    @property
    def cost(self) -> int:
        """Numbers that one gradient at one position goes through: the work of a draw."""
        try:
            graph = self.single()
        except CannotRecord:
            return ELEMENTS_AT_ONCE
        return sum(n.meta["elements"] + 50 for n in graph.graph.nodes if "elements" in n.meta)

    def _graph(self, key: str, function: Callable[..., Any], u: Tensor) -> Callable[..., Any]:
        name = key, len(u)
        if name not in self._graphs:

            def vectorised(potential: Potential, v: Tensor) -> Any:
                one = partial(function, potential)
                return torch.func.vmap(one, randomness="different")(v)

            with local_parameters(), precision(self.dtype):
                if key == "gradient" and self._long and "single" in self._graphs:
                    with contextlib.suppress(CannotRecord):
                        self._graphs[name] = interpreted(self._recorded(_rows_of_graph, u))
                        return self._graphs[name]
                try:
                    self._graphs[name] = interpreted(self._recorded(vectorised, u))
                except CannotRecord:
                    if self.changing:
                        raise
                    self.vectorised = False
                    self._graphs[name] = self._one_by_one(function)
        return self._graphs[name]

    def _one_by_one(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A model that cannot be vectorised is evaluated position by position, its gradient by autograd:
        what torch.func cannot transform may be the reason.
        """
        if function is Potential.value_and_grad_at:
            function = Potential.value_and_grad_by_autograd

        def loop(u: Tensor) -> Any:
            with local_parameters(), precision(self.dtype), eager():
                results = [mapped(function(self, row), lambda t: t[None]) for row in u]
            return mapped(joined(results), lambda t: t.detach())

        return loop


def _with_inputs(graph: Callable[..., Any], given: list[Tensor], u: Tensor) -> Any:
    """The graph at u, where it also takes the data that change."""
    return graph(u, *given)


def _rows_of_graph(potential: Potential, u: Tensor) -> Any:
    """log p(x, u) and gradient at u (S, D) by the graph of one position, without running the model."""
    one = partial(_with_inputs, potential.single(), potential._inputs())
    return torch.func.vmap(one)(u)


def _derivative_of_graph(potential: Potential, u: Tensor) -> Tensor:
    """The Hessian as the derivative of the recorded gradient."""
    one = partial(_with_inputs, potential.single(), potential._inputs())
    hessian: Tensor = torch.func.jacrev(lambda v: one(v)[1])(u)
    return hessian


def _second_derivative(potential: Potential, u: Tensor) -> Tensor:
    hessian: Tensor = torch.func.jacrev(torch.func.grad(potential._log_density))(u)
    return hessian


def _first(n: int, value: Tensor) -> Tensor:
    return value[:n]


def _rounded(n: int) -> int:
    """A few batch sizes serve all: the next power of two."""
    return 1 << max(0, n - 1).bit_length()
