"""pyro.infer.reparam: models whose sites are written in other coordinates."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoIAFNormal, AutoNormal
from pyro.infer.reparam import (
    AutoReparam,
    DiscreteCosineReparam,
    GumbelSoftmaxReparam,
    HaarReparam,
    LatentStableReparam,
    LinearHMMReparam,
    LocScaleReparam,
    MinimalReparam,
    NeuTraReparam,
    ProjectedNormalReparam,
    SplitReparam,
    StableReparam,
    StructuredReparam,
    StudentTReparam,
    SymmetricStableReparam,
    TransformReparam,
    UnitJacobianReparam,
)

from tests.programs.laws.program import UNRECORDED, Program

Y = torch.tensor([0.4, 1.3, -0.2, 0.9])


def schools(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 0.7), obs=y)


def log_normal(y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    shift = pyro.sample(
        "shift",
        dist.TransformedDistribution(
            dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(0.5, 2.0)
        ),
    )
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(shift, scale), obs=y)


def heavy(y):
    mean = pyro.sample("mean", dist.StudentT(4.0, 0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 0.7), obs=y)


def stable(y):
    mean = pyro.sample("mean", dist.Stable(1.5, 0.2, 0.5, 0.1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 0.7), obs=y)


def stable_likelihood(y):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.3))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Stable(1.5, 0.0, scale, loc), obs=y)


def walk(y):
    path = pyro.sample("path", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    pyro.sample("y", dist.Normal(path.cumsum(-1), 0.5).to_event(1), obs=y)


def direction(y):
    where = pyro.sample("where", dist.ProjectedNormal(torch.tensor([0.5, 0.2])))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(where[0], 0.7), obs=y)


def relaxed(y):
    choice = pyro.sample(
        "choice", dist.RelaxedOneHotCategorical(torch.tensor(0.8), logits=torch.tensor([0.1, 0.7]))
    )
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(choice[0], 0.7), obs=y)


def linear_chain(y):
    scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.3))
    one = torch.eye(1)
    chain = dist.LinearHMM(
        dist.StudentT(4.0, 0.0, 1.0).expand([1]).to_event(1), one,
        dist.StudentT(4.0, 0.0, scale).expand([1]).to_event(1), one,
        dist.StudentT(4.0, 0.0, 0.5).expand([1]).to_event(1), duration=len(y),
    )  # fmt: skip
    pyro.sample("y", chain, obs=y[:, None])


def by(model, config, guide=AutoNormal):
    """The model with its sites moved, and an autoguide of that."""

    def made():
        moved = poutine.reparam(model, config=config() if isinstance(config, type) else config)
        return moved, guide(moved)

    return made


def neural_transport():
    """Coordinates from a guide that was not trained: its map is any."""
    first = AutoIAFNormal(schools, hidden_dim=[6])
    first(Y.to(torch.get_default_dtype()))
    moved = NeuTraReparam(first).reparam(schools)
    return moved, AutoNormal(moved)


def structured():
    from pyro.infer.autoguide import AutoStructured

    first = AutoStructured(schools, conditionals="normal", dependencies="linear")
    first(Y.to(torch.get_default_dtype()))
    moved = StructuredReparam(first).reparam(schools)
    return moved, AutoNormal(moved)


@poutine.reparam(config={"theta": LocScaleReparam(0.0)})
def decorated(y):
    schools(y)


DATA = {"y": Y}
REPARAMETERISED = (
    Program("LocScaleReparam(0)", "`LocScaleReparam(0.0)`", by(schools, {"theta": LocScaleReparam(0.0)}),
            DATA),
    Program("LocScaleReparam", "`LocScaleReparam()`, centring learnt",
            by(schools, {"theta": LocScaleReparam()}), DATA),
    Program("reparam as decorator", "`@poutine.reparam`", lambda: (decorated, AutoNormal(decorated)), DATA),
    Program("AutoReparam", "`AutoReparam`", by(schools, AutoReparam), DATA),
    Program("MinimalReparam", "`MinimalReparam`", by(stable, MinimalReparam), DATA),
    Program("TransformReparam", "`TransformReparam`",
            by(log_normal, {"shift": TransformReparam(), "scale": TransformReparam()}), DATA),
    Program("StudentTReparam", "`StudentTReparam`", by(heavy, {"mean": StudentTReparam()}), DATA),
    Program("LatentStableReparam", "`LatentStableReparam`", by(stable, {"mean": LatentStableReparam()}),
            DATA),
    Program("StableReparam", "`StableReparam`", by(stable_likelihood, {"y": StableReparam()}), DATA),
    Program("SymmetricStableReparam", "`SymmetricStableReparam`",
            by(stable_likelihood, {"y": SymmetricStableReparam()}), DATA, "reference", "reads the value",
            unsampled=UNRECORDED),
    Program("ProjectedNormalReparam", "`ProjectedNormalReparam`",
            by(direction, {"where": ProjectedNormalReparam()}), DATA),
    Program("GumbelSoftmaxReparam", "`GumbelSoftmaxReparam`",
            by(relaxed, {"choice": GumbelSoftmaxReparam()}), DATA),
    Program("DiscreteCosineReparam", "`DiscreteCosineReparam`", by(walk, {"path": DiscreteCosineReparam()}),
            DATA),
    Program("HaarReparam", "`HaarReparam`", by(walk, {"path": HaarReparam()}), DATA),
    Program("UnitJacobianReparam", "`UnitJacobianReparam`",
            by(walk, {"path": UnitJacobianReparam(dist.transforms.Permute(torch.tensor([3, 1, 0, 2])))}),
            DATA),
    Program("SplitReparam", "`SplitReparam`", by(walk, {"path": SplitReparam([1, 3], -1)}), DATA),
    Program("LinearHMMReparam", "`LinearHMMReparam`",
            by(linear_chain, {"y": LinearHMMReparam(*[StudentTReparam()] * 3)}), DATA),
    Program("NeuTraReparam", "`NeuTraReparam`", neural_transport, DATA),
    Program("StructuredReparam", "`StructuredReparam`", structured, DATA),
)  # fmt: skip
