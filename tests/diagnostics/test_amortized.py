"""Row by row: exact encoders are trusted, poor ones are not, and the bound is the evidence."""

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.verdict import Verdict
from guidebook.guides import AmortizedNormal, LinearGaussianPosterior
from guidebook.models import LinearVAE


@pytest.fixture(scope="module")
def problem() -> tuple[LinearVAE, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 6, generator=generator)
    x = torch.randn(80, 2, generator=generator) @ factors
    x = x + 0.3 * torch.randn(80, 6, generator=generator)
    return LinearVAE.maximum_likelihood(x, 2).requires_grad_(False), {"x": x}


def test_the_exact_posterior_is_trusted_and_its_bound_is_the_evidence(problem) -> None:
    model, data = problem
    guide = LinearGaussianPosterior(model)
    found = gb.compare({"exact": gb.exact(model, guide, data)})
    assert found.verdicts["exact"] is Verdict.TRUST
    evidence = float(guide.log_evidence(data["x"]).sum())
    assert found.table.loc["exact", "log_evidence"] == pytest.approx(evidence, rel=1e-4)


def test_an_untrained_encoder_is_not(problem) -> None:
    model, data = problem
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = AmortizedNormal(torch.nn.Linear(6, 4), 2)
    fit = gb.svi(model, guide, data, steps=100, compile="graph", progress=False)
    found = gb.compare({"q": fit})
    assert found.verdicts["q"] is not Verdict.TRUST
    numbers = found.amortized["q"]
    assert numbers.data.shape == numbers.reconstruction.shape == (80, 6)
    assert numbers.latent_mean.shape == (80, 2) and numbers.traversals.shape[0] == 2
    assert (numbers.bound >= numbers.elbo - 1e-6).all()
    assert np.isfinite(numbers.prior_samples).all()
