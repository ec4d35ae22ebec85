"""What Pyro itself makes of a program: steps of SVI, and densities by its traces. Knows nothing of ours."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from tests.programs.laws.program import Program

SEED, STEPS, RATE = 5, 6, 0.03


def in_precision(value: Any, dtype: torch.dtype) -> Any:
    """As data go to a model: tensors of this precision, also inside containers."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return in_precision(torch.as_tensor(value), dtype)
    if isinstance(value, dict):
        return {name: in_precision(inner, dtype) for name, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(in_precision(inner, dtype) for inner in value)
    return value


def given(program: Program) -> dict[str, Any]:
    """The keyword arguments that Pyro's step is given."""
    return in_precision(dict(program.data if program.gets is None else program.gets), program.dtype)


def made(program: Program) -> tuple[Any, Any]:
    """Model and guide, the same networks every time, in the program's precision."""
    with default_dtype(program.dtype), pyro.get_param_store().scope():
        torch.manual_seed(SEED)
        return program.make()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class PyrosOwn:
    """The steps that Pyro took: losses, the pair, and the store with what it trained."""

    program: Program
    losses: np.ndarray
    model: Any
    guide: Any
    store: Any

    def log_joint(
        self, values: Mapping[str, Tensor], unseen: Collection[str] = (), scaled: bool = True
    ) -> float:
        """log p(x, z) at values of the latent sites, discrete sites of the model summed out; x without the
        unseen sites.
        """
        with self._as_trained(), Unseen(unseen, scaled):
            held = poutine.condition(self.model, data=dict(values))
            if self.program.plates is None:
                return float(poutine.trace(held).get_trace(**self.arguments).log_prob_sum())
            sums = TraceEnum_ELBO(max_plate_nesting=self.program.plates)
            return -float(sums.loss(held, lambda **_: None, **self.arguments))

    def log_likelihood(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        """log p(x_i | z) of every observed site, whatever scales it; where discrete sites of the model are
        summed out one number a site, log p of it given the observed sites before.
        """
        with self._as_trained():
            held = poutine.condition(self.model, data=dict(values))
            nodes = poutine.trace(held).get_trace(**self.arguments).nodes
            names = [n for n, site in nodes.items() if n not in values and _is_data(site)]
            if self.program.plates is None:
                return {n: _unscaled(nodes[n]) for n in names}
        sums = [self.log_joint(values, names[i:], scaled=False) for i in range(len(names) + 1)]
        return dict(zip(names, np.diff(sums), strict=True))

    def log_q(self, values: Mapping[str, Tensor]) -> float | None:
        """log q(z); None of a guide whose sites follow from auxiliary ones, or are points."""
        with self._as_trained():
            held = poutine.condition(self.guide, data=dict(values))
            trace = poutine.trace(held).get_trace(**self.arguments)
            sites = [s for s in trace.nodes.values() if s["type"] == "sample"]
            if any(s["infer"].get("is_auxiliary") for s in sites):
                return None
            trace.compute_log_prob()
            return float(sum(trace.nodes[name]["log_prob_sum"] for name in values))

    @property
    def arguments(self) -> dict[str, Any]:
        """By which all rows are in the plates."""
        return given(self.program) | dict(self.program.whole)

    @contextlib.contextmanager
    def _as_trained(self) -> Iterator[None]:
        with (
            default_dtype(self.program.dtype), pyro.get_param_store().scope(self.store),
            torch.no_grad(), warnings.catch_warnings(),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            for part in (self.model, self.guide):
                module = getattr(part, "__self__", part)
                if isinstance(module, torch.nn.Module):
                    module.eval()
            yield


class Unseen(Messenger):
    """Leaves sites out of the density, and the scales of all, unless it is `scaled`."""

    def __init__(self, names: Collection[str], scaled: bool) -> None:
        super().__init__()
        self.names, self.scaled = names, scaled

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["mask"] = False
        if not self.scaled:
            msg["scale"] = 1.0


def _is_data(site: Mapping[str, Any]) -> bool:
    """Whether a site is observed; not where it only holds what follows from others."""
    follows = getattr(site.get("fn"), "_mask", None) is False
    return site["type"] == "sample" and site["is_observed"] and not follows


def _unscaled(site: Mapping[str, Any]) -> Tensor:
    return scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])


def objective_of(program: Program) -> Any:
    if program.objective is not None:
        return program.objective()
    if program.plates is not None:
        return TraceEnum_ELBO(max_plate_nesting=program.plates)
    return Trace_ELBO()


def optimiser_of(program: Program) -> Any:
    return program.optim() if program.optim is not None else pyro.optim.Adam({"lr": RATE})


def run_by_pyro(program: Program) -> PyrosOwn:
    """The program's steps by pyro.infer.SVI: the guide begins by the seed, and so do the steps."""
    model, guide = made(program)
    arguments = given(program)
    with default_dtype(program.dtype), pyro.get_param_store().scope():
        torch.manual_seed(SEED)
        with torch.no_grad():
            guide(**arguments)
        pyro.get_param_store().clear()
        torch.manual_seed(SEED)
        optimiser = optimiser_of(program)
        svi = SVI(
            model,
            guide,
            optimiser,
            objective_of(replace(program, objective=program.same_as or program.objective)),
        )
        losses = []
        for _ in range(STEPS):
            losses.append(float(svi.step(**arguments)))
            if isinstance(optimiser, pyro.optim.PyroLRScheduler):
                optimiser.step()
        state = pyro.get_param_store().get_state()
    return PyrosOwn(program, np.array(losses), model, guide, state)
