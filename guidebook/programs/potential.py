"""The model's log density on the unconstrained scale, recorded once and evaluated in batches.

    log p(x, u) = log p(x, z(u)) + log |det dz/du|,     u in R^D,

with its gradient and Hessian. Discrete sites marked for enumeration are summed out exactly. What was
recorded serves at other data of the same shapes (`Potential.at`), where the data that change were named.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.programs.data import arrays
from guidebook.programs.graphs.interpreted import interpreted
from guidebook.programs.graphs.recorded import CannotRecord, eager, recording
from guidebook.programs.nodes import (
    constants,
    depends_on_latents,
    is_deterministic,
    plate_nesting,
    sample_nodes,
    scaled_log_prob,
    summed_log_joint,
)
from guidebook.programs.recordings import Recordings, hessian_graph, with_inputs
from guidebook.programs.sites import (
    Inverse,
    PriorDraw,
    Site,
    Substitute,
    latent_sites,
)
from guidebook.scope import local_parameters, precision, random_state

ELEMENTS_AT_ONCE, COST = 1_000_000, 4_000_000
"""Numbers of data at as many positions as are evaluated at once: what a decoder makes of each is many times
as many; and what a gradient is taken to go through where it cannot be recorded.
"""

Rows = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of positions (S, D): a value (S,) and a gradient (S, D)."""


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
        self._recordings = Recordings()
        self._rows: Rows | None = None
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
                origin = Substitute(depth=self.plate_nesting)
                found.append(float(self._log_joint(self._traced(origin))))
        rounded = math.isclose(*found, rel_tol=1e-6)  # sums on a GPU are taken in any order
        if not rounded and not math.isnan(found[0]):
            raise ModelError(
                f"log p(x, z) is {found[0]:.6g} in one run of the model and {found[1]:.6g} in the next, at "
                "the same z: the model draws random numbers outside of pyro.sample (torch.randn, NumPy, "
                "dropout that is always on), or hides a latent site. Make them latent sites, or data of "
                "the model."
            )

    def at(self, data: Mapping[str, Any]) -> Potential:
        """The potential at other data of the same shapes; what has been recorded is shared.

        `data` holds the tensors that are replaced, all of them named in `changing`.
        """
        twin = copy.copy(self)
        twin._recordings = self._recordings
        twin.data = {**self.data, **data}
        return twin

    def computed_by(self, rows: Rows) -> Potential:
        """The potential whose `value_and_grad` is `rows`, a faster function of the same numbers."""
        twin = self.at({})
        twin._rows = rows
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without the recordings, which are made again, and functions that are this process's own."""
        return {**vars(self), "_recordings": Recordings(), "_rows": None}

    def inputs(self) -> list[Tensor]:
        """The data that change."""
        return [self.data[name] for name in self.changing]

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
            return summed_log_joint(trace)
        log_joint = torch.zeros((), dtype=self.dtype, device=self.device)
        for node in trace.nodes.values():
            if node["type"] == "sample" and not site_is_subsample(node):
                log_joint = log_joint + scaled_log_prob(node).sum()
        return log_joint

    def log_density_at(self, u: Tensor) -> Tensor:
        """log p(x, u) at u (D,), computed by Pyro: for recording."""
        log_joint, log_det, _ = self._evaluate(u)
        return log_joint + log_det

    def value_and_grad_at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) and its gradient (D,) at u (D,), computed by Pyro: for recording."""
        grad, value = torch.func.grad_and_value(self.log_density_at)(u)
        return value, grad

    def single(self) -> torch.fx.GraphModule:
        """The recorded graph of u (D,), and the data that change -> (log p(x, u), gradient).

        Raises:
            CannotRecord: the model reads values.
        """

        def made() -> torch.fx.GraphModule:
            u = torch.zeros(self.dimension, dtype=self.dtype, device=self.device)
            return self._recordings.record(self, Potential.value_and_grad_at, u)

        graph: torch.fx.GraphModule = self._recordings.once("single", made)
        return graph

    def run_single(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """`single`, ready to be called many times."""
        run = self._recordings.once("run single", lambda: interpreted(self.single()))
        return with_inputs(run, self)

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
        return self._recordings.batched(self, "density", lambda p, v: p._evaluate(v)[:2], u)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) (S,) and its gradient (S, D) at u (S, D)."""
        if self._rows is not None:
            return self._rows(u)
        return self._recordings.batched(self, "gradient", Potential.value_and_grad_at, u)

    def everything_at(self, u: Tensor) -> tuple[Tensor, ...]:
        """Gradient (D,), log p(x, z), log |det dz/du|, values of the sites at u (D,): for recording."""

        def density(position: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            log_joint, log_det, values = self._evaluate(position)
            return log_joint + log_det, (log_joint, log_det, *values.values())

        grad, (_, parts) = torch.func.grad_and_value(density, has_aux=True)(u)
        return grad, *parts

    def everything(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """log p(x, z) and log |det dz/du| (S,), the gradient of their sum (S, D), and what `constrain` gives,
        at u (S, D): of a density whose recording is short in one evaluation.
        """
        if self._recordings.long or not self.vectorised:  # recorded once more it would take longer
            return *self(u), self.value_and_grad(u)[1], self.constrain(u)
        found = self._recordings.batched(self, "everything", Potential.everything_at, u)
        grad, log_joint, log_det, *values = found
        names = (*(site.name for site in self.sites), *self.derived)
        return log_joint, log_det, grad, dict(zip(names, values, strict=True))

    def log_det(self, u: Tensor) -> Tensor:
        """log |det dz/du| (S,) at u (S, D), recorded without the density where that is soon done."""
        if self._recordings.long or not self.vectorised:
            return self(u)[1]
        found = self._recordings.batched(self, "log_det", lambda p, v: p._evaluate(v)[1:2], u)
        log_det: Tensor = found[0]
        return log_det

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """The values of the sites and of what the model derives from them, each (S, *shape), at u (S, D)."""
        return self._recordings.batched(self, "values", lambda p, v: p._evaluate(v)[2], u)

    def replay(self, key: str, collect: Callable[..., Any], u: Tensor) -> dict[str, Tensor]:
        """What `collect(trace)` takes from the model's trace at u (S, D), an enumerated one where sites are
        summed out, stacked in front.
        """

        def run(potential: Potential, one: Tensor) -> dict[str, Tensor]:
            return collect(potential._traced(Substitute(one, depth=potential.plate_nesting)))

        return self._recordings.batched(self, key, run, u)

    def hessian(self, u: Tensor) -> Tensor:
        """d^2 log p(x, u) / du du' (D, D) at u (D,); by differences where torch has no second
        derivative of an operation of the model.
        """
        rows = self._recordings.once("hessian", lambda: hessian_graph(self, self._recordings, u))
        try:
            found: Tensor = with_inputs(rows, self)(u)
        except RuntimeError:  # no second derivative (NotImplementedError is one), or no factor here
            found = self._difference_hessian(u)
        return (0.5 * (found + found.T)).detach()

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
            count = len(next(iter(values.values())))
            try:
                with (
                    recording()
                ):  # as many at a time as elsewhere: the model decodes all of its rows
                    pieces = [
                        torch.func.vmap(invert, randomness="different")(
                            {n: v[start : start + self.chunk] for n, v in values.items()}
                        )
                        for start in range(0, count, self.chunk)
                    ]
                    return torch.cat(pieces)
            except Exception:  # a model that cannot be vectorised: draw by draw
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

    @property
    def cost(self) -> int:
        """Numbers that one gradient at one position goes through: the work of a draw."""
        try:
            graph = self.single()
        except CannotRecord:
            return COST
        return sum(n.meta["elements"] + 50 for n in graph.graph.nodes if "elements" in n.meta)
