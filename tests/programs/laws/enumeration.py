"""Discrete latents: summed out in the model or in the guide, in Markov chains, or drawn by the guide."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiscreteParallel, AutoGuideList, AutoNormal
from pyro.ops.indexing import Vindex

from tests.programs.laws.handlers import by
from tests.programs.laws.program import Program

DRAWN: dict[str, Any] = {
    "by_mode": False,
    "unsampled": "is discrete, so it has no unconstrained scale",
}
"""Of models whose guide draws a discrete site, or sums over it."""
POSITIVE, SIMPLEX = dist.constraints.positive, dist.constraints.simplex
Y = torch.tensor([-2.1, -1.7, 0.2, 1.9, 2.4])
PARALLEL, SEQUENTIAL = {"enumerate": "parallel"}, {"enumerate": "sequential"}
STAY = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
IN_SINGLE = STAY.float()
WORDS = torch.tensor([[0, 2, 1, 0], [0, 1, 1, 2], [0, 2, 2, 1]])


def mixture(y, how=PARALLEL):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("component", 2):
        mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 2.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights), infer=how)
        pyro.sample("y", dist.Normal(mean[z], 0.7), obs=y)


def by_continuous(model, guide=AutoNormal, sites=("weights", "mean")):
    """An autoguide of the continuous sites, as Pyro asks for it."""
    return lambda: (model, guide(poutine.block(model, expose=list(sites))))


def in_turn(y):
    """A sum in turn needs a site without a plate."""
    z = pyro.sample("z", dist.Bernoulli(0.4))
    mean = pyro.sample("mean", dist.Normal(2 * z - 1, 1.0))
    pyro.sample("y", dist.Normal(mean, 0.7).expand([len(y)]).to_event(1), obs=y)


def in_turn_guide(y):
    share = pyro.param("share", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
    z = pyro.sample("z", dist.Bernoulli(share), infer=SEQUENTIAL)
    locs = pyro.param("locs", torch.tensor([-0.3, 0.4]))
    pyro.sample("mean", dist.Normal(Vindex(locs)[z.long()], 0.4))


@config_enumerate
def hidden_markov(y):
    with pyro.plate("state", 2):
        mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0))
    z = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Categorical(STAY[z]))
        pyro.sample(f"y_{t}", dist.Normal(mean[z], 0.7), obs=y[t])


@config_enumerate
def chains_in_plate(y):
    """Two chains side by side, with a table of two indices."""
    stay = pyro.sample("stay", dist.Dirichlet(3 * STAY + 1).to_event(1))
    mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("chain", y.shape[1]):
        z = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Categorical(Vindex(stay)[..., z, :]))
            pyro.sample(f"y_{t}", dist.Normal(Vindex(mean)[..., z], 0.7), obs=y[t])


@config_enumerate
def of_labels(y):
    """The prior of a latent depends on a label."""
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        level = pyro.sample("level", dist.Normal(torch.tensor([-1.0, 1.0])[z], 1.0))
        pyro.sample("y", dist.Normal(level, 0.7), obs=y)


@config_enumerate
def with_constants(y):
    """Constants of single precision, which meet the density only in the sum."""
    mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    z = 0
    for t in pyro.markov(range(3)):
        z = pyro.sample(f"z_{t}", dist.Categorical(IN_SINGLE[z]))
        pyro.sample(f"y_{t}", dist.Normal(mean[z], 0.7), obs=y[t])


@config_enumerate
def of_two_lengths(y, length):
    """Chains of different lengths side by side: what comes after an end is masked, its state too."""
    mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    with pyro.plate("sequence", y.shape[1]):
        z = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(len(y))):
            with poutine.mask(mask=t < length):
                z = pyro.sample(f"z_{t}", dist.Categorical(STAY[z]))
                pyro.sample(f"y_{t}", dist.Normal(Vindex(mean)[..., z], 0.7), obs=y[t])


def tempered(y):
    """A power of the likelihood of a mixture: the power of the sum, not the sum of powers."""
    with poutine.scale(scale=0.3):
        mixture(y)


@config_enumerate
def documents(words, count=None):
    """Words of documents, each a mixture of two topics."""
    topics = pyro.sample("topics", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
    with pyro.plate("document", words.shape[1]) as rows:
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("word", len(words)):
            topic = pyro.sample("topic", dist.Bernoulli(share))
            table = Vindex(topics)[..., topic.long(), :]
            pyro.sample("words", dist.Categorical(table), obs=words[:, rows])


def some_documents(words, count=None):
    """Documents are drawn by the guide alone; the model takes those."""
    loc = pyro.param("loc", torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 2.0]]), constraint=POSITIVE)
    pyro.sample("topics", dist.Dirichlet(loc).to_event(1))
    shape = pyro.param("shape", torch.tensor(2.0), constraint=POSITIVE)
    with pyro.plate("document", words.shape[1], subsample_size=count) as rows:
        pyro.sample("share", dist.Beta(shape.expand(len(rows)), 2.0))


def vectorised_markov(y):
    mean = pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
    first = torch.tensor([0.5, 0.5])
    chain = dist.DiscreteHMM(first.log(), STAY.log(), dist.Normal(mean, 0.7), duration=len(y))
    pyro.sample("y", chain, obs=y)


def unmarked(y):
    mixture(y, how={})


@config_enumerate
def guide_sums(y):
    weights = pyro.param("share", torch.tensor([0.4, 0.6]), constraint=SIMPLEX)
    pyro.sample("weights", dist.Dirichlet(5 * weights))
    with pyro.plate("component", 2):
        pyro.sample("mean", dist.Normal(pyro.param("locs", torch.tensor([-1.5, 1.5])), 0.3))
    shares = pyro.param("shares", torch.full((len(y), 2), 0.5), constraint=SIMPLEX)
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Categorical(shares))


@config_enumerate
def guide_sums_with_constants(y):
    """Shares of single precision, which meet what they weigh only in the sum."""
    pyro.sample(
        "weights",
        dist.Dirichlet(pyro.param("share", torch.tensor([2.0, 3.0]), constraint=POSITIVE)),
    )
    with pyro.plate("component", 2):
        pyro.sample("mean", dist.Normal(pyro.param("locs", torch.tensor([-1.5, 1.5])), 0.3))
    with pyro.plate("row", len(y)):
        pyro.sample("z", dist.Categorical(IN_SINGLE[0]))


def guide_draws(y):
    poutine.infer_config(guide_sums, config_fn=lambda _: {"enumerate": None})(y)


def with_discrete():
    guide = AutoGuideList(unmarked)
    guide.append(AutoNormal(poutine.block(unmarked, expose=["weights", "mean"])))
    guide.append(AutoDiscreteParallel(poutine.block(unmarked, expose=["z"])))
    return unmarked, guide


DATA = {"y": Y}
ENUMERATION = (
    Program("mixture summed out", '`infer={"enumerate": "parallel"}` in the model', by_continuous(mixture),
            DATA, plates=1),
    Program("point of a mixture", "the same, and `AutoDelta`", by_continuous(mixture, AutoDelta), DATA,
            plates=1),
    Program("pyro.markov", "`pyro.markov`, `config_enumerate`",
            by_continuous(hidden_markov, sites=["mean"]), DATA, plates=1),
    Program("markov in a plate", "`pyro.markov` in a plate, `Vindex`",
            by_continuous(chains_in_plate, sites=["mean", "stay"]), {"y": torch.stack([Y, -Y], 1)},
            plates=1),
    Program("latent of a label", "a latent whose prior depends on a site that is summed out",
            by_continuous(of_labels, sites=["level"]), DATA, plates=1),
    Program("masked steps", "`pyro.markov` under `poutine.mask`, chains of different lengths",
            by_continuous(of_two_lengths, sites=["mean"]),
            {"y": torch.stack([Y, -Y], 1), "length": torch.tensor([5, 3])}, plates=1),
    Program("tempered sum", "`poutine.scale` around a sum", by_continuous(tempered), DATA, plates=1),
    Program("rows of the guide", "`subsample_size=` in the guide alone",
            lambda: (documents, some_documents), {"words": WORDS, "count": 2}, whole={"count": None},
            plates=2, by_mode=False),
    Program("constants in float32", "a constant of single precision outside of the model",
            by_continuous(with_constants, sites=["mean"]), DATA, plates=0, single=True),
    Program("DiscreteHMM", "`dist.DiscreteHMM`", by(vectorised_markov), DATA),
    Program("guide sums", "`config_enumerate` on the guide", lambda: (unmarked, guide_sums), DATA,
            **DRAWN,
            objective=lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    Program("constants in float32, guide", "the same, a constant of single precision in the guide",
            lambda: (unmarked, guide_sums_with_constants), DATA, single=True, by_mode=False,
            objective=lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    Program("guide draws", "a discrete site drawn by the guide", lambda: (unmarked, guide_draws), DATA,
            **DRAWN),
    Program("guide draws, TraceGraph", "the same by `TraceGraph_ELBO`", lambda: (unmarked, guide_draws),
            DATA, "reference",
            "TraceGraph_ELBO", **DRAWN, objective=TraceGraph_ELBO),
    Program("sequential sum", '`infer={"enumerate": "sequential"}`', lambda: (in_turn, in_turn_guide), DATA,
            **DRAWN, objective=lambda: TraceEnum_ELBO(max_plate_nesting=0)),
    Program("AutoDiscreteParallel", "`AutoDiscreteParallel`", with_discrete, DATA, **DRAWN,
            objective=lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    Program("summed twice", "a site marked in the model and in the guide", lambda: (mixture, guide_sums),
            DATA, "refused",
            "leave it unmarked in the model", note="the sentence says how to unmark it"),
)  # fmt: skip
