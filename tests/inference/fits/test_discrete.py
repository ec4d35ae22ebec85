"""Latent values without gradients: draws of them are a Fit like any other, judged more carefully."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.guides.energy.spin_gibbs import SpinGibbs
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.energy import ising_grid
from guidebook.models.energy.enumeration import enumerate_moments

UNITS = 9


def magnet(coupling: float, field: float = 0.1) -> BoltzmannMachine:
    grid = ising_grid(3, 3, coupling).double()
    bias = torch.full((UNITS,), field, dtype=torch.float64)
    return BoltzmannMachine(grid, bias, hidden=UNITS).requires_grad_(False)


@pytest.fixture(scope="module")
def fits() -> dict[str, gb.Fit]:
    machine = magnet(0.3)
    return {
        "mean-field": gb.cavi(machine, BlockMeanField(machine), {}, progress=False),
        "rows": gb.cavi(machine, BlockMeanField(machine, blocks=3), {}, progress=False),
        "gibbs": gb.gibbs(machine, SpinGibbs(machine), {}, progress=False),
        "exact": gb.exact(machine, BlockMeanField(machine, blocks=UNITS), {}),
    }


@pytest.mark.parametrize("name", ["gibbs", "exact"])
def test_draws_have_the_moments_of_the_enumeration(fits: dict[str, gb.Fit], name: str) -> None:
    machine = magnet(0.3)
    mean, _ = enumerate_moments(machine.weights, machine.bias, 1.0)
    fit = fits[name]
    draws = fit.posterior(4000)["posterior"]["h"].values.reshape(-1, UNITS)
    size = fit.notes.get("ess", 4000.0)
    error = (1 - mean.square()).sqrt().detach().numpy() / np.sqrt(size)
    # 9 units, five standard errors: false alarm below 1e-5
    assert (np.abs(draws.mean(0) - mean.numpy()) < 5 * error).all()
    assert set(np.unique(draws)) == {-1.0, 1.0}


def test_the_exact_posterior_of_a_latent_machine_has_evidence_one(fits: dict[str, gb.Fit]) -> None:
    assert fits["exact"].notes["log_evidence"] == pytest.approx(0.0, abs=1e-10)


def test_the_elbo_of_cavi_rises_and_is_that_of_the_draws(fits: dict[str, gb.Fit]) -> None:
    for name in ("mean-field", "rows"):
        fit = fits[name]
        assert (np.diff(fit.history) <= 1e-12).all()
        stats = fit.posterior(4000, seed=1)["sample_stats"]
        weights = (stats["lp"] - stats["log_q"]).values
        error = weights.std() / np.sqrt(weights.size)
        # five standard errors: false alarm below 1e-6
        assert abs(weights.mean() + fit.history[-1]) < 5 * error
    assert fits["rows"].history[-1] < fits["mean-field"].history[-1]


def test_nothing_discrete_is_trusted_without_a_reference(fits: dict[str, gb.Fit]) -> None:
    only = {name: fits[name] for name in ("mean-field", "rows")}
    for word in gb.compare(only).verdicts.values():
        assert word is gb.Verdict.REJECT


def test_against_the_exact_posterior(fits: dict[str, gb.Fit]) -> None:
    found = gb.compare(fits, reference="exact")
    assert found.verdicts["gibbs"] is gb.Verdict.TRUST
    assert found.verdicts["exact"] is gb.Verdict.TRUST
    assert found.verdicts["mean-field"] is not gb.Verdict.TRUST


def test_one_of_two_modes_is_not_trusted_whatever_its_weights_say() -> None:
    """Below the critical temperature mean field falls into one of two modes that are alike."""
    machine = magnet(1.0, field=0.0)
    narrow = gb.cavi(machine, BlockMeanField(machine), {}, progress=False)
    means = narrow.posterior(1000)["posterior"]["h"].values.mean((0, 1))
    assert (np.abs(means) > 0.9).all()  # the truth is 0
    assert gb.compare({"mean-field": narrow}).verdicts["mean-field"] is gb.Verdict.REJECT
    exact = gb.exact(machine, BlockMeanField(machine, blocks=UNITS), {})
    both = gb.compare({"mean-field": narrow, "exact": exact}, reference="exact")
    assert both.verdicts["mean-field"] is gb.Verdict.REJECT


def test_a_fit_of_discrete_values_survives_a_file(fits: dict[str, gb.Fit], tmp_path) -> None:
    machine = magnet(0.3)
    for name, guide in (("rows", BlockMeanField(machine, blocks=3)), ("gibbs", None)):
        again = gb.load(fits[name].save(tmp_path / name), model=machine, guide=guide, data={})
        ours, theirs = (
            f.posterior(20, seed=2)["posterior"]["h"].values for f in (fits[name], again)
        )
        np.testing.assert_array_equal(ours, theirs)


def test_engines_that_need_a_gradient_say_so(fits: dict[str, gb.Fit]) -> None:
    with pytest.raises(gb.errors.ModelError, match="discrete"):
        gb.nuts(magnet(0.3), {}, draws=10, tune=10, chains=1, progress=False)


TABLE = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)


def labelled(x=None):
    """A label chooses a row of a table: its value must be a whole number."""
    k = pyro.sample("k", dist.Categorical(logits=torch.tensor([0.2, -0.1, 0.4])))
    mu = pyro.sample("mu", dist.Normal(TABLE[k], 1.0))
    return pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def posterior_of_label(x=None):
    """Exact: x | k ~ N(table[k], 2); mu | k, x ~ N((table[k] + x) / 2, 1 / 2)."""
    logits = torch.tensor([0.2, -0.1, 0.4]).double() - (x - TABLE).square() / 4
    k = pyro.sample("k", dist.Categorical(logits=logits))
    pyro.sample("mu", dist.Normal((TABLE[k] + x) / 2, 0.5**0.5))


def test_labels_and_numbers_in_one_model() -> None:
    x = torch.tensor(1.2, dtype=torch.float64)
    fit = gb.exact(labelled, posterior_of_label, {"x": x})
    prior = torch.tensor([0.2, -0.1, 0.4]).double().log_softmax(0)
    evidence = (prior + dist.Normal(TABLE, 2**0.5).log_prob(x)).logsumexp(0)
    # the categorical of the model is in single precision
    assert fit.notes["log_evidence"] == pytest.approx(float(evidence), abs=1e-5)
    posterior = fit.posterior(500)["posterior"]
    assert set(np.unique(posterior["k"].values)) <= {0.0, 1.0, 2.0}
