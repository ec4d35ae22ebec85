"""Effect handlers, and the statements that are no sample: factor, deterministic, mask."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal

from tests.programs.laws.program import UNRECORDED, Program

X = torch.tensor([-1.2, -0.4, 0.1, 0.8, 1.5])
Y = torch.tensor([-2.0, -0.7, 0.4, 1.9, 2.8])
DATA = {"x": X, "y": Y}


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def by(model, guide=AutoNormal, **options):
    """Makes the pair of a model function and an autoguide of it."""
    return lambda: (model, guide(model, **options))


def tempered(x, y=None):
    with poutine.scale(scale=0.5):
        return line(x, y)


def partly_masked(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)), poutine.mask(mask=x > -1.0):
        return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def masked_distribution(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, 1.0).mask(x < 1.0), obs=y)


def imputed(x, y=None):
    """Rows whose mask is False are latent, `y_unobserved`."""
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y, obs_mask=x < 1.0)


def free(x):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    level = pyro.sample("level", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(level + slope * x, 1.0))


conditioned = poutine.condition(free, data={"y": Y.double()})
intervened = poutine.condition(poutine.do(free, data={"level": torch.tensor(0.3).double()}),
                               data={"y": Y.double()})  # fmt: skip


def parametric(x, y=None):
    slope = pyro.param("slope", torch.tensor(0.5))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def lifted():
    model = poutine.lift(parametric, prior={"slope": dist.Normal(0.0, 2.0)})
    return model, AutoNormal(model)


configured = poutine.infer_config(line, config_fn=lambda site: {"asked": site["name"]})
unconditioned = poutine.uncondition(line)


def equal(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)


tied = poutine.equalize(equal, ["a", "b"])


def penalised(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    pyro.factor("penalty", -slope.abs())
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def derived(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        mean = pyro.deterministic("mean", slope * x)
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def seeded(x, y=None):
    with poutine.seed(rng_seed=3):
        shift = torch.randn(len(x))
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope * x + 0.1 * shift, 1.0), obs=y)


def widened(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with poutine.broadcast(), pyro.plate("row", len(x)):
        return pyro.sample("y", dist.Normal(slope, 1.0), obs=y)


def in_two_parts():
    """A function of two guides, from each of which a part of the model is hidden."""
    first = AutoNormal(poutine.block(line, hide=["noise"]))
    second = AutoDiagonalNormal(poutine.block(line, expose=["noise"]))

    def guide(x, y=None):
        first(x, y)
        second(x, y)

    return line, guide


HANDLERS = (
    Program("line", "`pyro.sample`, `obs=`", by(line), DATA),
    Program("scale", "`poutine.scale`", by(tempered), DATA),
    Program("mask", "`poutine.mask`", by(partly_masked), DATA),
    Program("masked distribution", "`Distribution.mask`", by(masked_distribution), DATA),
    Program("obs_mask", "`pyro.sample(obs_mask=)`", by(imputed), DATA),
    Program("condition", "`poutine.condition`", by(conditioned), {"x": X}),
    Program("do", "`poutine.do`", by(intervened), {"x": X}),
    Program("lift", "`poutine.lift`", lifted, DATA),
    Program("infer_config", "`poutine.infer_config`", by(configured), DATA),
    Program("uncondition", "`poutine.uncondition`", by(unconditioned), DATA),
    Program("equalize", "`poutine.equalize`", by(tied), DATA),
    Program(
        "seed",
        "`poutine.seed`",
        by(seeded),
        DATA,
        "reference",
        "sets the seed of torch's random",
        unsampled=UNRECORDED,
    ),
    Program("broadcast", "`poutine.broadcast`", by(widened), DATA),
    Program("block", "`poutine.block` in a guide", in_two_parts, DATA),
    Program("factor", "`pyro.factor`", by(penalised), DATA),
    Program("deterministic", "`pyro.deterministic`", by(derived), DATA),
)
