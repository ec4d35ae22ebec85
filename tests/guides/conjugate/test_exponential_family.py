"""Exponential families: autodiff, torch.distributions and quadrature know what must come out."""

import numpy as np
import pytest
import torch
import torch.distributions as td
from scipy import integrate, stats

from guidebook.guides.conjugate.exponential_family import (
    Categorical,
    Dirichlet,
    Gamma,
    MultivariateNormal,
    Normal,
    NormalWishart,
    kl_divergence,
)


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def positive(*shape):
    return wide(*shape).exp() + 0.1


def definite(*shape):
    root = wide(*shape, shape[-1])
    return root @ root.mT + torch.eye(shape[-1], dtype=torch.float64)


def normal_wishart(D):
    return {"loc": wide(2, D), "mean_precision": positive(2), "df": D - 1 + positive(2),
            "inverse_scale": definite(2, D)}  # fmt: skip


CASES = {
    "categorical": (Categorical(4), lambda: {"probs": wide(2, 4).softmax(-1)}),
    "dirichlet": (Dirichlet(), lambda: {"concentration": positive(2, 4)}),
    "gamma": (Gamma(), lambda: {"concentration": positive(2), "rate": positive(2)}),
    "normal": (Normal(), lambda: {"loc": wide(2), "scale": positive(2)}),
    "multivariate-normal": (
        MultivariateNormal(3),
        lambda: {"loc": wide(2, 3), "precision": definite(2, 3)},
    ),
    "normal-wishart-1": (NormalWishart(1), lambda: normal_wishart(1)),
    "normal-wishart-3": (NormalWishart(3), lambda: normal_wishart(3)),
}
IN_TORCH = [name for name in CASES if "wishart" not in name]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def case(request):
    return CASES[request.param]


def torch_distribution(name, standard):
    if name == "multivariate-normal":
        return td.MultivariateNormal(standard["loc"], precision_matrix=standard["precision"])
    kinds = {"categorical": td.Categorical, "dirichlet": td.Dirichlet, "gamma": td.Gamma,
             "normal": td.Normal}  # fmt: skip
    return kinds[name](**standard)


def wishart_pair(standard):
    """The Wishart, and the normal given its precision matrix, of torch."""
    wishart = td.Wishart(standard["df"], precision_matrix=standard["inverse_scale"])

    def normal(precision):
        scaled = standard["mean_precision"][..., None, None] * precision
        return td.MultivariateNormal(standard["loc"], precision_matrix=scaled)

    return wishart, normal


def log_density(family, eta, *values):
    inner = (eta * family.statistics(*values)).sum(-1)
    return inner - family.log_normaliser(eta) + family.log_base(*values)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_the_gradient_of_the_log_normaliser_is_the_mean(case):
    family, make = case
    eta = family.natural(**make()).requires_grad_()
    (gradient,) = torch.autograd.grad(family.log_normaliser(eta).sum(), eta)
    torch.testing.assert_close(family.mean(eta.detach()), gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_standard_and_natural_parameters_are_inverses(case):
    family, make = case
    standard = make()
    eta = family.natural(**standard)
    back = family.standard(eta)
    assert back.keys() == standard.keys()
    for name, value in standard.items():
        torch.testing.assert_close(back[name], value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(family.natural(**back), eta, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_every_method_maps_over_leading_dimensions(case):
    family, make = case
    eta = family.natural(**make())
    for method in (family.mean, family.log_normaliser):
        one_by_one = torch.stack([method(row) for row in eta])
        torch.testing.assert_close(method(eta), one_by_one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", IN_TORCH)
def test_density_is_that_of_torch(name):
    family, make = CASES[name]
    standard = make()
    reference = torch_distribution(name, standard)
    value = reference.sample(torch.Size([50]))
    found = log_density(family, family.natural(**standard), value)
    torch.testing.assert_close(found.double(), reference.log_prob(value), rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:Low df values")  # of torch: its sampler is not used
@pytest.mark.parametrize("D", [1, 3])
def test_normal_wishart_density_is_torchs_wishart_times_its_normal(D):
    family, standard = NormalWishart(D), normal_wishart(D)
    wishart, normal = wishart_pair(standard)
    precision = definite(20, 2, D)
    mean = normal(precision).sample()
    expected = wishart.log_prob(precision) + normal(precision).log_prob(mean)
    found = log_density(family, family.natural(**standard), mean, precision)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_normal_wishart_in_one_dimension_is_normal_gamma():
    standard = normal_wishart(1)
    tau, mean = positive(20, 2), wide(20, 2)
    of_tau = td.Gamma(standard["df"] / 2, standard["inverse_scale"][:, 0, 0] / 2)
    spread = (standard["mean_precision"] * tau).rsqrt()
    expected = of_tau.log_prob(tau) + td.Normal(standard["loc"][:, 0], spread).log_prob(mean)
    family = NormalWishart(1)
    eta = family.natural(**standard)
    found = log_density(family, eta, mean.unsqueeze(-1), tau[..., None, None])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", IN_TORCH)
def test_kl_is_that_of_torch(name):
    family, make = CASES[name]
    q, p = make(), make()
    expected = td.kl_divergence(torch_distribution(name, q), torch_distribution(name, p))
    found = kl_divergence(family, family.natural(**q), family.natural(**p))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_kl_of_the_normal_gamma_is_its_chain_rule():
    """KL(Gamma) + E KL(normal), the second from the variance ratio and the distance of the means."""
    q, p = normal_wishart(1), normal_wishart(1)
    gammas = [td.Gamma(s["df"] / 2, s["inverse_scale"][:, 0, 0] / 2) for s in (q, p)]
    ratio = p["mean_precision"] / q["mean_precision"]
    apart = p["mean_precision"] * (q["loc"] - p["loc"])[:, 0].square() * gammas[0].mean
    expected = td.kl_divergence(*gammas) + 0.5 * (ratio - 1 - ratio.log() + apart)
    family = NormalWishart(1)
    found = kl_divergence(family, family.natural(**q), family.natural(**p))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_kl_of_the_normal_gamma_by_quadrature():
    """The two-dimensional integral of q log q / p, in (mean, log tau)."""
    family = NormalWishart(1)
    make = {"loc": torch.tensor([0.4]), "mean_precision": torch.tensor(2.0),
            "df": torch.tensor(7.0), "inverse_scale": torch.tensor([[3.0]])}  # fmt: skip
    q = family.natural(**{n: v.double() for n, v in make.items()})
    other = {**make, "loc": torch.tensor([-0.2]), "df": torch.tensor(4.0)}
    p = family.natural(**{n: v.double() for n, v in other.items()})
    mean = torch.linspace(-5, 6, 1001, dtype=torch.float64)
    log_tau = torch.linspace(-5, 5, 801, dtype=torch.float64)
    grid_mean, grid_log = torch.meshgrid(mean, log_tau, indexing="ij")
    at = grid_mean.unsqueeze(-1), grid_log.exp()[..., None, None]
    log_q, log_p = log_density(family, q, *at), log_density(family, p, *at)
    weight = (log_q + grid_log).exp()
    inner = [integrate.trapezoid(f, log_tau) for f in (weight, weight * (log_q - log_p))]
    mass, expected = (integrate.trapezoid(f, mean) for f in inner)
    assert mass == pytest.approx(1, abs=1e-5)
    assert float(kl_divergence(family, q, p)) == pytest.approx(expected, abs=1e-4)


def test_kl_of_the_normal_wishart_by_monte_carlo():
    # 20,000 draws; within five standard errors of both members: false alarm 1e-6, fixed seed.
    family = NormalWishart(3)
    q = {**normal_wishart(3), "df": torch.tensor([6.0, 9.5], dtype=torch.float64)}
    p = {n: v * 1.1 for n, v in q.items()}
    drawn = [
        stats.wishart(float(df), np.linalg.inv(inverse.numpy())).rvs(20_000, random_state=1)
        for df, inverse in zip(q["df"], q["inverse_scale"], strict=True)
    ]
    precision = torch.from_numpy(np.stack(drawn, 1))
    _, normal = wishart_pair(q)
    mean = normal(precision).sample()
    eta_q, eta_p = family.natural(**q), family.natural(**p)
    ratio = log_density(family, eta_q, mean, precision) - log_density(
        family, eta_p, mean, precision
    )
    error = ratio.std(0) / len(ratio) ** 0.5
    found = kl_divergence(family, eta_q, eta_p)
    assert bool(((found - ratio.mean(0)).abs() < 5 * error).all()), (found, ratio.mean(0), error)
    assert bool((error < 0.02).all())


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_kl_is_zero_to_itself_and_positive_to_another(case):
    family, make = case
    q, p = family.natural(**make()), family.natural(**make())
    zero = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(kl_divergence(family, q, q), zero, rtol=0, atol=1e-9)
    assert bool((kl_divergence(family, q, p) > 1e-3).all())


def test_joining_is_the_inverse_of_splitting():
    family = NormalWishart(3)
    flat = wide(2, 1 + 9 + 3 + 1)
    torch.testing.assert_close(family.join(*family.split(flat)), flat, rtol=0, atol=0)
