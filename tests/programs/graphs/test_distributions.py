"""Every distribution of Pyro: what is recorded is what Pyro computes, or the refusal is listed here."""

import inspect
import warnings
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from guidebook.programs.graphs.recorded import CannotRecord, record, recording
from guidebook.scope import precision, random_state, validation

P = torch.tensor([0.4, 0.7, 1.3])
EYE = torch.eye(3).double()
Maker = Callable[[Tensor], dist.Distribution]


def factor(p: Tensor) -> Tensor:
    """A lower triangular matrix with these numbers on its diagonal."""
    return torch.diag(p) + torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [-0.2, 0.1, 0]]).to(p)


def correlation(p: Tensor) -> Tensor:
    rows = factor(p)
    return rows / rows.norm(dim=-1, keepdim=True)


def mixture(kind, p: Tensor, **more: Tensor) -> dist.Distribution:
    return kind(torch.stack([p, -p]), **more, component_logits=torch.stack([p[0], p[1]]))


CONTINUOUS: dict[str, Maker] = {
    "AVFMultivariateNormal": lambda p: dist.AVFMultivariateNormal(
        p, factor(p), 0.1 * torch.stack([torch.stack([p, p]), torch.stack([-p, p])])
    ),
    "AffineBeta": lambda p: dist.AffineBeta(p + 1, 2.0, p, 3 * p),
    "AsymmetricLaplace": lambda p: dist.AsymmetricLaplace(p, p, 1 + p),
    "Beta": lambda p: dist.Beta(1 + p, 2 * p),
    "Cauchy": lambda p: dist.Cauchy(p, 1 + p),
    "Chi2": lambda p: dist.Chi2(1 + p),
    "ContinuousBernoulli": lambda p: dist.ContinuousBernoulli(logits=p),
    "Delta": lambda p: dist.Delta(p, log_density=p),
    "Dirichlet": lambda p: dist.Dirichlet(1 + p),
    "ExpandedDistribution": lambda p: dist.Normal(p, 1 + p).expand([2, 3]),
    "Exponential": lambda p: dist.Exponential(p),
    "FisherSnedecor": lambda p: dist.FisherSnedecor(2 + p, 3 + p),
    "FoldedDistribution": lambda p: dist.FoldedDistribution(dist.Normal(p, 1 + p)),
    "GammaGaussianHMM": lambda p: dist.GammaGaussianHMM(
        dist.Gamma(1 + p[0], 2.0),
        dist.MultivariateNormal(p, EYE),
        torch.diag(p).expand(2, 3, 3),
        dist.MultivariateNormal(p, EYE),
        EYE,
        dist.MultivariateNormal(p, EYE),
    ),
    "GaussianMRF": lambda p: dist.GaussianMRF(
        dist.MultivariateNormal(p, EYE),
        dist.MultivariateNormal(torch.cat([p, -p]), torch.eye(6).double()).expand([2]),
        dist.MultivariateNormal(torch.cat([p, p]), 2 * torch.eye(6).double()).expand([2]),
    ),
    "Gamma": lambda p: dist.Gamma(1 + p, p),
    "GaussianHMM": lambda p: dist.GaussianHMM(
        dist.Normal(p, 1.0).to_event(1),
        torch.diag(p).expand(2, 3, 3),
        dist.Normal(p, 1.0).to_event(1),
        EYE,
        dist.Normal(p, 0.5).to_event(1),
    ),
    "GaussianScaleMixture": lambda p: dist.GaussianScaleMixture(
        p, p[:2], torch.stack([p[0], 1 + p[1]])
    ),
    "GeneralizedPareto": lambda p: dist.GeneralizedPareto(p, 1 + p, 0.2 * p),
    "GroupedNormalNormal": lambda p: dist.GroupedNormalNormal(
        p, 1 + p, 1 + p[0].expand(4), torch.tensor([0, 1, 2, 2])
    ),
    "Gumbel": lambda p: dist.Gumbel(p, 1 + p),
    "HalfCauchy": lambda p: dist.HalfCauchy(1 + p),
    "HalfNormal": lambda p: dist.HalfNormal(1 + p),
    "ImproperUniform": lambda p: dist.ImproperUniform(dist.constraints.real, (3,), ()),
    "Independent": lambda p: dist.Normal(p, 1 + p).to_event(1),
    "IndependentHMM": lambda p: dist.IndependentHMM(
        dist.GaussianHMM(
            dist.Normal(p[:1].expand(3, 1), 1.0).to_event(1),
            EYE[:1, :1].expand(3, 2, 1, 1),
            dist.Normal(p[:1], 1.0).to_event(1),
            EYE[:1, :1],
            dist.Normal(p[:1], 0.5).to_event(1),
        )
    ),
    "InverseGamma": lambda p: dist.InverseGamma(2 + p, p),
    "Kumaraswamy": lambda p: dist.Kumaraswamy(1 + p, 2 * p),
    "LKJ": lambda p: dist.LKJ(3, p[0]),
    "LKJCholesky": lambda p: dist.LKJCholesky(3, p[0]),
    "Laplace": lambda p: dist.Laplace(p, 1 + p),
    "LinearHMM": lambda p: dist.LinearHMM(
        dist.Normal(p, 1.0).to_event(1),
        torch.diag(p).expand(2, 3, 3),
        dist.StudentT(4.0, p, 1.0).to_event(1),
        EYE,
        dist.StudentT(4.0, p, 0.5).to_event(1),
    ),
    "LogNormal": lambda p: dist.LogNormal(p, 1 + p),
    "Logistic": lambda p: dist.Logistic(p, 1 + p),
    "LogisticNormal": lambda p: dist.LogisticNormal(p, 1 + p),
    "LowRankMultivariateNormal": lambda p: dist.LowRankMultivariateNormal(p, p[:, None], 1 + p),
    "MaskedDistribution": lambda p: dist.Normal(p, 1 + p).mask(torch.tensor([True, False, True])),
    "MaskedMixture": lambda p: dist.MaskedMixture(
        torch.tensor([True, False, True]), dist.Normal(p, 1.0), dist.Normal(-p, 2.0)
    ),
    "MixtureOfDiagNormals": lambda p: mixture(
        dist.MixtureOfDiagNormals, p, coord_scale=torch.stack([p, 1 + p])
    ),
    "MixtureOfDiagNormalsSharedCovariance": lambda p: mixture(
        dist.MixtureOfDiagNormalsSharedCovariance, p, coord_scale=p
    ),
    "MixtureSameFamily": lambda p: dist.MixtureSameFamily(
        dist.Categorical(logits=p), dist.Normal(p, 1 + p)
    ),
    "MultivariateNormal": lambda p: dist.MultivariateNormal(p, scale_tril=factor(p)),
    "MultivariateStudentT": lambda p: dist.MultivariateStudentT(2 + p[0], p, factor(p)),
    "NanMaskedMultivariateNormal": lambda p: dist.NanMaskedMultivariateNormal(
        p, scale_tril=factor(p)
    ),
    "NanMaskedNormal": lambda p: dist.NanMaskedNormal(p, 1 + p),
    "Normal": lambda p: dist.Normal(p, 1 + p),
    "OMTMultivariateNormal": lambda p: dist.OMTMultivariateNormal(p, factor(p)),
    "Pareto": lambda p: dist.Pareto(p, 1 + p),
    "ProjectedNormal": lambda p: dist.ProjectedNormal(p),
    "RelaxedBernoulli": lambda p: dist.RelaxedBernoulli(torch.tensor(0.7), logits=p),
    "RelaxedBernoulliStraightThrough": lambda p: dist.RelaxedBernoulliStraightThrough(
        torch.tensor(0.7), logits=p
    ),
    "RelaxedOneHotCategorical": lambda p: dist.RelaxedOneHotCategorical(
        torch.tensor(0.7), logits=p
    ),
    "RelaxedOneHotCategoricalStraightThrough": (
        lambda p: dist.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.7), logits=p)
    ),
    "SineBivariateVonMises": lambda p: dist.SineBivariateVonMises(
        p[0], p[1], p[0], p[1], p[2] / 10
    ),
    "SineSkewed": lambda p: dist.SineSkewed(dist.VonMises(p[:2], p[1:]).to_event(1), 0.3 * p[:2]),
    "SkewLogistic": lambda p: dist.SkewLogistic(p, 1 + p, 1 + p),
    "SoftAsymmetricLaplace": lambda p: dist.SoftAsymmetricLaplace(p, p, 1 + p),
    "SoftLaplace": lambda p: dist.SoftLaplace(p, 1 + p),
    "Stable": lambda p: dist.Stable(1 + p / 2, p / 2, p, p),
    "StableWithLogProb": lambda p: dist.StableWithLogProb(1 + p / 2, p / 2, p, p),
    "StudentT": lambda p: dist.StudentT(3 + p, p, 1 + p),
    "TransformedDistribution": lambda p: dist.TransformedDistribution(
        dist.Normal(p, 1 + p), [dist.transforms.AffineTransform(p, 2.0)]
    ),
    "TruncatedPolyaGamma": lambda p: dist.TruncatedPolyaGamma(p),
    "Uniform": lambda p: dist.Uniform(-p, p),
    "Unit": lambda p: dist.Unit(p),
    "VonMises": lambda p: dist.VonMises(p, 1 + p),
    "VonMises3D": lambda p: dist.VonMises3D(p),
    "Weibull": lambda p: dist.Weibull(p, 1 + p),
    "Wishart": lambda p: dist.Wishart(5.0, scale_tril=factor(p)),
}

DISCRETE: dict[str, Maker] = {
    "Bernoulli": lambda p: dist.Bernoulli(logits=p),
    "BetaBinomial": lambda p: dist.BetaBinomial(1 + p, p, 5),
    "Binomial": lambda p: dist.Binomial(5, logits=p),
    "Categorical": lambda p: dist.Categorical(logits=p),
    "CoalescentTimes": lambda p: dist.CoalescentTimes(torch.tensor([0.0, 0.1, 0.2]).double(), p[0]),
    "CoalescentTimesWithRate": lambda p: dist.CoalescentTimesWithRate(
        torch.tensor([2.0, 2.0, 3.0]).double(), p
    ),
    "DirichletMultinomial": lambda p: dist.DirichletMultinomial(1 + p, 5),
    "DiscreteHMM": lambda p: dist.DiscreteHMM(
        p, torch.diag(p).expand(2, 3, 3), dist.Normal(p, 1.0)
    ),
    "Empirical": lambda p: dist.Empirical(torch.arange(3), p),
    "ExtendedBetaBinomial": lambda p: dist.ExtendedBetaBinomial(1 + p, p, 5),
    "ExtendedBinomial": lambda p: dist.ExtendedBinomial(5, logits=p),
    "GammaPoisson": lambda p: dist.GammaPoisson(1 + p, p),
    "Geometric": lambda p: dist.Geometric(logits=p),
    "LogNormalNegativeBinomial": lambda p: dist.LogNormalNegativeBinomial(
        1 + p, logits=p, multiplicative_noise_scale=p
    ),
    "Multinomial": lambda p: dist.Multinomial(5, logits=p),
    "NegativeBinomial": lambda p: dist.NegativeBinomial(1 + p, logits=p),
    "OneHotCategorical": lambda p: dist.OneHotCategorical(logits=p),
    "OneHotCategoricalStraightThrough": lambda p: dist.OneHotCategoricalStraightThrough(logits=p),
    "OneOneMatching": lambda p: dist.OneOneMatching(factor(p), bp_iters=10),
    "OneTwoMatching": lambda p: dist.OneTwoMatching(
        torch.cat([factor(p), p.expand(3, 3)]), bp_iters=10
    ),
    "OrderedLogistic": lambda p: dist.OrderedLogistic(p, torch.tensor([-0.5, 0.5, 2.0]).double()),
    "Poisson": lambda p: dist.Poisson(p),
    "SpanningTree": lambda p: dist.SpanningTree(p),
    "ZeroInflatedDistribution": lambda p: dist.ZeroInflatedDistribution(
        dist.Poisson(p), gate_logits=p
    ),
    "ZeroInflatedNegativeBinomial": lambda p: dist.ZeroInflatedNegativeBinomial(
        1 + p, logits=p, gate_logits=p
    ),
    "ZeroInflatedPoisson": lambda p: dist.ZeroInflatedPoisson(p, gate_logits=p),
}

ALL = CONTINUOUS | DISCRETE

VALUES = {
    "CoalescentTimesWithRate": torch.tensor([0.5, 1.5]),
    "GammaGaussianHMM": torch.ones(2, 3),
    "GaussianMRF": torch.ones(2, 3),
    "GroupedNormalNormal": torch.ones(4),
    "LogNormalNegativeBinomial": torch.ones(3),
    "OneOneMatching": torch.tensor([1, 0, 2]),
    "OneTwoMatching": torch.tensor([0, 0, 1, 1, 2, 2]),
    "Unit": torch.zeros(0),
    "VonMises3D": torch.tensor([0.6, 0.8, 0.0]),
}
"""Of those that Pyro cannot draw from, values at which the density is taken."""

NO_DENSITY = {"LinearHMM", "GaussianScaleMixture"}
"""Pyro itself cannot compute it, or not its gradient."""

NO_GRAPH = {
    "CoalescentTimes": "draws",  # lists of Python numbers
    "GaussianScaleMixture": "draws",
    "DiscreteHMM": "draws",  # a state as an index
    "OneOneMatching": "both",  # belief propagation until it stands still
    "OneTwoMatching": "both",
    "SineBivariateVonMises": "both",  # rejection sampling; a constant found by a loop
    "SineSkewed": "both",
    "SpanningTree": "draws",
    "Stable": "density",  # an integral whose method depends on the values
    "StableWithLogProb": "density",
    "VonMises": "draws",
    "Wishart": "draws",  # drawn again where singular
}
"""What is refused, because its computation depends on values; such a fit takes the reference path."""

NO_DRAWS = {*VALUES, "ImproperUniform"}
ABSTRACT = {"Distribution", "ExponentialFamily", "LKJCorrCholesky", "Rejector", "TorchDistribution"}


def test_none_is_missing():
    kinds = {
        name
        for name, kind in vars(dist).items()
        if inspect.isclass(kind) and issubclass(kind, dist.Distribution)
    }
    assert kinds - ABSTRACT == set(ALL)


@pytest.fixture(autouse=True)
def as_a_fit_has_it():
    with precision(torch.float64), validation(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def density(name: str) -> Callable[[Tensor], Tensor]:
    """log p(value) as a function of the parameters."""
    with random_state(0):
        value = VALUES.get(name, P)
        if name not in NO_DRAWS:
            value = ALL[name](P.double()).sample()
    value = value.double() if value.is_floating_point() else value
    return lambda p: ALL[name](p).log_prob(value).sum() + 0 * p.sum()


def draw(name: str) -> Callable[[Tensor], Tensor]:
    """The numbers of a draw, weighted and summed, so that no two may change places."""

    def summed(p: Tensor) -> Tensor:
        family = ALL[name](p)
        value = family.rsample() if family.has_rsample else family.sample()
        weights = torch.arange(1.0, 1 + value.numel()).reshape(value.shape).to(p)
        return (value * weights).sum() + 0 * p.sum()

    return summed


SLOW = {name for name in ALL if name.endswith(("HMM", "MRF", "Stable", "StableWithLogProb"))}
CASES = [(name, density, "density") for name in ALL if name not in NO_DENSITY] + [
    (name, draw, "draws") for name in ALL if name not in NO_DRAWS
]


@pytest.mark.parametrize(
    ("name", "of", "part"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[2]}", marks=[pytest.mark.slow] * (case[0] in SLOW))
        for case in CASES
    ],
)
def test_the_graph_has_the_values_and_the_gradient_that_torch_has(name, of, part):
    """One parameter vector, then two at once under vmap, as for particles and draws."""
    function, p = of(name), P.double()
    both = lambda q: vmap(grad_and_value(function), randomness="different")(q)  # noqa: E731
    at_two = torch.stack([p, p])
    if NO_GRAPH.get(name) in (part, "both"):
        with pytest.raises(CannotRecord):
            record(grad_and_value(function), p.clone())
        return
    with random_state(1):
        free = p.clone().requires_grad_()
        value = function(free)
        (slope,) = torch.autograd.grad(value, free)
    graph = record(grad_and_value(function), p.clone())
    with random_state(1):
        found = graph(p)
    torch.testing.assert_close(found, (slope, value.detach()), rtol=1e-8, atol=1e-10)
    if name in ("Stable", "StableWithLogProb"):  # the draws choose rows by a mask
        return
    slopes, values = record(both, at_two.clone())(at_two)
    if part == "density":
        torch.testing.assert_close(values, value.detach().expand(2), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(slopes, slope.expand(2, 3), rtol=1e-8, atol=1e-10)
    assert values.isfinite().all() and slopes.isfinite().all()


@pytest.mark.parametrize(
    "name", ["Beta", "Cauchy", "Exponential", "Gamma", "Dirichlet", "Multinomial"]
)
def test_draws_at_once_are_independent(name):
    """Under vmap no two particles have the same draw; the chance of it is at most 1e-3 (Multinomial)."""
    p = P.double()
    with recording(), random_state(0):
        values = vmap(draw(name), randomness="different")(p.expand(3, 3))
    assert len(set(values.tolist())) > 1
