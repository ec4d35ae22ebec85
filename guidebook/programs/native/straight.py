"""The code of a kernel as compilers turn it into vectors: straight lines within its loops.

Inductor writes plain loops. What keeps a compiler from taking many turns of one at once is a branch: a
choice of which one side is computed only where it is taken, a number that is read only under a condition, a
check that throws. Here both sides are computed and one is chosen by its bits (`choose`), what a condition
forbids is read from the first place instead, and what a check finds is told at the end.
"""

from __future__ import annotations

import re

CHOOSE = r"""
#include <bit>
#include <cstdint>
template <typename T> static inline T choose(bool first, T a, T b) {
  if constexpr (sizeof(T) == 8) {
    const uint64_t mask = -uint64_t(first);
    return std::bit_cast<T>((std::bit_cast<uint64_t>(a) & mask) | (std::bit_cast<uint64_t>(b) & ~mask));
  } else if constexpr (sizeof(T) == 4) {
    const uint32_t mask = -uint32_t(first);
    return std::bit_cast<T>((std::bit_cast<uint32_t>(a) & mask) | (std::bit_cast<uint32_t>(b) & ~mask));
  } else {
    return first ? a : b;
  }
}
"""
"""By bits: of `first ? a : b` compilers move the computation of a side into a branch."""

CHECK = re.compile(
    r"(auto (tmp\d+) = (tmp\d+);\s*auto (tmp\d+) = c10::convert<int64_t>\(\2\);\s*)"
    r"TORCH_CHECK\((\(0 <= \4\) & \(\4 < [1-9]\d*L\)), \"[^\"]*\"\);"
)
"""Inductor's check of an index, the third group, that it is below a number of rows."""
FOR = re.compile(r"(\s*)for\(int64_t x")
INDEPENDENT = "#pragma GCC ivdep"
SCATTERED = re.compile(
    r"^\s*(?:in_)?out_ptr\d+\[[^;]*\btmp\w+[^;]*\] \+?= |atomic_add", re.MULTILINE
)
MASKED = re.compile(
    r"auto (tmp\d+) = \[&\]\s*(\{(?:(?!\[&\]|CHECK\().)*?return \w+;\s*\})\s*;", re.DOTALL
)
"""A number that is computed only under a condition, in a function of its own; the innermost."""
READ = re.compile(r"(\b(?:in_out|in|out)_ptr\d+)\[([^;]*)\];")
CHOSEN = re.compile(r"= (tmp\d+) \? (tmp\d+) : (tmp\d+);")
SUMS = (
    (
        re.compile(r"CascadeSumHelper<\w+, \d+> scalar_(cascade_helper\d+)\([^;]*\);"),
        r"double \1 = 0;",
    ),
    (re.compile(r"\w+ = cascade_sum_combine\((\w+), &scalar_(cascade_helper\d+)\);"), r"\2 += \1;"),
    (re.compile(r"(\w+) = cascade_sum_final\(&scalar_(cascade_helper\d+)\);"), r"\1 = \2;"),
)
"""Long sums, which Inductor takes by parts for the sake of rounding: here in double precision."""
BEGUN = "inductor_cpu_integer_div_error_flag = &"
ENDED = "inductor_cpu_integer_div_error_flag = nullptr;"
"""In the first and the last lines of a kernel."""


def straight(code: str, *, readable: bool) -> str:
    """The code of a kernel without branches.

    `readable`: each of its arguments has a first number, which may be read in place of a forbidden one.

    Indices out of bounds, of which there is none in a right model, are read as 0 and told at the end.
    """
    code = re.sub(r"(tmp\w+) && (tmp\w+);", r"bool(\1) & bool(\2);", code)
    code = re.sub(r"(tmp\w+) \|\| (tmp\w+);", r"bool(\1) | bool(\2);", code)
    code = re.sub(r"bool (tmp_acc\d+) = 0;", r"int64_t \1 = 0;", code)
    for taken, plain in SUMS:
        code = taken.sub(plain, code)
    if readable:
        code = _unmasked(code)
    code = CHOSEN.sub(r"= choose(\1, \2, \3);", code)
    code = _told(code)
    code = CHECK.sub(r"\1outside |= int64_t(!(\5)); \3 = \5 ? \3 : 0;", code)
    if "outside |=" in code:
        code = code.replace(BEGUN, f"int64_t outside = 0;\n    {BEGUN}")
        code = code.replace(ENDED, f'{ENDED}\n    if (outside) throw std::runtime_error("index");')
    return code


def _unmasked(code: str) -> str:
    """Computes what was computed under a condition, and chooses: the innermost first."""
    at = 0
    while found := MASKED.search(code, at):
        name, body = found[1], found[2]
        used = re.compile(
            rf"= (tmp\d+) \? {name}\(\) : (static_cast<decltype\({name}\(\)\)>\([^;]*\));"
        ).search(code, found.end())
        at = found.start() + 1
        if used is None:
            continue
        condition, other = used[1], used[2].replace(f"{name}()", name)
        body = READ.sub(rf"\1[{condition} ? (\2) : 0L];", body)
        code = "".join(
            [
                code[: found.start()],
                f"auto {name} = [=] {body}();",
                code[found.end() : used.start()],
                f"= choose({condition}, {name}, {other});",
                code[used.end() :],
            ]
        )
        at = 0  # what it was the innermost of may be one now
    return code


def _told(code: str) -> str:
    """The code with the word at each loop that its turns are independent, but for those around a number
    written to a place that is computed, which may be one place twice.
    """
    lines = [line for line in code.split("\n") if INDEPENDENT not in line]
    told: list[str] = []
    for i, line in enumerate(lines):
        if found := FOR.match(line):
            closing = f"{found[1]}}}"
            end = next((j for j in range(i, len(lines)) if lines[j] == closing), len(lines))
            if not SCATTERED.search("\n".join(lines[i:end])):
                told.append(f"{found[1]}{INDEPENDENT}")
        told.append(line)
    return "\n".join(told)
