"""log p(x_i, z) of some rows at many positions z at once, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidebook.diagnostics.amortized.rows import NUMBERS_AT_ONCE, Latent, row_terms
from guidebook.inference.fits.fit import Fit
from guidebook.programs.graphs.interpreted import interpreted
from guidebook.programs.graphs.recorded import CannotRecord, record, recording
from guidebook.programs.owned import parameters_of
from guidebook.scope import local_parameters, precision


def recorded(function: Callable[..., Any], *example: Tensor) -> Callable[..., Any]:
    """The function as a recorded graph; as it is, slower, where it cannot be recorded."""
    try:
        return interpreted(record(function, *example))
    except CannotRecord:

        def eager(*arguments: Tensor) -> Any:
            with recording():
                return function(*arguments)

        return eager


class RowDensity:
    """The density of n rows x (n, ...), whose latents are all real: u is z (C, n, D) itself."""

    def __init__(self, fit: Fit, x: Tensor, latents: Sequence[Latent]) -> None:
        self.fit, self.x, self.latents = fit, x, latents
        self.dtype, self.device = x.dtype, x.device
        weights = sum(p.numel() for p in parameters_of(fit.model))
        self.cost = max(weights, x[0].numel(), 1)
        self._graphs: dict[int, Callable[..., Any]] = {}

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x_i, z), (C, n), and its gradient, (C, n, D), by blocks of chains."""
        n = len(self.x)
        block = max(1, NUMBERS_AT_ONCE // max(1, n * self.x[0].numel()))
        short = -len(u) % block if len(u) > block else 0  # one recording serves the last block, too
        filled = torch.cat([u, u[:1].expand(short, -1, -1)]) if short else u
        with local_parameters(), precision(self.dtype), torch.no_grad():
            found = [self._block(piece) for piece in filled.split(block)]
        value, gradient = (torch.cat(parts)[: len(u)] for parts in zip(*found, strict=True))
        return value, gradient

    def _block(self, u: Tensor) -> tuple[Tensor, Tensor]:
        chains, n, D = u.shape
        flat = u.reshape(chains * n, D)
        if chains not in self._graphs:
            rows = self.x.repeat(chains, *(1 for _ in self.x.shape[1:]))

            def evaluate(z: Tensor) -> tuple[Tensor, Tensor]:
                with torch.enable_grad():
                    z = z.detach().requires_grad_(True)
                    terms = row_terms(self.fit, rows, z, self.latents)
                    log_p = terms.prior + terms.likelihood
                    (gradient,) = torch.autograd.grad(log_p.sum(), z)
                return log_p.detach(), gradient

            self._graphs[chains] = recorded(evaluate, torch.zeros_like(flat))
        value, gradient = self._graphs[chains](flat)
        return value.reshape(chains, n), gradient.reshape(chains, n, D)

    def values(self, u: Tensor) -> np.ndarray:
        return u.double().cpu().numpy()

    def ordered(self, u: Tensor) -> Tensor:
        return u
