"""Products written where they are wanted: without the copies that put gradients side by side.

The gradient of all parameters is one vector, of which each product makes a piece. Inductor has every product
in a memory of its own and a loop that copies it; in networks that is a quarter of what a step moves.
"""

from __future__ import annotations

import re
from dataclasses import replace

from guidebook.programs.native.lowered import Place, Plan

COPY = re.compile(
    r"    \{\n(?:\s*#pragma GCC ivdep\n)?"
    r"\s*for\(int64_t x0=static_cast<int64_t>\(0L\); x0<static_cast<int64_t>\((\d+)L\); [^\n]*\n"
    r"[\s{]*auto tmp0 = (\w+)\[static_cast<int64_t>\(x0\)\];\n"
    r"\s*(\w+)\[static_cast<int64_t>\(x0\)\] = tmp0;\n[\s}]*?\n    \}\n"
)
"""A loop of a kernel that copies: how much, from which of its arguments, and to which."""

Calls = list[tuple[int | str, tuple[Place | int, ...]]]


def without_copies(plan: Plan) -> Plan:
    """The plan with every product at the place that it is copied to, where nothing else needs its own."""
    sources, calls = list(plan.sources), list(plan.calls)
    for at, (kernel, given) in enumerate(plan.calls):
        if isinstance(kernel, str) or [k for k, _ in calls].count(kernel) > 1:
            continue
        kinds, code = sources[kernel]
        names = re.findall(r"\* (\w+)[,)]", code.partition("{")[0])
        for loop in list(COPY.finditer(code)):
            made, wanted = (given[names.index(loop[k])] for k in (2, 3))
            if not all(isinstance(p, Place) and p.argument is None for p in (made, wanted)):
                continue
            product = _made_for(plan, calls, at, made, wanted)
            if product is None or not _whole(calls[product][1], int(loop[1])):
                continue
            name, its = calls[product]
            calls[product] = name, tuple(wanted if a == made else a for a in its)
            code = code.replace(loop[0], "")
        sources[kernel] = kinds, code
    return replace(plan, sources=tuple(sources), calls=tuple(calls))


def _made_for(
    plan: Plan, calls: Calls, at: int, made: Place | int, wanted: Place | int
) -> int | None:
    """The product of which the copy in call `at` is all that becomes, where nobody has used the memory that
    it is copied to before.
    """
    users = [k for k, (_, given) in enumerate(calls) if any(_meet(made, a) for a in given)]
    if len(users) != 2 or users[1] != at or any(_meet(made, r.place) for r in plan.results):
        return None
    product, result = calls[users[0]][0], calls[users[0]][1][0]
    if not str(product).startswith("product<") or result != made:
        return None
    if sum(_meet(made, a) for a in calls[at][1]) > 1:
        return None
    used = any(_meet(wanted, a) for _, given in calls[:at] for a in given)
    return None if used else users[0]


def _whole(product: tuple[Place | int, ...], count: int) -> bool:
    """Whether the result of a product is so many numbers in one piece, row by row."""
    batch, rows, columns, _, *strides = product[4:]
    return batch == 1 and rows * columns == count and strides[1:3] == [columns, 1]  # type: ignore[operator]


def _meet(one: Place | int, other: Place | int) -> bool:
    """Whether two places share memory; scratch memory alone is asked for."""
    if not isinstance(one, Place) or not isinstance(other, Place):
        return False
    if one.argument is not None or other.argument is not None:
        return False
    return one.offset < other.offset + other.size and other.offset < one.offset + one.size
