"""Whole models of Pyro's examples and tutorials, small and in our own words."""

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.cevae import Guide as CausalGuide
from pyro.contrib.cevae import Model as CausalModel
from pyro.distributions import constraints
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.nn.functional import softplus

from tests.programs.laws.enumeration import DRAWN
from tests.programs.laws.program import Program

POSITIVE = constraints.positive
BITS = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 1], [0, 1, 0, 0], [1, 0, 0, 1]])
COUNTS = torch.tensor([[3.0, 0, 1, 2], [0, 4, 1, 0], [2, 1, 0, 3]])


def where():
    return torch.linspace(-1, 1, 6), torch.sin(torch.linspace(-2, 2, 6))


def gaussian_process():
    """Hyperparameters with priors, f integrated out."""
    kernel = gp.kernels.RBF(input_dim=1, variance=torch.tensor(1.0), lengthscale=torch.tensor(0.7))
    process = gp.models.GPRegression(*where(), kernel, noise=torch.tensor(0.1))
    process.kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 0.5))
    process.kernel.variance = PyroSample(dist.LogNormal(0.0, 0.5))
    process.kernel.autoguide("lengthscale", dist.Normal)
    process.kernel.autoguide("variance", dist.Normal)
    return process.model, process.guide


def sparse_process():
    """Inducing values have a normal q, its mean and factor trained."""
    kernel = gp.kernels.RBF(input_dim=1)
    x, y = where()
    process = gp.models.VariationalSparseGP(
        x, y, kernel, Xu=torch.tensor([-0.8, 0.0, 0.8]), likelihood=gp.likelihoods.Gaussian(), whiten=True
    )  # fmt: skip
    return process.model, process.guide


class Coder(nn.Module):
    def __init__(self, inside, outside, heads=2):
        super().__init__()
        self.hidden = nn.Linear(inside, 5)
        self.heads = nn.ModuleList(nn.Linear(5, outside) for _ in range(heads))

    def forward(self, *given):
        h = softplus(self.hidden(torch.cat(given, -1)))
        found = [head(h) for head in self.heads]
        return found[0] if len(found) == 1 else (found[0], found[1].exp())


class Autoencoder(nn.Module):
    """Model and guide are methods, the networks registered by pyro.module."""

    def __init__(self, condition=0):
        super().__init__()
        self.encoder = Coder(4 + condition, 2)
        self.decoder = Coder(2 + condition, 4, heads=1)

    def model(self, x, c=None):
        pyro.module("decoder", self.decoder)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            logits = self.decoder(*(z,) if c is None else (z, c))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, c=None):
        pyro.module("encoder", self.encoder)
        with pyro.plate("row", len(x)):
            loc, scale = self.encoder(*(x,) if c is None else (x, c))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def autoencoder(condition=0):
    def made():
        both = Autoencoder(condition)
        return both.model, both.guide

    return made


class SemiSupervised(nn.Module):
    """Labels of some rows are seen; those of the others are summed out in the guide."""

    def __init__(self):
        super().__init__()
        self.classifier = Coder(4, 2, heads=1)
        self.encoder = Coder(6, 2)
        self.decoder = Coder(4, 4, heads=1)

    def model(self, x, labels=None):
        pyro.module("ss", self)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            label = pyro.sample(
                "label", dist.OneHotCategorical(x.new_ones(len(x), 2) / 2), obs=labels
            )
            batch = torch.broadcast_shapes(z.shape[:-1], label.shape[:-1])
            z, label = z.expand(*batch, 2), label.to(z).expand(*batch, 2)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z, label)).to_event(1), obs=x)

    @config_enumerate
    def guide(self, x, labels=None):
        with pyro.plate("row", len(x)):
            if labels is None:
                labels = pyro.sample("label", dist.OneHotCategorical(logits=self.classifier(x)))
            batch = torch.broadcast_shapes(x.shape[:-1], labels.shape[:-1])
            loc, scale = self.encoder(x.expand(*batch, 4), labels.to(x).expand(*batch, 2))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def semi_supervised():
    both = SemiSupervised()
    return both.model, both.guide


class Topics(nn.Module):
    """Topics of documents, a log-normal q of their shares: batch normalisation and all."""

    def __init__(self):
        super().__init__()
        self.encoder = Coder(4, 2)
        self.decoder = nn.Sequential(nn.Linear(2, 4, bias=False), nn.BatchNorm1d(4, affine=False))

    def model(self, docs):
        pyro.module("decoder", self.decoder)
        with pyro.plate("document", len(docs)):
            shares = pyro.sample(
                "logtheta", dist.Normal(docs.new_zeros(len(docs), 2), 1.0).to_event(1)
            )
            words = self.decoder(shares.softmax(-1)).softmax(-1)
            pyro.sample("words", dist.Multinomial(int(docs.sum(-1).max()), words), obs=docs)

    def guide(self, docs):
        pyro.module("encoder", self.encoder)
        with pyro.plate("document", len(docs)):
            loc, scale = self.encoder(docs)
            pyro.sample("logtheta", dist.Normal(loc, scale).to_event(1))


def topics():
    both = Topics()
    return both.model, both.guide


@config_enumerate
def mixed_markov(steps):
    """Chains of animals of two groups, the group summed out beside the states."""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("state", 2):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([4.0, 12.0]), 2.0))
    stay = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]).to(rate)
    with pyro.plate("animal", steps.shape[1]):
        group = pyro.sample("group", dist.Categorical(share))
        z = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(len(steps))):
            z = pyro.sample(f"z_{t}", dist.Categorical(stay[group, z]))
            pyro.sample(f"step_{t}", dist.Exponential(rate[z]), obs=steps[t])


def epidemic(cases, population=50.0):
    """Susceptible, infectious, recovered: one Euler step a day, reported with noise."""
    rate = pyro.sample("rate", dist.LogNormal(-0.7, 0.3))
    recovery = pyro.sample("recovery", dist.Beta(4.0, 8.0))
    susceptible, infectious = population - 2.0, torch.tensor(2.0)
    for t in pyro.markov(range(len(cases))):
        infected = (rate * susceptible * infectious / population).clamp(min=1e-3)
        susceptible = susceptible - infected
        infectious = infectious + infected - recovery * infectious
        pyro.sample(f"cases_{t}", dist.Poisson(infected), obs=cases[t])


def deep_exponential(counts):
    with pyro.plate("row", len(counts)):
        top = pyro.sample("top", dist.Gamma(0.5, 0.5).expand([2]).to_event(1))
        weights = torch.tensor([[0.5, 1.0], [1.0, 0.3]]).to(top)
        low = pyro.sample("low", dist.Gamma(0.5, 0.5 / (top @ weights)).to_event(1))
        table = torch.tensor([[1.0, 0.2, 0.3, 1.0], [0.1, 1.5, 0.6, 0.2]]).to(top)
        pyro.sample("count", dist.Poisson(low @ table).to_event(1), obs=counts)


def deep_guide(counts):
    with pyro.plate("row", len(counts)):
        for name in ("top", "low"):
            shape = pyro.param(
                f"{name}_shape", torch.full((len(counts), 2), 1.5), constraint=POSITIVE
            )
            mean = pyro.param(f"{name}_mean", torch.ones(len(counts), 2), constraint=POSITIVE)
            pyro.sample(name, dist.Gamma(shape, shape / mean).to_event(1))


def causal():
    config = {
        "feature_dim": 4, "latent_dim": 2, "hidden_dim": 4, "num_layers": 2, "num_samples": 2,
        "outcome_dist": "bernoulli",
    }  # fmt: skip
    both = PyroModule()  # one root, as Pyro asks: the networks of the two have the same names
    both.model, both.guide = CausalModel(config), CausalGuide(config)
    return both.model, both.guide


class Markovian(nn.Module):
    """A deep Markov model: a network moves z_t, a recurrent one reads the sequence backwards."""

    def __init__(self):
        super().__init__()
        self.moves, self.emits = Coder(1, 1), Coder(1, 4, heads=1)
        self.reads, self.joins = nn.GRU(4, 3, batch_first=True), Coder(4, 1)

    def model(self, x, mask):
        pyro.module("dmm", self)
        z = x.new_zeros(len(x), 1)
        with pyro.plate("row", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=mask[:, t]):
                    loc, scale = self.moves(z)
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))
                    pyro.sample(
                        f"x_{t}", dist.Bernoulli(logits=self.emits(z)).to_event(1), obs=x[:, t]
                    )

    def guide(self, x, mask):
        pyro.module("dmm", self)
        read, z = self.reads(x.flip(1))[0].flip(1), x.new_zeros(len(x), 1)
        with pyro.plate("row", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=mask[:, t]):
                    loc, scale = self.joins(z, read[:, t])
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, scale).to_event(1))


def deep_markov():
    both = Markovian()
    return both.model, both.guide


def hidden(model, sites, guide=AutoNormal):
    return lambda: (model, guide(poutine.block(model, expose=sites)))


DOCS = {"docs": COUNTS + torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])}
STEPS_MADE = {"steps": torch.tensor([[0.3, 1.1], [0.2, 0.9], [1.4, 0.1]])}
SEQUENCES = {
    "x": BITS[[0, 1, 2, 3, 1, 0]].reshape(2, 3, 4),
    "mask": torch.tensor([[True, True, True], [True, True, False]]),
}
LABELS = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
TREATED = {"x": BITS, "t": torch.tensor([1.0, 0, 1, 0, 1]), "y": torch.tensor([1.0, 0, 1, 1, 0])}
WHOLES = (
    Program("Gaussian process", "`contrib.gp`: `GPRegression` with priors", gaussian_process, {}),
    Program("sparse Gaussian process", "`contrib.gp`: `VariationalSparseGP`", sparse_process, {},
            by_mode=False),
    Program("variational autoencoder", "VAE: `pyro.module` in methods", autoencoder(), {"x": BITS},
            by_mode=False),
    Program("conditional autoencoder", "VAE given labels", autoencoder(2), {"x": BITS, "c": LABELS},
            by_mode=False),
    Program("semi-supervised, labels", "semi-supervised VAE, labels seen", semi_supervised,
            {"x": BITS, "labels": LABELS},
            objective=lambda: TraceEnum_ELBO(max_plate_nesting=1), by_mode=False),
    Program("semi-supervised, no labels", "semi-supervised VAE, labels summed in the guide",
            semi_supervised, {"x": BITS},
            objective=lambda: TraceEnum_ELBO(max_plate_nesting=1), **DRAWN),
    Program("topics", "ProdLDA: `BatchNorm1d`, `Multinomial`", topics, DOCS, "reference",
            "track_running_stats=False",
            note="batch normalisation that runs in training mode",
            objective=TraceMeanField_ELBO, by_mode=False),
    Program("mixed hidden Markov", "mixed HMM", hidden(mixed_markov, ["share", "rate"], AutoDelta),
            STEPS_MADE, plates=1),
    Program("epidemic", "SIR, deterministic steps", lambda: (epidemic, AutoNormal(epidemic)),
            {"cases": torch.tensor([1.0, 2.0, 2.0, 4.0])}),
    Program("deep exponential family", "sparse gamma DEF, a gamma guide",
            lambda: (deep_exponential, deep_guide), {"counts": COUNTS},
            by_mode=False),
    Program("causal autoencoder", "`contrib.cevae`", causal, TREATED, by_mode=False),
    Program("deep Markov model", "DMM: `nn.GRU`, masks, `pyro.markov`", deep_markov, SEQUENCES,
            by_mode=False),
)  # fmt: skip
