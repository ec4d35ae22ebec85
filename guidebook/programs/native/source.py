"""The C++ of a plan: its kernels, one function that calls them, and the loops around it.

    int run(char** given, const char* normals, char** results)       once
    int loop(char** given, const Loop*)          many steps of `svi`, with normals and averages
    int log_density(ulong, const double*, double*, double*, const void*)    what nutpie calls

Scratch memory is each thread's own. 0 is success; 1 that a kernel found an index out of bounds; 2 that
the density or its gradient is not finite.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch

from guidebook.programs.native.algebra import REAL
from guidebook.programs.native.lowered import Place, Plan
from guidebook.programs.native.straight import CHOOSE, straight

NORMALS, ALGEBRA, LINES = (
    Path(__file__).with_name(f"{name}.h") for name in ("normals", "algebra", "lines")
)
HEADER = "#include <torch/csrc/inductor/cpp_prefix.h>"
VECTORS = r"""
#ifndef SIMD
#define SIMD __attribute__((simd("notinbranch")))
#endif
#define BOTH(name) SIMD double name(double) noexcept; SIMD float name##f(float) noexcept;
extern "C" {
BOTH(exp) BOTH(expm1) BOTH(log) BOTH(log1p) BOTH(tanh) BOTH(sin) BOTH(cos) BOTH(erf)
SIMD double pow(double, double) noexcept; SIMD float powf(float, float) noexcept;
}
"""
"""Functions of which glibc's libmvec has one for many numbers at once, to four units in the last place."""

PRELUDE = r"""
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
static thread_local std::atomic<int>* inductor_cpu_integer_div_error_flag = nullptr;
static inline void inductor_cpu_throw_if_integer_div_error(std::atomic<int>& e) {
  if (e.load(std::memory_order_relaxed)) throw std::runtime_error("division by zero");
}
#define TORCH_CHECK(condition, ...) if (!(condition)) throw std::runtime_error("check")
#define AOTI_TORCH_CHECK TORCH_CHECK
namespace c10 {
template <typename T> static inline T div_floor_integer(T a, T b) {
  const T q = a / b;
  return (a < 0) != (b < 0) && a % b != 0 ? q - 1 : q;
}
template <typename T, typename U> static inline T convert(U u) {
  if constexpr (std::is_same_v<U, bool>) return choose(u, T(1), T(0)); else return static_cast<T>(u);
}
}
template <typename T> static inline T mod(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmod(a, b); else return a % b;
}
template <typename T> static inline T max_propagate_nan(T a, T b) {
  return choose((a > b) | (a != a), a, b);
}
template <typename T> static inline T min_propagate_nan(T a, T b) {
  return choose((a < b) | (a != a), a, b);
}
// psi(x) by reflection, recurrence up to 10 and its asymptotic series (Abramowitz and Stegun 1964, 6.3).
template <typename T> static T calc_digamma(T given) {
  double x = given, before = 0;
  if (x == 0) return std::copysign(std::numeric_limits<T>::infinity(), T(-x));
  if (x < 0) {
    if (x == std::trunc(x)) return std::numeric_limits<T>::quiet_NaN();
    before = -M_PI / std::tan(M_PI * (x - std::trunc(x)));
    x = 1 - x;
  }
  for (; x < 10; x += 1) before -= 1 / x;
  const double z = 1 / (x * x);
  const double series = z * (1. / 12 - z * (1. / 120 - z * (1. / 252 - z * (1. / 240 - z * (
      1. / 132 - z * (691. / 32760 - z / 12))))));
  return before + std::log(x) - 0.5 / x - series;
}
"""
"""What kernels use of torch's header, which takes many seconds to read."""

ONE_BY_ONE = '#pragma GCC optimize ("no-associative-math", "no-tree-vectorize")'
"""For what must be the same bits as torch's: normals and averages."""

AROUND = r"""
#include <cstring>
struct Scratch {
  char* at;
  Scratch() : at(static_cast<char*>(std::aligned_alloc(64, SCRATCH))) { std::memset(at, 0, SCRATCH); }
  ~Scratch() { std::free(at); }
};
static char* scratch() { static thread_local Scratch mine; return mine.at; }

extern "C" int run(char** given, const char* normals, char** results) {
  char* s = scratch();
  try {
    place_normals(given, s, normals);
    once(given, s);
    take_results(given, s, results);
    return 0;
  } catch (...) { return 1; }
}
"""
LOOP = r"""
template <typename T> static inline void lerp(T* mean, const T* value, int64_t n, T weight) {
  const bool low = std::abs(weight) < T(0.5);
  for (int64_t i = 0; i < n; i++) {
    const T gap = value[i] - mean[i];
    mean[i] = low ? mean[i] + weight * gap : value[i] - gap * (T(1) - weight);
  }
}
struct Loop {
  Generator* generator;
  int64_t from, upto, start, middle, size;
  REAL* flat; REAL* first; REAL* second; REAL* gradient;
};
extern "C" int loop(char** given, const Loop* l) {
  char* s = scratch();
  try {
    for (int64_t k = l->from; k < l->upto; k++) {
      draw_normals(given, s, l->generator);
      once(given, s);
      if (k < l->start) continue;
      if (k < l->middle) { lerp(l->first, l->flat, l->size, REAL(1.0 / (k - l->start + 1))); continue; }
      const REAL weight = REAL(1.0 / (k - l->middle + 1));
      lerp(l->second, l->flat, l->size, weight);
      lerp(l->gradient, reinterpret_cast<const REAL*>(FIRST_RESULT), l->size, weight);
    }
    return 0;
  } catch (...) { return 1; }
}
"""
DENSITY = r"""
#include <vector>
extern "C" int log_density(unsigned long n, const double* u, double* slope, double* value, const void* all) {
  static thread_local std::vector<REAL> position(DIMENSION);
  char* s = scratch();
  char* given[ARGUMENTS];
  std::memcpy(given, all, sizeof given);
  for (unsigned long i = 0; i < DIMENSION; i++) position[i] = REAL(u[i]);
  given[0] = reinterpret_cast<char*>(position.data());
  try { once(given, s); } catch (...) { return 1; }
  *value = *reinterpret_cast<const REAL*>(FIRST_RESULT);
  const REAL* found = reinterpret_cast<const REAL*>(SECOND_RESULT);
  bool fine = std::isfinite(*value);
  for (unsigned long i = 0; i < DIMENSION; i++) {
    slope[i] = found[i];
    fine = fine && std::isfinite(found[i]);
  }
  return fine ? 0 : 2;
}
extern "C" void log_densities(
    unsigned long rows, unsigned long n, const double* u, double* slopes, double* values, const void* all) {
  for (unsigned long r = 0; r < rows; r++) {
    if (log_density(n, u + r * n, slopes + r * n, values + r, all) != 1) continue;
    values[r] = NAN;
    for (unsigned long i = 0; i < n; i++) slopes[r * n + i] = NAN;
  }
}
extern "C" int expand(unsigned long n, unsigned long m, const double* u, double* out, const void*) {
  std::memcpy(out, u, n * sizeof(double));
  return 0;
}
"""

BYTES = "const bool*", "const uint8_t*"
"""Of a condition in memory vectors are made where it is a number that is compared with 0."""


def source_of(plan: Plan, *, light: bool) -> str:
    """The C++ of a plan; `light`: without torch's header, of whose contents few kernels need any."""
    readable = all(p.size for _, given in plan.calls for p in given if isinstance(p, Place))
    parts = [VECTORS, CHOOSE, PRELUDE if light else HEADER]
    for k, (_, code) in enumerate(plan.sources):
        body = straight(code.replace(HEADER, "").replace(*BYTES), readable=readable)
        body = _with_memory_told(body, _alone(plan, k))
        parts.append(re.sub(r'extern "C"\s+void\s+kernel\(', f"static void kernel_{k}(", body))
    parts += [header.read_text(encoding="utf-8") for header in (ALGEBRA, LINES)]
    parts.append("static inline void once(char** given, char* s) {")
    parts += [f"  {_call(plan, *call)};" for call in plan.calls]
    parts.append("}")
    parts += _normals(plan)
    return "\n".join(parts).replace("SCRATCH", str(plan.scratch))


def _alone(plan: Plan, kernel: int) -> list[bool]:
    """Of each argument of a kernel, whether in all of its calls no other has of its memory, of which one of
    the two is written.
    """
    read = [kind.startswith("const") for kind in plan.sources[kernel][0]]
    alone = [True] * len(read)
    for given in (given for function, given in plan.calls if function == kernel):
        for i, j in itertools.combinations(range(len(given)), 2):
            if not (read[i] and read[j]) and _may_meet(given[i], given[j]):
                alone[i] = alone[j] = False
    return alone


def _may_meet(one: Place | int, other: Place | int) -> bool:
    """Whether two places share memory. Two arguments of a graph do not where one is written: that is the
    state of a fit, which is nobody else's.
    """
    if isinstance(one, int) or isinstance(other, int) or one.argument != other.argument:
        return False
    return one.offset < other.offset + other.size and other.offset < one.offset + one.size


def _with_memory_told(code: str, alone: list[bool]) -> str:
    """A kernel that says which of its arguments have their memory to themselves: else a compiler computes at
    every row anew what is the same for all, because writing the row might have changed it.
    """
    before, bracket, after = code.partition("(")
    given, end, body = after.partition(")")
    words = given.split(",")
    for k, (word, known) in enumerate(zip(words, alone, strict=True)):
        words[k] = word.replace("* ", "* __restrict__ ") if known else word
    return before + bracket + ",".join(words) + end + body


def _call(plan: Plan, function: int | str, arguments: tuple[Place | int, ...]) -> str:
    if isinstance(function, str):
        real = function.partition("<")[2].rstrip(">")
        return f"{function}({', '.join(_argument(real + '*', a) for a in arguments)})"
    kinds = plan.sources[function][0]
    words = [_argument(kind, a) for kind, a in zip(kinds, arguments, strict=True)]
    return f"kernel_{function}({', '.join(words)})"


def _argument(kind: str, given: Place | int) -> str:
    if isinstance(given, int):
        return str(given)
    return f"reinterpret_cast<{kind.replace(*BYTES)}>({_pointer(given)})"


def _pointer(place: Place) -> str:
    base = "s" if place.argument is None else f"given[{place.argument}]"
    return f"{base} + {place.offset}"


def _normals(plan: Plan) -> list[str]:
    """Writes the normals of one run where the kernels read them, and takes the results out."""
    size = torch.empty((), dtype=plan.dtype).element_size()
    lines, offset = [], 0
    for place, count in plan.normals:
        lines.append(f"  std::memcpy({_pointer(place)}, normals + {offset}, {count * size});")
        offset += count * size
    taken = []
    for k, result in enumerate(plan.results):
        reach = sum((n - 1) * by for n, by in zip(result.shape, result.stride, strict=True)) + 1
        size = reach * torch.empty((), dtype=result.dtype).element_size()
        taken.append(f"  std::memcpy(results[{k}], {_pointer(result.place)}, {size});")
    return [
        "#include <cstring>",
        "static inline void place_normals(char** given, char* s, const char* normals) {",
        *lines,
        "}",
        "static inline void take_results(char** given, char* s, char** results) {",
        *taken,
        "}",
        AROUND,
    ]


def with_loop(source: str, plan: Plan, real: torch.dtype) -> str:
    """The source with the loop of a step whose first result is the gradient."""
    first = f"({_pointer(plan.results[0].place)})"
    drawn = [
        f"  fill(g, reinterpret_cast<{REAL[plan.dtype]}*>({_pointer(place)}), {count});"
        for place, count in plan.normals
    ]
    draw = ["static inline void draw_normals(char** given, char* s, Generator* g) {", *drawn, "}"]
    loop = LOOP.replace("REAL", REAL[real]).replace("FIRST_RESULT", first)
    return "\n".join([source, ONE_BY_ONE, NORMALS.read_text(encoding="utf-8"), *draw, loop])


def with_density(source: str, plan: Plan, dimension: int, given: int) -> str:
    """The source with the density of a graph of u (D,) -> log p(x, u), gradient, of so many arguments."""
    first, second = (f"({_pointer(result.place)})" for result in plan.results)
    text = DENSITY.replace("REAL", REAL[plan.results[0].dtype])
    for word, meaning in (
        ("FIRST_RESULT", first),
        ("SECOND_RESULT", second),
        ("DIMENSION", str(dimension)),
        ("ARGUMENTS", str(given)),
    ):
        text = text.replace(word, meaning)
    return source + text
