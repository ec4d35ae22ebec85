"""A line of the list: a small program of Pyro, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

UNRECORDED = "nuts needs a model that can be recorded"
How = Literal["captured", "reference", "refused"]


@dataclass(frozen=True)
class Program:
    """One feature of Pyro in a program of a few lines.

    Attributes:
        name: of the program, and its id.
        uses: what of Pyro it is about, in the words of the table.
        make: makes the model and the guide anew, in the default precision; networks by torch's seed.
        data: as a user gives them to gb.svi.
        how: what svi does with it; words: a part of the warning or of the error.
        note: what the table says beside it.
        objective, optim: made anew; None for Trace_ELBO, and Adam.
        same_as: the objective of Pyro that gives the same steps, where this one draws others.
        plates: how deep the plates go, of a model that is summed over discrete sites; None without.
        gets: what the model gets where that is something else than `data`, as Pyro's step is given it.
        whole: the arguments by which its plates hold all rows, where they draw some.
        single: whether it runs in single precision, for a constant that it reads.
        by_mode: whether laplace runs on it: latents are continuous, or summed out, and few.
        unsampled: a part of the sentence in which nuts refuses it; empty where it runs.
    """

    name: str
    uses: str
    make: Callable[[], tuple[Any, Any]]
    data: Any
    how: How = "captured"
    words: str = ""
    note: str = ""
    objective: Callable[[], Any] | None = None
    same_as: Callable[[], Any] | None = None
    optim: Callable[[], Any] | None = None
    plates: int | None = None
    gets: Mapping[str, Any] | None = None
    whole: Mapping[str, Any] = field(default_factory=dict)
    single: bool = False
    by_mode: bool = True
    unsampled: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.single else torch.float64
