"""All of pyro.infer.autoguide, and pyro.contrib.easyguide, on one small hierarchy."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide, easy_guide
from pyro.distributions import constraints
from pyro.infer.autoguide import (
    AutoCallable,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGaussian,
    AutoGuideList,
    AutoHierarchicalNormalMessenger,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    AutoNormalMessenger,
    AutoRegressiveMessenger,
    AutoStructured,
    init_to_feasible,
    init_to_generated,
    init_to_mean,
    init_to_median,
    init_to_sample,
    init_to_uniform,
    init_to_value,
)
from pyro.poutine.guide import GuideMessenger

from tests.programs.laws.program import Program

POSITIVE = constraints.positive
Y = torch.tensor([0.4, 1.3, -0.2, 0.9])
DATA = {"y": Y}


def groups(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
    with pyro.plate("group", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 0.7), obs=y)


def of(guide, **options):
    return lambda: (groups, guide(groups, **options))


def listed():
    guide = AutoGuideList(groups)
    guide.append(AutoMultivariateNormal(poutine.block(groups, expose=["mu", "tau"])))
    guide.append(AutoDelta(poutine.block(groups, hide=["mu", "tau"])))
    return groups, guide


def tau_by_hand(y):
    return {
        "tau": pyro.sample("tau", dist.LogNormal(pyro.param("tau_loc", torch.tensor(0.1)), 0.3))
    }


def with_a_function():
    guide = AutoGuideList(groups)
    guide.append(AutoNormal(poutine.block(groups, hide=["tau"])))
    guide.append(AutoCallable(groups, tau_by_hand))
    return groups, guide


def flow(dimension):
    return dist.transforms.affine_autoregressive(dimension, hidden_dims=[6])


@easy_guide(groups)
def easy(self, y):
    group = self.group(match="mu|tau")
    loc = pyro.param("loc", torch.zeros(group.event_shape))
    scale = pyro.param("scale", 0.3 * torch.ones(group.event_shape), constraint=POSITIVE)
    group.sample("both", dist.Normal(loc, scale).to_event(1))
    with self.plate("group", len(y)):
        pyro.sample("theta", dist.Normal(pyro.param("locs", torch.zeros(len(y))), 0.5))


class Easy(EasyGuide):
    def guide(self, y):
        self.map_estimate("tau")
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.2)), 0.4))
        with self.plate("group", len(y)):
            pyro.sample("theta", dist.Normal(pyro.param("locs", torch.zeros(len(y))), 0.5))


class ByMessages(GuideMessenger):
    """q of a site from its prior, shifted."""

    def get_posterior(self, name, prior):
        loc = pyro.param(f"{name}.loc", torch.tensor(0.1))
        if name == "tau":
            return dist.LogNormal(loc, 0.3)
        return dist.Normal(prior.loc + loc, 0.4)


def beginning(how):
    return lambda: (groups, AutoNormal(groups, init_loc_fn=how))


def at_a_value():
    value = torch.tensor(0.3, dtype=torch.get_default_dtype())
    return groups, AutoNormal(groups, init_loc_fn=init_to_value(values={"mu": value}))


AUTOGUIDES = (
    Program("AutoDelta", "`AutoDelta`", of(AutoDelta), DATA),
    Program("AutoNormal", "`AutoNormal`", of(AutoNormal), DATA),
    Program("AutoDiagonalNormal", "`AutoDiagonalNormal`", of(AutoDiagonalNormal), DATA),
    Program("AutoMultivariateNormal", "`AutoMultivariateNormal`", of(AutoMultivariateNormal), DATA),
    Program("AutoLowRankMultivariateNormal", "`AutoLowRankMultivariateNormal`",
            of(AutoLowRankMultivariateNormal, rank=2), DATA),
    Program("AutoIAFNormal", "`AutoIAFNormal`", of(AutoIAFNormal, hidden_dim=[6]), DATA),
    Program("AutoNormalizingFlow", "`AutoNormalizingFlow`", of(AutoNormalizingFlow, init_transform_fn=flow),
            DATA),
    Program("AutoLaplaceApproximation", "`AutoLaplaceApproximation`", of(AutoLaplaceApproximation), DATA,
            note="trained as a point; becomes the Gaussian of the curvature there"),
    Program("AutoStructured", "`AutoStructured`", of(AutoStructured), DATA),
    Program("AutoGaussian", "`AutoGaussian`", of(AutoGaussian), DATA),
    Program("AutoGuideList", "`AutoGuideList`", listed, DATA),
    Program("AutoCallable", "`AutoCallable`", with_a_function, DATA),
    Program("AutoNormalMessenger", "`AutoNormalMessenger`", of(AutoNormalMessenger), DATA),
    Program("AutoHierarchicalNormalMessenger", "`AutoHierarchicalNormalMessenger`",
            of(AutoHierarchicalNormalMessenger), DATA),
    Program("AutoRegressiveMessenger", "`AutoRegressiveMessenger`", of(AutoRegressiveMessenger), DATA),
    Program("GuideMessenger", "`GuideMessenger`", of(ByMessages), DATA),
    Program("easy_guide", "`easy_guide`, `group`", lambda: (groups, easy), DATA),
    Program("EasyGuide", "`EasyGuide`, `map_estimate`", of(Easy), DATA),
    Program("init_to_value", "`init_to_value`", at_a_value, DATA),
    Program("init_to_mean", "`init_to_mean`", beginning(init_to_mean), DATA),
    Program("init_to_median", "`init_to_median`", beginning(init_to_median), DATA),
    Program("init_to_sample", "`init_to_sample`", beginning(init_to_sample), DATA),
    Program("init_to_uniform", "`init_to_uniform`", beginning(init_to_uniform), DATA),
    Program("init_to_feasible", "`init_to_feasible`", beginning(init_to_feasible), DATA),
    Program("init_to_generated", "`init_to_generated`",
            beginning(init_to_generated(generate=lambda: init_to_median)), DATA),
)  # fmt: skip
