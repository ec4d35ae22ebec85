"""log p(x, u) and its gradient as functions of C, for nutpie: chains then run side by side, without Python.

Before chains use them they are compared with the operations of the graph at some positions, to rounding.
"""

from __future__ import annotations

import ctypes
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from guidebook.programs.native.algebra import REAL, CannotLower
from guidebook.programs.native.constants import with_constants
from guidebook.programs.native.library import library
from guidebook.programs.native.lowered import ROUNDING, held_by
from guidebook.programs.native.plans import planned
from guidebook.programs.native.repeats import without_repeats
from guidebook.programs.native.source import source_of, with_density

TRIED = 5
"""Positions at which both are evaluated: one that is given, and from there by k N(0, I), k = 0.5, 1, ...."""


class NativeDensity:
    """The C functions of a graph of u (D,) -> log p(x, u), gradient (D,), whose data are its constants.

    Attributes:
        log_density, expand: addresses of int (*)(ulong D, const double* u, double* gradient, double* value,
            const void* given), 0 where all is finite, and of int (*)(ulong, ulong, const double* u,
            double* u again, const void*).
        given: the address of what they take as `given`.

    Raises:
        CannotLower, CannotCompile: they cannot be made.
    """

    def __init__(self, graph: torch.fx.GraphModule, example: Tensor) -> None:
        """`example`: any u (D,), in the precision of the graph."""
        dimension, dtype = len(example), example.dtype
        self.dimension, self.dtype, self._graph = dimension, dtype, graph
        graph = with_constants(without_repeats(graph))
        if dtype not in REAL:
            raise CannotLower(f"its density is {dtype}")
        plan = planned(graph, [example])
        expected = ((), (1, dimension), (dimension,))  # a value and a vector
        if plan.normals or [r.dtype for r in plan.results] != [dtype, dtype]:
            raise CannotLower("it draws random numbers, or its results are of another precision")
        if any(r.shape not in expected or r.stride not in ((), (1,)) for r in plan.results):
            raise CannotLower("its results are not a number and a vector")
        self._held = held_by(graph)
        self._library = library(
            [
                (
                    with_density(
                        source_of(plan, light=light), plan, dimension, 1 + len(self._held)
                    ),
                    not light,
                )
                for light in (True, False)
            ]
        )
        addresses = [0, *(t.data_ptr() for t in self._held)]
        self._given = (ctypes.c_void_p * len(addresses))(*addresses)
        self.given = ctypes.addressof(self._given)
        self.log_density, self.expand = (
            ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value
            for name in ("log_density", "expand")
        )

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) and its gradient at u (D,); NaN where one of them is not finite."""
        position = u.double().contiguous()
        grad, value = torch.zeros(self.dimension).double(), torch.zeros(()).double()
        places = (ctypes.c_void_p(t.data_ptr()) for t in (position, grad, value))
        failed = self._library.log_density(ctypes.c_ulong(self.dimension), *places, self._given)
        if failed:
            value = value * torch.nan
        return value.to(self.dtype), grad.to(self.dtype)

    def rows(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x, u) (S,) and its gradient (S, D) at u (S, D), as `Potential.value_and_grad` gives them:
        what is not finite as it is, and NaN where a factorisation fails. On as many cores as torch may use.
        """
        position = u.double().contiguous()
        filled = position, torch.empty_like(position), position.new_empty(len(u))
        threads = max(1, min(torch.get_num_threads(), len(u)))
        if threads == 1:
            self._fill(*filled)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._fill, *(t.tensor_split(threads) for t in filled)))
        return filled[2].to(u), filled[1].to(u)

    def _fill(self, position: Tensor, grad: Tensor, value: Tensor) -> None:
        sizes = (ctypes.c_ulong(n) for n in position.shape)
        places = (ctypes.c_void_p(t.data_ptr()) for t in (position, grad, value))
        self._library.log_densities(*sizes, *places, self._given)

    def check(self, at: Tensor) -> None:
        """Compares both at `at` (D,), a position at which the density is finite, and around it.

        Raises:
            CannotLower: they differ, or the density is finite nowhere near.
        """
        generator = torch.Generator().manual_seed(0)
        near, compared = ROUNDING[self.dtype], 0
        for k in range(TRIED):
            noise = torch.randn(self.dimension, generator=generator, dtype=torch.float64)
            u = at + (0.5 * k * noise).to(at)
            try:
                with torch.no_grad():
                    value, grad = self._graph(u)
            except LinAlgError:  # as a density that is not a number
                continue
            if not bool(value.isfinite() & grad.isfinite().all()):
                continue
            found, slope = self(u)
            scale = near * float(grad.abs().max())
            if not (
                torch.allclose(found, value, rtol=near, atol=near)
                and torch.allclose(slope, grad, rtol=near, atol=scale)
            ):
                raise CannotLower("its kernels and its operations differ")
            compared += 1
        if not compared:
            raise CannotLower("its density is finite at no position that was tried")


def in_nutpie(model: Any, density: NativeDensity) -> Any:
    """nutpie's model of Python functions with those of C in their place; as it is where this nutpie takes
    none (its models of PyMC do, by names that are not public).
    """
    import nutpie

    lib = nutpie._lib
    if not all(hasattr(lib, n) for n in ("PyMcModel", "LogpFunc", "ExpandFunc", "PySampler")):
        return model
    size = density.dimension

    class Native(type(model)):  # type: ignore[misc]
        def _make_sampler(self, settings: Any, mean: Any, cores: int, *rest: Any) -> Any:
            value = lib.LogpFunc(density.log_density, density.given, density)
            expand = lib.ExpandFunc(size, size, density.expand, density.given, density)
            made = lib.PyMcModel(
                value, expand, self._variables, size, self._dim_sizes, self._coords,
                self._make_initial_points, None,
            )  # fmt: skip
            return lib.PySampler.from_pymc(settings, cores, made, *rest)

    return Native(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
