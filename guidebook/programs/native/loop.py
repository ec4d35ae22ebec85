"""The captured step in a compiled loop of many steps: kernels, normals, averages, without Python.

The numbers that torch.randn would draw are drawn in the loop, one for one, and torch's generator is left
where its own calls would leave it. Before a loop is used its first steps are taken in both ways: by the
loop, and step by step, with normals by torch.randn, which must give the same bits; and the first by the
operations of the graph themselves, which must agree to rounding (a fused sum has another order), and once
more around where the fit ended. What differs, or cannot be compiled, is not used: a new version of torch may
cost speed, never correctness.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from torch.utils._pytree import tree_leaves

from guidebook.programs.graphs.interpreted import same_bits
from guidebook.programs.native.algebra import REAL, CannotLower
from guidebook.programs.native.constants import with_constants
from guidebook.programs.native.library import library
from guidebook.programs.native.lowered import ROUNDING, held_by
from guidebook.programs.native.plans import planned
from guidebook.programs.native.repeats import without_repeats
from guidebook.programs.native.source import source_of, with_loop

TRIED = 6
"""Steps that are taken in both ways."""
AROUND = 0.05, 0.5
"""How far around the last parameters kernels and operations are compared once more."""
SECONDS_AT_ONCE, LEAST_AT_ONCE, MOST_AT_ONCE = 0.05, 50, 5_000
SIGN = 1e-6
"""Parts of the largest gradient below which the sign of another is not asked."""


class _Loop(ctypes.Structure):
    _fields_ = [
        ("generator", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("begin", "upto", "start", "middle", "size")),
        *((name, ctypes.c_void_p) for name in ("flat", "first", "second", "gradient")),
    ]


class NativeLoop:
    """The loop of one step, a graph that updates its state in place and returns the gradient.

    Arguments:
        graph: of the tensors of the state that are named in `moving`, then those of `data`.
        state: with `step`, the number of steps taken, `flat`, the parameters, and `first`, `second`,
            `gradient`, their averages.
        budget: steps that the state has room for.

    Attributes:
        at_once: steps that take about a twentieth of a second, so that Ctrl-C and the bar have their turn.

    Raises:
        CannotLower, CannotCompile: it cannot be made, or does not do what the step does.
    """

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        state: dict[str, Tensor],
        moving: Sequence[str],
        data: Sequence[Tensor],
        budget: int,
    ) -> None:
        self._graph, self.at_once = graph, LEAST_AT_ONCE
        graph = with_constants(without_repeats(graph))
        self._state, self._moving = state, moving
        real, example = state["flat"].dtype, [*(state[name] for name in moving), *data]
        if real not in REAL or not all(t.is_contiguous() for t in example):
            raise CannotLower(f"its parameters are {real}, or not contiguous")
        plan = planned(graph, example)
        if not _whole(plan.results[0].shape, plan.results[0].stride):
            raise CannotLower("its gradient is not contiguous")
        self._plan, self._held = plan, held_by(graph)
        self._library = library(
            [
                (with_loop(source_of(plan, light=light), plan, real), not light)
                for light in (True, False)
            ]
        )
        self._check(data, min(TRIED, budget))

    def advance(
        self,
        done: int,
        upto: int,
        halves: tuple[int, int],
        data: Callable[[int], list[Tensor]] | list[Tensor],
    ) -> None:
        """Takes the steps from `done` until `upto`; `data` may be a function of the step."""
        begun, given = time.perf_counter(), [self._state[name] for name in self._moving]
        if callable(data):
            for k in range(done, upto):
                batch = [t.contiguous() for t in data(k)]
                self._steps(self._state, [*given, *batch], k, k + 1, halves)
        else:
            self._steps(self._state, [*given, *data], done, upto, halves)
        each = (time.perf_counter() - begun) / max(1, upto - done)
        self.at_once = int(min(MOST_AT_ONCE, max(LEAST_AT_ONCE, SECONDS_AT_ONCE / max(each, 1e-9))))

    def _steps(
        self, state: dict[str, Tensor], given: Sequence[Tensor], begin: int, upto: int,
        halves: tuple[int, int],
    ) -> None:  # fmt: skip
        generator = torch.get_rng_state()
        asked = _Loop(
            generator.data_ptr(), begin, upto, *halves, state["flat"].numel(),
            *(state[name].data_ptr() for name in ("flat", "first", "second", "gradient")),
        )  # fmt: skip
        if self._library.loop(_pointers([*given, *self._held]), ctypes.byref(asked)):
            raise IndexError("an index of the recorded step is out of bounds")
        if self._plan.normals:
            torch.set_rng_state(generator)

    def agrees(self, data: Sequence[Tensor]) -> bool:
        """Whether around where the parameters are, at flat + s N(0, I) of some s, kernels compute the
        gradient of the operations; where it is finite, and to a half of the digits, as sums cancel.
        """
        before = torch.get_rng_state()
        for k, spread in enumerate(AROUND):
            noise = torch.randn(
                self._state["flat"].shape, generator=torch.Generator().manual_seed(k)
            )
            found = []
            for way in (lambda _, given: self._graph(*given), self._once):
                torch.set_rng_state(before)
                state = {name: value.clone() for name, value in self._state.items()}
                state["step"].zero_()
                state["flat"] += spread * noise.to(state["flat"])
                try:
                    with torch.no_grad():
                        results = way(state, [*(state[name] for name in self._moving), *data])
                except LinAlgError:
                    break
                found += tree_leaves(results)
            if len(found) == 2 and bool(found[0].isfinite().all()):
                near = ROUNDING[found[0].dtype] ** 0.5
                scale = near * float(found[0].abs().max())
                if not torch.allclose(found[1], found[0], rtol=near, atol=scale):
                    return False
        torch.set_rng_state(before)
        return True

    def _once(self, state: dict[str, Tensor], given: Sequence[Tensor]) -> Tensor:
        return self._one(state, given, -1, (0, 0))

    def _check(self, given: Sequence[Tensor], count: int) -> None:
        """CannotLower where the loop does not do what the step does."""
        data = [t.clone() for t in given]
        halves = count // 3, 2 * count // 3  # steps of every kind
        before = torch.get_rng_state()

        def tried(take: Callable[[dict[str, Tensor], list[Tensor]], Any]) -> tuple[Any, ...]:
            torch.set_rng_state(before)
            state = {name: value.clone() for name, value in self._state.items()}
            state["step"].zero_()  # wherever it is, there is room for these steps
            result = take(state, [*(state[name] for name in self._moving), *data])
            return result, state, torch.get_rng_state()

        try:
            _, loop, after = tried(lambda s, given: self._steps(s, given, 0, count, halves))
            _, single, expected = tried(
                lambda s, given: [self._one(s, given, k, halves) for k in range(count)]
            )
            names = *self._moving, "first", "second", "gradient"
            same = all(same_bits(loop[name], single[name]) for name in names)
            if not (same and torch.equal(after, expected)):
                raise CannotLower("the loop and single steps differ")
            fused, one, _ = tried(self._once)
            with torch.no_grad():
                grads, other, _ = tried(lambda _, given: self._graph(*given))
        except LinAlgError as error:
            raise CannotLower("a matrix of its first step is not positive definite") from error
        finally:
            torch.set_rng_state(before)
        (grad,) = tree_leaves(grads)  # Inductor makes a list of it
        self._check_first((fused, one), (grad, other))

    def _check_first(self, fused: tuple[Tensor, dict[str, Tensor]], plain: tuple[Any, ...]) -> None:
        """CannotLower where the kernels differ from the operations of the graph, after one step.

        Where a gradient is nothing but rounding its sign is, too, and by it the first move of Adam.
        """
        (one, state), (other, expected) = fused, plain
        near = ROUNDING[one.dtype]
        scale = other.abs().max()
        told = other.abs() > SIGN * scale
        if not torch.allclose(one, other, rtol=near, atol=near * float(scale), equal_nan=True):
            raise CannotLower("its kernels and its operations differ in the gradient")
        for name in self._moving:
            a, b = state[name], expected[name]
            if a.shape == told.shape:
                a, b = a[told], b[told]
            if not torch.allclose(a.double(), b.double(), rtol=near, atol=near, equal_nan=True):
                raise CannotLower(f"its kernels and its operations differ in {name}")

    def _one(
        self,
        state: dict[str, Tensor],
        given: Sequence[Tensor],
        k: int,
        halves: tuple[int, int],
    ) -> Tensor:
        """One step with normals by torch.randn, averaged by torch; its gradient."""
        drawn = [torch.randn(count, dtype=self._plan.dtype) for _, count in self._plan.normals]
        grad = self._run(given, drawn)
        start, middle = halves
        if start <= k < middle:
            state["first"].lerp_(state["flat"], 1 / (k - start + 1))
        elif k >= middle:
            state["second"].lerp_(state["flat"], 1 / (k - middle + 1))
            state["gradient"].lerp_(grad, 1 / (k - middle + 1))
        return grad

    def _run(self, given: Sequence[Tensor], drawn: Sequence[Tensor]) -> Tensor:
        normals = torch.cat(list(drawn)) if drawn else torch.zeros(1)
        results = [
            torch.empty_strided(r.shape, r.stride, dtype=r.dtype) for r in self._plan.results
        ]
        arguments = _pointers([*given, *self._held]), normals.data_ptr(), _pointers(results)
        if self._library.run(arguments[0], ctypes.c_void_p(arguments[1]), arguments[2]):
            raise CannotLower("an index is out of bounds")
        return results[0]


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


def _whole(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    return torch.empty_strided(shape, stride, device="meta").is_contiguous()
