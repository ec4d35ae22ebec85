"""Collapse: deliberately collapsed models are called so, healthy ones are not, and the numbers are
those of closed forms.
"""

import copy
import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import guidebook as gb
from guidebook.diagnostics.amortized.collapse import (
    _by_spacing,
    active_dimensions,
    collapse,
)
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.diagnostics.measures.information import Estimate
from guidebook.errors import GuideError
from guidebook.guides import AmortizedNormal, LinearGaussianPosterior
from guidebook.models import VAE, LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters

N, P, D = 400, 6, 2


def data() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator) @ torch.randn(D, P, generator=generator)
    return {"x": x + 0.3 * torch.randn(N, P, generator=generator)}


def trained(scale: float):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(P, D, (16,), likelihood="gaussian", scale=scale)
        guide = AmortizedNormal(mlp((P, 16, 2 * D)), D)
    return gb.svi(model, guide, data(), steps=1500, batch_size=100, compile="graph", progress=False)


@pytest.fixture(scope="module")
def healthy():
    return trained(0.3)


def test_a_healthy_one_is_not_called_collapsed(healthy) -> None:
    found = collapse(healthy)
    assert not found.collapsed and found.active.all()
    assert found.swapped.value > 10 and found.from_prior.value > 10
    assert found.kl.sum() > 2 and found.names == ("z[0]", "z[1]")
    # ELBO surgery: the parts sum to the KL
    total = found.information.value + found.marginal_kl.value
    assert total == pytest.approx(found.kl.sum(), abs=0.15)
    assert "2 of 2" in found.sentence() and "Collapsed" not in found.sentence()


def test_a_huge_scale_collapses_the_posterior_and_the_page_says_so() -> None:
    with pytest.warns(UserWarning, match="The posterior collapsed: none of 2"):
        fit = trained(100.0)
    found = collapse(fit)
    assert found.collapsed and not found.active.any() and found.ignored
    assert found.kl.sum() < 0.05 and "Collapsed: 0 of 2" in found.sentence()
    judged = gb.compare({"q": fit})
    assert "Collapsed" in judged.table.loc["q", "reason"]
    assert "warm-up" in judged.table.loc["q", "next"]
    assert any("Collapsed" in said for said in judged.witnesses["q"])


def test_an_exactly_matched_collapse_is_a_trusted_posterior_of_a_useless_model() -> None:
    model = LinearVAE(P, D).requires_grad_(False)
    with torch.no_grad():
        model.weight.zero_()
    fit = gb.exact(model, LinearGaussianPosterior(model), data())
    judged = gb.compare({"exact": fit})
    assert judged.verdicts["exact"] is Verdict.TRUST
    assert judged.table.loc["exact", "reason"].startswith("Collapsed")


def test_a_decoder_that_ignores_z_is_found_whatever_the_encoder_does(healthy) -> None:
    model = copy.deepcopy(healthy.model)
    with torch.no_grad():
        next(model.decoder.parameters()).zero_()
    found = collapse(dataclasses.replace(healthy, model=model))
    assert found.active.all() and found.ignored and found.collapsed
    assert found.swapped.value == pytest.approx(0.0, abs=1e-4)
    assert "the decoder ignores z" in found.sentence()


def test_numbers_of_an_exact_linear_posterior() -> None:
    """KL per dimension, active units and mutual information of Gaussians in closed form."""
    x = data()["x"].double()
    model = LinearVAE.maximum_likelihood(x, D).double().requires_grad_(False)
    guide = LinearGaussianPosterior(model)
    found = collapse(gb.exact(model, guide, {"x": x}), draws=400)
    q = guide.posterior(x)
    prior = Normal(0.0, 1.0)
    expected = kl_divergence(Normal(q.mean, q.variance.sqrt()), prior).mean(0)
    np.testing.assert_allclose(found.kl, expected, rtol=1e-6)
    # at the maximum of likelihood the aggregated posterior has the prior's moments
    np.testing.assert_allclose(found.variance + q.variance[0].numpy(), 1.0, atol=0.02)
    # the swap: E |W (z_i - z_k)|^2 / (2 s^2) with the cross term of the residual, by enumeration
    m, S = q.mean, q.covariance_matrix[0]
    W, s2 = model.weight, model.log_scale.exp() ** 2
    residual = x[:, None] - model.bias - m[None] @ W.mT
    noise = torch.trace(W @ S @ W.mT)
    table = -0.5 * (residual.square().sum(-1) + noise) / s2
    own = table.diagonal()
    other = (table.sum(1) - own) / (len(x) - 1)
    assert found.swapped.value == pytest.approx(float((own - other).mean()), rel=0.05)


def test_kl_by_dimension_during_training(healthy) -> None:
    x = data()["x"]
    q = healthy.guide.posterior(x)
    expected = kl_divergence(Normal(q.mean, q.variance.sqrt()), Normal(0.0, 2.0)).mean(0)
    found = active_dimensions(healthy.guide, x, prior_scale=2.0)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert len(pyro.get_param_store()) == 0
    np.testing.assert_allclose(
        active_dimensions(healthy.guide, x).numpy(), collapse(healthy).kl, rtol=1e-4
    )


def test_spacings_give_the_kl_of_normals() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, sd = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.5, 0.1])
    z = mean + sd * torch.randn(2000, 100, 3, generator=generator)
    found = _by_spacing(z, Normal(torch.zeros_like(z), 1.0)).mean(0)
    expected = kl_divergence(Normal(mean, sd), Normal(0.0, 1.0))
    # unbiased where q is the prior: se of 100 rows below 0.003; elsewhere the bias is hundredths
    assert abs(float(found[0])) < 0.01
    np.testing.assert_allclose(found, expected, atol=0.06)


class Bent(AmortizedNormal):
    """A normal whose log density is not known to be one: what a flow looks like from outside."""

    def posterior(self, x):
        shift = dist.transforms.AffineTransform(0.0, 1.0)
        base = super().posterior(x).base_dist
        return dist.TransformedDistribution(base, [shift]).to_event(1)


def test_a_posterior_that_is_not_normal_is_measured_by_draws(healthy) -> None:
    encoder = mlp((P, 16, 2 * D))
    encoder.load_state_dict(healthy.guide.encoder.state_dict())
    with local_parameters():
        guide = Bent(encoder, D)
    found = collapse(dataclasses.replace(healthy, guide=guide), draws=400)
    exact = collapse(healthy)
    np.testing.assert_allclose(found.kl, exact.kl, rtol=0.1)
    np.testing.assert_allclose(found.variance, exact.variance, rtol=0.02)
    assert not found.collapsed


@pytest.mark.parametrize(
    ("value", "se", "ignored"),
    [(0.099, 0.0, True), (0.101, 0.0, False), (0.05, 0.024, True), (0.05, 0.026, False)],
)
def test_a_swap_that_costs_a_tenth_of_a_nat_is_no_collapse(
    healthy, value: float, se: float, ignored: bool
) -> None:
    """Two standard errors included; the limit of the mutual information is that of 400 rows."""
    found = dataclasses.replace(collapse(healthy, draws=20), swapped=Estimate(value, se))
    assert found.ignored is ignored and found.collapsed is ignored
    assert ("ignores z" in found.sentence()) is ignored
    assert found.limit == pytest.approx(math.log(400))


def test_a_dimension_is_active_above_a_hundredth_of_the_prior_variance(healthy) -> None:
    found = dataclasses.replace(collapse(healthy, draws=20), variance=np.array([0.0099, 0.0101]))
    assert found.active.tolist() == [False, True] and not found.collapsed
    still = np.array([0.0099, 0.0])
    assert dataclasses.replace(found, variance=still, kl=np.array([0.0, 0.049])).collapsed
    # means that do not move, and a q far from the prior: mirrored branches
    assert not dataclasses.replace(found, variance=still, kl=np.array([0.0, 0.051])).collapsed


def test_guides_without_rows_are_refused() -> None:
    schools = gb.models.eight_schools
    fit = gb.svi(
        schools, gb.guides.mean_field(schools), gb.datasets.eight_schools(), steps=20,
        compile="graph", progress=False,
    )  # fmt: skip
    with pytest.raises(GuideError, match="AmortizedNormal"):
        collapse(fit)
