"""A guide that starts at the mode is known by its methods, and says its defaults itself."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam

import guidebook as gb
from guidebook.guides.autoguides.defaults import Defaults
from guidebook.inference.gradient.chosen import default_optimiser
from guidebook.inference.gradient.problem import prepare
from guidebook.inference.gradient.step import Step
from guidebook.inference.protocols.mode import StartsAtMode, defaults_of
from guidebook.programs.batches.source import admitted
from guidebook.programs.sites import latent_sites
from guidebook.scope import local_parameters, precision, random_state

Y = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


def mean(y):
    """mu ~ N(0, 3^2), y_i ~ N(mu, 2^2): the posterior has precision 1/9 + n/4."""
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 2.0), obs=y)


PRECISION = 1 / 9 + 3 / 4
MEAN = 7 / 4 / PRECISION


class Stranger(PyroModule):
    """A guide of nobody's class, with `sites` and `start_at`."""

    defaults = Defaults(steps=7, rate=0.03, particles=3, loc_scatter=0.7, scatter=0.2)

    def __init__(self):
        super().__init__()
        self.sites = ()
        self.loc = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.scale = PyroParam(
            torch.ones((), dtype=torch.float64), constraint=dist.constraints.positive
        )

    def start_at(self, center, factor):
        self.loc.data, self.scale = center[0], factor.reshape(())

    def forward(self, y):
        if not self.sites:
            with poutine.block(), torch.no_grad():
                self.sites = latent_sites(mean, {"y": y})
        return pyro.sample("mu", dist.Normal(self.loc, self.scale))


def prepared(guide, objective=None):
    source = admitted(mean, {"y": Y}, batch_size=None, size=None)
    return prepare(mean, guide, source, objective, torch.device("cpu"), torch.float64, 0)


def test_it_is_started_at_the_mode_in_its_curvature():
    with local_parameters(), precision(torch.float64), random_state(0):
        guide = Stranger()
        assert isinstance(guide, StartsAtMode)
        problem = prepared(guide)
        assert guide.loc.item() == pytest.approx(MEAN, rel=1e-6)
        assert guide.scale.item() == pytest.approx(PRECISION**-0.5, rel=1e-6)
        assert problem.particles == 3
        assert prepared(guide, pyro.infer.Trace_ELBO()).particles == 1  # the caller's own objective
        assert float(default_optimiser(problem, 7).rates[0]) == 0.03
    assert [site.name for site in problem.sites] == ["mu"]


def test_its_restarts_scatter_as_it_says():
    # 400 starts: the sd of each parameter's is within 4.5 standard errors of what the guide says
    with local_parameters(), precision(torch.float64), random_state(0):
        problem = prepared(Stranger())
        step = Step(problem, default_optimiser(problem, 7), 7, 400, "graph")
        spread = dict(zip(step.names, step.state["flat"].std(0).tolist(), strict=True))
    room = 4.5 / math.sqrt(2 * 400)
    assert spread["guide.loc"] == pytest.approx(0.7, rel=room)
    assert spread["guide.scale_unconstrained"] == pytest.approx(0.2, rel=room)


def test_a_fit_takes_its_number_of_steps_and_starts_where_the_optimum_is():
    fit = gb.svi(mean, Stranger(), {"y": Y}, compile="graph", progress=False)
    assert len(fit.history) == 7
    assert fit.guide.loc.item() == pytest.approx(MEAN, abs=0.1)


def test_what_a_guide_does_not_say_is_as_for_any_guide():
    assert not isinstance(AutoNormal(mean), StartsAtMode)
    assert defaults_of(AutoNormal(mean)) == defaults_of(lambda y: None) == Defaults()
    guide = gb.guides.mean_field(mean)
    assert isinstance(guide, StartsAtMode) and defaults_of(guide).standardised
    assert not defaults_of(gb.guides.flow(mean)).standardised  # weights of networks
