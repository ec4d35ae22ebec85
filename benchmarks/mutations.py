"""Which small faults are put into a file: those of mutmut that arithmetic can survive, and ours.

mutmut (3.8) is taken for its parsing, its pragmas and its operators on arithmetic, comparisons, branches
and booleans. Left out are its operators whose mutants nearly always end in an exception, or change only
how a message is worded (None for an argument or a value, a string in capitals): they would raise the
share of killed mutants without saying anything. Put in are those that this library fears: a threshold
moved by a tenth, a square root or an absolute value forgotten, a comparison turned round, a word of
direction exchanged, and everything that stands outside functions or in decorated ones, which `mutmut
run` leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace
from mutmut.mutation.pragma_handling import IgnoredCode, PragmaVisitor

FORGOTTEN = {"sqrt", "abs", "square", "exp", "log", "log10", "expm1", "log1p", "double", "detach"}
"""Functions and methods of one value that a mutant leaves out."""

EXCHANGED = {
    one: other
    for pair in (
        ("max", "min"),
        ("maximum", "minimum"),
        ("argmax", "argmin"),
        ("std", "var"),
        ("any", "all"),
        ("mean", "sum"),
    )
    for one, other in (pair, pair[::-1])
}
"""Functions and methods in whose place a mutant puts another."""

WORDS = {
    one: other
    for pair in (("high", "low"), ("narrow", "wide"))
    for one, other in (pair, pair[::-1])
}

REVERSED: dict[type, type] = {
    cst.LessThan: cst.GreaterThan,
    cst.GreaterThan: cst.LessThan,
    cst.LessThanEqual: cst.GreaterThanEqual,
    cst.GreaterThanEqual: cst.LessThanEqual,
}

SMALL = 1e-6
"""Numbers below it guard a division or a logarithm, and are moved by 1, not by a tenth."""


def moved_number(node: cst.BaseNumber) -> Iterable[cst.BaseNumber]:
    """A whole number by one (from 10 on by a tenth), another by a tenth, up and down."""
    if isinstance(node, cst.Integer):
        value = node.evaluated_value
        step = round(value / 10) if value >= 10 else 1
        yield node.with_changes(value=repr(value + step))
        if value >= 10:
            yield node.with_changes(value=repr(value - step))
    elif isinstance(node, cst.Float):
        number = node.evaluated_value
        if number < SMALL:
            yield node.with_changes(value=repr(number + 1))
        else:
            yield node.with_changes(value=repr(number * 1.1))
            yield node.with_changes(value=repr(number * 0.9))


def forgotten_function(node: cst.Call) -> Iterable[cst.BaseExpression]:
    """`sqrt(x)` to `x`, `x.abs()` to `x`."""
    name = _called(node)
    if name not in FORGOTTEN:
        return
    if len(node.args) == 1 and node.args[0].keyword is None:
        yield _bracketed(node.args[0].value)
    elif not node.args and isinstance(node.func, cst.Attribute):
        yield node.func.value


def exchanged_function(node: cst.Call) -> Iterable[cst.Call]:
    """`max(a, b)` to `min(a, b)`, `x.std(0)` to `x.var(0)`."""
    other = EXCHANGED.get(_called(node))
    if other is None:
        return
    if isinstance(node.func, cst.Attribute):
        yield node.with_changes(func=node.func.with_changes(attr=cst.Name(other)))
    elif isinstance(node.func, cst.Name) and other not in ("mean", "std", "var"):
        yield node.with_changes(func=cst.Name(other))


def dropped_keyword(node: cst.Call) -> Iterable[cst.Call]:
    """`std(ddof=1)` to `std()`: an argument given by name is left out (a device makes no difference
    on a machine that has one).
    """
    for i, arg in enumerate(node.args):
        if arg.keyword is not None and arg.keyword.value != "device":
            yield node.with_changes(args=[*node.args[:i], *node.args[i + 1 :]])


def reversed_comparison(node: cst.ComparisonTarget) -> Iterable[cst.ComparisonTarget]:
    other = REVERSED.get(type(node.operator))
    if other is not None:
        yield node.with_changes(operator=other())


def dropped_sign(node: cst.UnaryOperation) -> Iterable[cst.BaseExpression]:
    if isinstance(node.operator, cst.Minus):
        yield _bracketed(node.expression)


def exchanged_word(node: cst.SimpleString) -> Iterable[cst.SimpleString]:
    other = WORDS.get(node.raw_value)
    if other is not None:
        yield node.with_changes(value=f'"{other}"')


def _called(node: cst.Call) -> str:
    if isinstance(node.func, cst.Attribute):
        return node.func.attr.value
    return node.func.value if isinstance(node.func, cst.Name) else ""


def _bracketed(node: cst.BaseExpression) -> cst.BaseExpression:
    return node.with_changes(
        lpar=[cst.LeftParen(), *node.lpar], rpar=[*node.rpar, cst.RightParen()]
    )


def swapped_operator(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """As mutmut, but a minus sign is dropped (above), not made a plus: that is the same."""
    if not isinstance(node, cst.UnaryOperation):
        yield from mutators.operator_swap_op(node)


OPERATORS = [
    (cst.BaseNumber, moved_number),
    (cst.Call, forgotten_function),
    (cst.Call, exchanged_function),
    (cst.Call, dropped_keyword),
    (cst.ComparisonTarget, reversed_comparison),
    (cst.UnaryOperation, dropped_sign),
    (cst.SimpleString, exchanged_word),
    (cst.Name, mutators.operator_name),
    (cst.AugAssign, mutators.operator_augmented_assignment),
    (cst.UnaryOperation, mutators.operator_remove_unary_ops),
    (cst.CSTNode, mutators.operator_keywords),
    (cst.CSTNode, swapped_operator),
    (cst.IfExp, mutators.operator_if_exp),
]


class _Everywhere(MutationVisitor):
    """mutmut's visitor, which also enters decorated functions and passes by what is raised."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Raise | cst.Import | cst.ImportFrom | cst.Assert):
            return True
        if isinstance(node, cst.FunctionDef):
            return False
        if isinstance(node, cst.If) and getattr(node.test, "value", "") == "TYPE_CHECKING":
            return True
        if isinstance(node, cst.Subscript) and getattr(node.value, "value", "") in ("dict", "list"):
            return True  # a type, as in `found: dict[str, float]`
        return super()._skip_node_and_children(node)


@dataclass(frozen=True)
class Mutant:
    """One fault of a file: the function it is in ("" outside of functions), its line, its text."""

    path: Path
    function: str
    line: int
    module: cst.Module
    mutation: Mutation

    def code(self) -> str:
        """The whole file with the fault in it."""
        one = self.mutation
        changed = deep_replace(self.module, one.original_node, one.mutated_node)
        assert isinstance(changed, cst.Module)
        return changed.code


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of a file, in the order of the text."""
    wrapper = MetadataWrapper(cst.parse_module(path.read_text(encoding="utf-8")))
    pragmas = PragmaVisitor(str(path))
    wrapper.visit(pragmas)
    ignored = IgnoredCode(pragmas.no_mutate_lines, pragmas.ignore_node_lines, set())
    visitor = _Everywhere(OPERATORS, ignored)
    module = wrapper.visit(visitor)
    places = wrapper.resolve(PositionProvider)
    names = _names(module)
    found = []
    for one in visitor.mutations:
        place = places.get(one.original_node)
        inside = names.get(one.contained_by_top_level_function, "")
        found.append(Mutant(path, inside, place.start.line if place else 0, module, one))
    return found


def _names(module: cst.Module) -> dict[cst.CSTNode | None, str]:
    """The qualified name of each function and method."""
    names: dict[cst.CSTNode | None, str] = {}
    for child in module.body:
        if isinstance(child, cst.FunctionDef):
            names[child] = child.name.value
        elif isinstance(child, cst.ClassDef):
            for method in child.body.body:
                if isinstance(method, cst.FunctionDef):
                    names[method] = f"{child.name.value}.{method.name.value}"
    return names
