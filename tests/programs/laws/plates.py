"""Plates: nested, named dimensions, sequential, with rows drawn or given."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoMultivariateNormal

from tests.programs.laws.handlers import by
from tests.programs.laws.program import Program

TABLE = torch.tensor([[0.3, -1.0, 2.0, 0.4], [1.1, 0.2, 1.7, 0.9], [0.8, -0.6, 2.2, 1.5]])
Y = torch.tensor([-0.5, 0.7, 1.9, 0.2, 1.1, -0.1])


def nested(y):
    with pyro.plate("column", 4, dim=-1):
        column = pyro.sample("of_column", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 3, dim=-2):
        row = pyro.sample("of_row", dist.Normal(0.0, 1.0))
        with pyro.plate("columns", 4, dim=-1):
            pyro.sample("y", dist.Normal(row + column, 0.5), obs=y)


def reused(y):
    """Two plates, each entered twice, in either order."""
    rows, columns = pyro.plate("row", 3, dim=-2), pyro.plate("column", 4, dim=-1)
    with rows:
        row = pyro.sample("of_row", dist.Normal(0.0, 1.0))
    with columns:
        column = pyro.sample("of_column", dist.Normal(0.0, 1.0))
    with columns, rows:
        pyro.sample("y", dist.Normal(row + column, 0.5), obs=y)


def stacked(y):
    with pyro.plate_stack("cell", (3, 4)):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def one_by_one(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    for i in pyro.plate("row", len(y)):
        effect = pyro.sample(f"effect_{i}", dist.Normal(mean, 1.0))
        pyro.sample(f"y_{i}", dist.Normal(effect, 0.5), obs=y[i])


def one_by_one_guide(y):
    pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 0.6))
    for i in pyro.plate("row", len(y)):
        pyro.sample(f"effect_{i}", dist.Normal(pyro.param(f"loc_{i}", torch.zeros(())), 0.5))


def some_rows(y, part=3):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y), subsample_size=part) as rows:
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])


def some_one_by_one(y, part=3):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    for i in pyro.plate("row", len(y), subsample_size=part):
        pyro.sample(f"y_{int(i)}", dist.Normal(mean, 1.0), obs=y[i])


def some_latents(y, part=3):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y), subsample_size=part):
        batch = pyro.subsample(y, event_dim=0)
        effect = pyro.sample("effect", dist.Normal(mean, 1.0))
        pyro.sample("y", dist.Normal(effect, 0.5), obs=batch)


def latents_guide(y, part=3):
    loc = pyro.param("loc", torch.tensor(0.1))
    pyro.sample("mean", dist.Normal(loc, 0.5))
    with pyro.plate("row", len(y), subsample_size=part):
        locs = pyro.param("locs", torch.zeros(len(y)), event_dim=0)
        scales = pyro.param(
            "scales", torch.ones(len(y)), constraint=constraints.positive, event_dim=0
        )
        pyro.sample("effect", dist.Normal(locs, scales))


def create_plates(y, part=3):
    return pyro.plate("row", len(y), subsample_size=part)


def given_rows(y, rows):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("row", 6, subsample=rows):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pyro.plate("replicate", 2, dim=-2)
def replicated(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y.expand(2, -1))


def of_chains(y):
    """A plate of the name that ArviZ gives to a dimension of the draws."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("chain", len(y)):
        effect = pyro.sample("effect", dist.Normal(mean, 1.0))
        pyro.sample("y", dist.Normal(effect, 0.5), obs=y)


def widened(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("replicate", 2, dim=-2), pyro.plate("row", len(y), dim=-1):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


ALL = {"part": None}
ROWS = {"y": Y[[1, 4]], "rows": torch.tensor([1, 4])}
TRANSPOSED = {"y": TABLE}
PLATES = (
    Program("nested plates", "`pyro.plate`, nested, `dim=`", by(nested), TRANSPOSED),
    Program("plates reused", "plates as objects, entered in any order", by(reused), TRANSPOSED),
    Program("plate_stack", "`pyro.plate_stack`", by(stacked), TRANSPOSED),
    Program("sequential plate", "`for i in pyro.plate`", lambda: (one_by_one, one_by_one_guide), {"y": Y}),
    Program("plate as decorator", "`@pyro.plate`", by(replicated), {"y": Y}),
    Program("plate called chain", "a plate called `chain`, `draw` or `sample`", by(of_chains), {"y": Y},
            note="its dimension is `chain_plate`, ..."),
    Program("observed value broadcast", "an observed value with fewer dimensions than its plates",
            by(widened), {"y": Y}, "refused", "Check the plates of the model and the shape of the data"),
    Program("subsample_size", "`subsample_size=`", by(some_rows), {"y": Y}, whole=ALL,
            note="rows drawn at every step; log p of all rows"),
    Program("pyro.subsample", "`pyro.subsample`, `pyro.param(event_dim=)`",
            lambda: (some_latents, latents_guide), {"y": Y}, whole=ALL),
    Program("autoguide of subsampled latents", "`subsample_size=` and latents in the plate",
            by(some_latents, create_plates=create_plates), {"y": Y}, whole=ALL),
    Program("sequential subsample", "`for i in pyro.plate(subsample_size=)`", by(some_one_by_one),
            {"y": Y}, "reference", "reads the value", whole=ALL),
    Program("subsample=", "`subsample=`", by(given_rows, AutoMultivariateNormal), ROWS,
            "refused", "is given 2 of its 6 rows", note="in a fit on all data; `batch_size=` does it"),
)  # fmt: skip
