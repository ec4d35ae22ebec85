"""The witnesses (diagnostics that a verdict rests on), in the order of computation: a line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.witnesses import (
    annealed,
    calibration,
    chains,
    enumeration,
    importance,
    modes,
    reference,
    stein,
    transport,
)


class Witness(NamedTuple):
    """hear(subject, what was heard before) -> Testimony; `every`: cheap enough for every row."""

    name: str
    hear: Callable[[Subject, Mapping[str, Testimony]], Testimony]
    every: bool = False


WITNESSES = (
    Witness(chains.NAME, chains.hear, every=True),
    Witness(calibration.NAME, calibration.hear, every=True),
    Witness(importance.NAME, importance.hear, every=True),
    Witness(enumeration.NAME, enumeration.hear, every=True),
    Witness(modes.NAME, modes.hear),
    Witness(annealed.NAME, annealed.hear),
    Witness(stein.NAME, stein.hear),
    Witness(transport.NAME, transport.hear),
    Witness(reference.NAME, reference.hear),
)


def heard_on(subject: Subject, cheap: bool = False) -> dict[str, Testimony]:
    """What each witness states; `cheap=True`: only those that every row can be given."""
    heard: dict[str, Testimony] = {}
    for witness in WITNESSES:
        if witness.every or not cheap:
            heard[witness.name] = witness.hear(subject, heard)
    return heard
