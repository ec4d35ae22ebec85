"""Row by row: exact encoders are trusted, poor ones are not, and the bound is the evidence."""

import dataclasses

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.amortized.assess import assess_rows
from guidebook.diagnostics.amortized.weights import weigh
from guidebook.diagnostics.judging.findings import Verdict
from guidebook.guides import AmortizedNormal, LinearGaussianPosterior
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.flow import AmortizedFlow, flow_width
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.models import VAE, LinearVAE
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE


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


@pytest.fixture(scope="module")
def untrained(problem) -> gb.Fit:
    """A linear encoder after a hundred steps."""
    model, data = problem
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide = AmortizedNormal(torch.nn.Linear(6, 4), 2)
    return gb.svi(model, guide, data, steps=100, compile="graph", progress=False)


def test_an_untrained_encoder_is_not(untrained) -> None:
    found = gb.compare({"q": untrained})
    assert found.verdicts["q"] is not Verdict.TRUST
    numbers = found.amortized["q"]
    assert numbers.data.shape == numbers.reconstruction.shape == (80, 6)
    assert numbers.latent_mean.shape == (80, 2) and numbers.traversals.shape[0] == 2
    assert (numbers.bound >= numbers.elbo - 1e-6).all()
    assert np.isfinite(numbers.prior_samples).all()


def test_the_numbers_name_their_rows_and_their_errors(problem, untrained) -> None:
    _, data = problem
    told = {
        "held_out_rows": 1143, "held_out_bound": -17.284, "held_out_error": 0.31,
        "training_bound": -15.03, "overfitting": "Overfitting: the bound fell.",
    }  # fmt: skip
    fit = dataclasses.replace(untrained, notes={**untrained.notes, **told})
    assessment, numbers = assess_rows(fit, held_out=data["x"][:20] + 0.1)
    assert "Overfitting: the bound fell." in assessment.witnesses
    assert (
        "Bound of 1,143 rows held out of the fit: -17.28 nats a row (standard error 0.3); of the "
        "training rows: -15.03."
    ) in assessment.witnesses
    np.testing.assert_array_equal(numbers.index, np.arange(80))
    finite = np.isfinite(numbers.khat)
    # (1 + k) / sqrt(M), M = 3 sqrt(2000) weights in the tail
    expected = (1 + np.maximum(numbers.khat, 0)) / np.sqrt(3 * np.sqrt(2000))
    np.testing.assert_allclose(numbers.khat_ses[finite], expected[finite])
    worst = numbers.khat[numbers.worst]
    assert worst[0] >= np.sort(numbers.khat)[-2]
    assert numbers.ledger is not None and len(numbers.ledger.rows) == 20  # those kept apart
    assert numbers.ledger.where == "rows kept apart"
    assert numbers.generation is not None and numbers.generation.held_out
    said = " ".join(assessment.witnesses)
    assert "amortisation gap" in said and "latent dimensions are active" in said


def test_blocks_of_rows_change_no_row_that_matters(problem, monkeypatch) -> None:
    """Rows weighed a few at a time: other random numbers, the same ELBO within its error."""
    model, data = problem
    fit = gb.exact(model, LinearGaussianPosterior(model), data)
    x = data["x"]
    whole = weigh(fit, x, 0)
    monkeypatch.setattr("guidebook.diagnostics.amortized.weights.MOST_LATENTS", 7 * 2000 * 2)
    pieces = weigh(fit, x, 0)
    np.testing.assert_allclose(pieces.elbo, whole.elbo, atol=1e-4)  # exact: no noise
    np.testing.assert_allclose(pieces.mean, whole.mean, rtol=1e-5, atol=1e-6)


def test_a_deterministic_code_is_a_point_and_has_a_page(problem, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("guidebook.reports.elements.images.png", lambda *_: b"")  # the words count
    _, data = problem
    for prior_scale in (1.0, None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = VAE(6, 2, (8,), likelihood="gaussian", scale=1.0, prior_scale=prior_scale)
            guide = AmortizedDelta(torch.nn.Linear(6, 2), 2)
        fit = gb.svi(model, guide, data, steps=100, compile="graph", progress=False)
        found = gb.compare({"code": fit})
        row = found.table.loc["code"]
        assert found.verdicts["code"] is Verdict.REJECT
        assert "a deterministic code" in row["reason"]
        assert np.isnan(row["elbo"]) and np.isnan(row["khat"])
        numbers = found.amortized["code"]
        assert numbers.point and numbers.ledger is None and numbers.collapse is None
        code = fit.guide.encoder(data["x"]).detach().numpy()
        np.testing.assert_allclose(numbers.latent_mean, code, rtol=1e-5, atol=1e-6)
        error = np.square(numbers.reconstruction - numbers.data).sum(1)
        assert numbers.worst[0] == error.argmax()
    page = found.to_html(tmp_path / "code.html").read_text()
    assert "deterministic code" in page and "Reconstructions" in page


def test_two_layers_are_weighed_as_one_latent(problem) -> None:
    _, data = problem
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HierarchicalVAE(6, (3, 2), (8,), likelihood="gaussian", scale=0.5)
        guide = AmortizedLayers((torch.nn.Linear(6, 6), torch.nn.Linear(3, 4)), (3, 2))
    fit = gb.svi(model, guide, data, steps=800, compile="graph", progress=False)
    found = gb.compare({"layers": fit})
    numbers = found.amortized["layers"]
    assert numbers.latent_mean.shape == (80, 5)
    assert numbers.collapse.names == ("z_1[0]", "z_1[1]", "z_1[2]", "z_2[0]", "z_2[1]")
    ledger = numbers.ledger
    assert ledger.family == "" and np.isnan(ledger.best_elbo).all()
    # annealing and importance weighting are two ways to one number
    terms = ledger.terms()
    off = terms["evidence"].value - terms["bound"].value
    assert abs(off) < 5 * np.hypot(terms["evidence"].se, terms["bound"].se) + 0.05
    # an independent estimate: Pyro's own ELBO of the pair
    from pyro.infer import Trace_ELBO

    loss = Trace_ELBO(num_particles=300, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad(), gb.scope.local_parameters():
        elbo = -loss.loss(fit.model, fit.guide, x=data["x"])
    assert found.table.loc["layers", "elbo"] == pytest.approx(elbo, rel=0.02)


def test_a_flow_and_categories_are_assessed(problem) -> None:
    data = {"x": problem[1]["x"][:24]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = VAE(6, 2, (8,), likelihood="gaussian", scale=0.5)
        flow = AmortizedFlow(torch.nn.Linear(6, flow_width(2)), 2)
        discrete = DiscreteVAE(6, 2, 3, (8,))
        categories = AmortizedCategorical(torch.nn.Linear(6, 6), 2, 3)
    fit = gb.svi(vae, flow, data, steps=100, compile="graph", progress=False)
    _, numbers = assess_rows(fit)
    assert numbers.ledger.family == "" and np.isfinite(numbers.ledger.evidence).all()
    assert np.isfinite(numbers.collapse.kl).all() and not numbers.collapse.collapsed
    bits = {"x": (data["x"] > 0).float()}
    fit = gb.svi(discrete, categories, bits, steps=50, compile="graph", progress=False)
    _, numbers = assess_rows(fit)
    assert numbers.ledger is None and numbers.latent_mean.shape == (24, 6)
    evidence = fit.model.log_evidence(bits["x"]).detach().numpy()
    # nine states, 2,000 draws: the bound is the evidence, summed over 24 rows
    assert numbers.bound.sum() == pytest.approx(evidence.sum(), abs=1.0)
