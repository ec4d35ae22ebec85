"""The rows of the laws: every approximation of every pair of the catalogue, each fitted once.

A pair that is added to the catalogue adds its rows here by itself. A law names the rows it is about by
a fixture: `fit`, every row; `trained`, those of svi; `ascended`, those of em and cavi; `dense`, those
with a density q. `row` fits one again. Rows of one pair run one after the other in one process, so that
each fit is made once a session.
"""

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import guidebook as gb
from guidebook.programs.data import as_tensors
from guidebook.programs.nodes import plate_nesting, sample_nodes
from guidebook.programs.start.mode import Start
from guidebook.scope import local_parameters, precision
from tests.starts import searched_once

CPU = torch.device("cpu")
ROWS_OF_DATA = 60
FEWER = {"gaussian-mixture-full": 6, "clutter": 7}
"""Rows of a pair whose evidence is known for a few: 2^6 and 2^7 assignments are quickly enumerated."""
STEPS = 60
DRAWS = 7

SLOW = {  # their recordings or their evidence take ten seconds each, and their pairs have other rows
    ("gaussian-mixture-full", "mean-field"), ("gaussian-mixture-full", "full-rank"),
    ("gaussian-mixture-full", "flow"), ("gaussian-mixture-full", "natural-svi"),
    ("gaussian-mixture-full", "gibbs"), ("gaussian-mixture-full", "cavi"),
    ("probit-regression", "mean-field"), ("probit-regression", "full-rank"),
    ("probit-regression", "low-rank"), ("probit-regression", "flow"),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A pair and one way to its posterior: a guide for svi, another engine, or the exact guide."""

    pair: str
    way: str

    @property
    def engine(self) -> str:
        pair = gb.pair(self.pair)
        if self.way == "exact":
            return "exact"
        return pair.engines[self.way][0].__name__ if self.way in pair.engines else "svi"

    @property
    def has_density(self) -> bool:
        """Whether log q is a number: not of points, nor of a sampler's draws."""
        point = gb.pair(self.pair).truth == "no posterior"
        mode_of_mixture = self.engine == "em" and "mixture" in self.pair
        return not (point or mode_of_mixture or self.engine == "gibbs")

    @property
    def model(self) -> Any:
        return model_of(self.pair)

    @property
    def data(self) -> dict[str, Any]:
        """All rows for engines with a rule for stopping, which they are to meet; else the first few."""
        return data_of(self.pair, self.engine not in ("svi", "exact") and self.pair not in FEWER)

    @property
    def objective(self) -> Any:
        return objective_of(self.pair)

    def guide(self, model: Any) -> Any:
        """A new guide of this way for the model."""
        pair = gb.pair(self.pair)
        if self.way == "exact":
            assert pair.exact is not None
            return pair.exact(model)
        return (
            pair.engines[self.way][1](model)
            if self.way in pair.engines
            else pair.guides[self.way](model)
        )

    def fitted(self, *, steps: int = STEPS, compile: Any = "graph", device: str = "cpu") -> gb.Fit:
        """The row's fit from the beginning; svi by Pyro's own objective and optimiser, seed 0."""
        data = {name: torch.as_tensor(value, device=device) for name, value in self.data.items()}
        if self.engine == "exact":
            return gb.exact(self.model, self.guide(self.model), data)
        engine, settings = getattr(gb, self.engine), {}
        if self.engine == "svi":
            adam = pyro.optim.Adam({"lr": 0.01})
            settings = {
                "objective": self.objective, "optim": adam, "steps": steps,
                "compile": compile,
            }  # fmt: skip
        with searched_once(_starts, lambda _: self.pair), warnings.catch_warnings():
            # sixty steps may leave an encoder as it began; whether it is used is no law of a row
            warnings.filterwarnings("ignore", "The posterior collapsed", UserWarning)
            found: gb.Fit = engine(
                self.model, self.guide(self.model), data, progress=False, **settings
            )
        return found


def rows() -> list[Row]:
    """Of every pair; iwae is the model, the guides and the data of vae, and is left out."""
    found = []
    for name, pair in gb.PAIRS.items():
        if name != "iwae":
            exact = ["exact"] if pair.exact is not None else []
            found += [Row(name, way) for way in (*pair.guides, *pair.engines, *exact)]
    return found


KINDS: dict[str, Callable[[Row], bool]] = {
    "trained": lambda row: row.engine == "svi",
    "ascended": lambda row: row.engine in ("em", "cavi"),
    "dense": lambda row: row.has_density,
    "cut": lambda row: row.pair in FEWER and row.engine not in ("svi", "exact"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Rows as parameters of the session: pytest runs all laws of one row together."""
    if "row" not in metafunc.fixturenames:
        return
    chosen = rows()
    for name, belongs in KINDS.items():
        if name in metafunc.fixturenames:
            chosen = [row for row in chosen if belongs(row)]
    params = []
    for row in chosen:
        marks = [pytest.mark.slow] if (row.pair, row.way) in SLOW else []
        params.append(pytest.param(row, id=f"{row.pair}:{row.way}", marks=marks))
    metafunc.parametrize("row", params, scope="session")


@pytest.fixture(scope="session")
def fit(row: Row) -> gb.Fit:
    return row.fitted()


@pytest.fixture(scope="session")
def drawn(fit: gb.Fit) -> Any:
    """A few draws in ArviZ's groups, once for the laws that read them."""
    return fit.posterior(DRAWS, seed=1)


@pytest.fixture(scope="session")
def trained(fit: gb.Fit) -> gb.Fit:
    return fit


@pytest.fixture(scope="session")
def ascended(fit: gb.Fit) -> gb.Fit:
    return fit


@pytest.fixture(scope="session")
def cut(row: Row) -> gb.Fit:
    """By an engine of a pair whose rows are few in the other laws, on all of them."""
    found: gb.Fit = getattr(gb, row.engine)(
        row.model, row.guide(row.model), data_of(row.pair, whole=True), progress=False
    )
    return found


@pytest.fixture(scope="session")
def dense(fit: gb.Fit) -> gb.Fit:
    return fit


@cache
def model_of(name: str) -> Any:
    return gb.pair(name).model()


@cache
def data_of(name: str, whole: bool = False) -> dict[str, Any]:
    """The pair's data, cut to some rows where they are many."""
    data = gb.pair(name).data()
    if whole:
        return data
    longest = max(len(v) for v in data.values())
    few = min(longest, FEWER.get(name, ROWS_OF_DATA))
    stride = longest // few if name in FEWER else 1
    return {k: v[::stride][:few] if len(v) == longest else v for k, v in data.items()}


@cache
def objective_of(name: str) -> Any:
    """What the pair's ELBO is by Pyro: enumerated where the model asks for it."""
    if isinstance(model_of(name), torch.nn.Module):  # none of them has a discrete site
        return Trace_ELBO()
    with local_parameters(), precision(torch.float64):
        tensors = as_tensors(data_of(name), torch.float64, CPU)
        depth = plate_nesting(sample_nodes(model_of(name), tensors))
    return Trace_ELBO() if depth is None else TraceEnum_ELBO(max_plate_nesting=depth)


_starts: dict[Hashable, Start] = {}
