"""The shelf: every pair of a model and its guides, with data and how the truth is known."""

from __future__ import annotations

from guidebook.errors import NameNotFound, nearest
from guidebook.shelf import autoencoders, energy, factors, mixtures, regression
from guidebook.shelf.pair import Pair

PAIRS: dict[str, Pair] = {
    entry.name: entry
    for room in (regression, mixtures, factors, autoencoders, energy)
    for entry in room.PAIRS
}
"""The shelf, in the order in which it is listed."""


def pair(name: str) -> Pair:
    """The pair of this name; NameNotFound, with the near names, if there is none."""
    if name not in PAIRS:
        raise NameNotFound(f"There is no pair {name!r}. {nearest(name, PAIRS)}")
    return PAIRS[name]
