"""Learning Boltzmann machines and log Z by annealing, against enumeration and transfer matrices."""

import math

import numpy as np
import pytest
import torch

from guidebook.datasets.patterns import bars_and_stripes
from guidebook.errors import DataError, ModelError, SettingError
from guidebook.inference.boltzmann import boltzmann_learning
from guidebook.inference.energy.annealing import anneal, annealed_importance_sampling
from guidebook.inference.fits.status import Status
from guidebook.models.energy.boltzmann import BoltzmannMachine, bipartite
from guidebook.models.energy.energy import Boltzmann, energy, ising_grid
from guidebook.models.energy.enumeration import (
    configurations,
    enumerate_log_normaliser,
    enumerate_moments,
)


def couplings(D, scale=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    W = scale * torch.randn(D, D, generator=generator, dtype=torch.float64)
    b = 0.5 * torch.randn(D, generator=generator, dtype=torch.float64)
    return (W + W.T).fill_diagonal_(0), b


def machine_of(V, H, seed=0, scale=0.3, restricted=True):
    W, b = couplings(V + H, scale, seed)
    W = bipartite(W[:V, V:]) if restricted else W
    return BoltzmannMachine(W, b, H, beta=0.8, restricted=restricted)


def rows_of(V, n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    W, b = couplings(V, 0.4, seed)
    p = Boltzmann(W, b).log_prob(configurations(V, b)).exp()
    return configurations(V, b)[torch.multinomial(p, n, True, generator=generator)]


# annealed importance sampling -------------------------------------------------------------------


@pytest.mark.parametrize("restricted", [True, False])
def test_annealing_agrees_with_enumeration_within_four_standard_errors(restricted):
    # false alarm about 6e-5 each of six
    for seed in range(3):
        machine = machine_of(8, 6, seed, restricted=restricted)
        found = annealed_importance_sampling(machine, chains=200, temperatures=300, seed=seed)
        W, b = machine.weights.detach(), machine.bias.detach()
        exact = enumerate_log_normaliser(W, b, 0.8).item()
        assert abs(found.log_normaliser - exact) < 4 * found.standard_error
        assert 0 < found.standard_error < 0.1 and 100 < found.effective_size <= 200


def grid_log_normaliser(L, J):
    """log Z of a free L x L Ising grid by its transfer matrix, row by row."""
    row = configurations(L, torch.zeros((), dtype=torch.float64)).numpy()
    within = np.exp(J * (row[:, 1:] * row[:, :-1]).sum(1))
    between = np.exp(J * row @ row.T)
    weight, log_scale = within, 0.0
    for _ in range(L - 1):
        weight = within * (between @ weight)
        log_scale += math.log(weight.max())
        weight = weight / weight.max()
    return log_scale + math.log(weight.sum())


def test_annealing_beyond_enumeration_agrees_with_a_transfer_matrix():
    # 64 units: false alarm 6e-5. The matrix itself is checked on 16 units first.
    W = 0.35 * ising_grid(4, 4).double()
    small = enumerate_log_normaliser(W, torch.zeros(16, dtype=torch.float64)).item()
    assert grid_log_normaliser(4, 0.35) == pytest.approx(small, abs=1e-9)
    p = Boltzmann(0.35 * ising_grid(8, 8).double(), torch.zeros(64, dtype=torch.float64))
    found = annealed_importance_sampling(p, chains=200, temperatures=500)
    assert abs(found.log_normaliser - grid_log_normaliser(8, 0.35)) < 4 * found.standard_error
    assert found.standard_error < 0.1
    known = Boltzmann(p.weights, p.bias, log_normaliser=found.log_normaliser)
    expected = 112 * 0.35 - found.log_normaliser  # all up: 2 * 8 * 7 edges
    assert known.log_prob(torch.ones(64).double()).item() == pytest.approx(expected)


def test_independent_units_are_known_without_error():
    b = torch.linspace(-2, 2, 40).double()
    found = annealed_importance_sampling(Boltzmann(torch.zeros(40, 40).double(), b), chains=5)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert found.log_normaliser == pytest.approx(torch.log(2 * b.cosh()).sum().item())


def test_the_standard_error_is_the_spread_over_seeds():
    # sd of 60 estimates against the mean stated error: a chi-square of 59, false alarm 1e-4
    machine = machine_of(6, 4, scale=0.5)
    found = [
        annealed_importance_sampling(machine, chains=60, temperatures=20, seed=s) for s in range(60)
    ]
    spread = np.std([f.log_normaliser for f in found], ddof=1)
    stated = np.sqrt(np.mean([f.standard_error**2 for f in found]))
    assert 0.65 < spread / stated < 1.4


def test_annealing_ends_in_states_of_least_energy():
    W, b = couplings(12, 0.5)
    least = energy(configurations(12, b), W, b).min().item()
    x = anneal(W, b, torch.linspace(0.1, 10, 200), chains=50)
    assert x.shape == (50, 12) and energy(x, W, b).min().item() == pytest.approx(least)


# learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["visible", "restricted", "wide", "general"])
def test_data_minus_model_correlations_are_the_gradient(kind):
    # one step of plain ascent at rate 1 moves the parameters by the gradient that autodiff finds
    V, H = {"visible": (5, 0), "restricted": (4, 3), "wide": (3, 5), "general": (4, 3)}[kind]
    machine = machine_of(V, H, restricted=kind in ("restricted", "wide"))
    v = rows_of(V, 20)
    gradient = torch.autograd.grad(
        machine.log_evidence(v).mean(), (machine.couplings, machine.bias)
    )
    fit = boltzmann_learning(machine, {"v": v}, steps=1, rate=1.0)
    moved = (fit.model.couplings - machine.couplings, fit.model.bias - machine.bias)
    for step, slope in zip(moved, gradient, strict=True):
        torch.testing.assert_close(step.detach(), slope, rtol=0, atol=1e-12)
    assert fit.history[0] == pytest.approx(-machine.log_evidence(v).sum().item())


def test_without_hidden_units_the_maximum_has_the_moments_of_the_data():
    v = rows_of(5, 400)
    start = BoltzmannMachine(torch.zeros(5, 5).double(), torch.zeros(5).double())
    fit = boltzmann_learning(start, {"v": v}, rate=0.1)
    assert fit.status is Status.CONVERGED and fit.guide is None
    W, b = fit.model.weights.detach(), fit.model.bias.detach()
    mean, second = enumerate_moments(W, b)
    torch.testing.assert_close(mean, v.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(second, v.T @ v / 400, rtol=0, atol=1e-4)
    assert fit.history[-1] <= fit.history.min() + 1e-6 and fit.notes["gradient"] < 1e-4
    assert not start.couplings.any()  # what was passed in is not changed


def test_weight_decay_has_its_own_maximum():
    v = torch.ones(10, 3).double()  # units always equal: without decay the weights grow for ever
    v[:5] = -1
    start = BoltzmannMachine(torch.zeros(3, 3).double(), torch.zeros(3).double())
    free = [boltzmann_learning(start, {"v": v}, steps=n, rate=0.5).model.couplings for n in (5, 15)]
    assert bool((free[1] > free[0] + 0.5).all())
    fit = boltzmann_learning(start, {"v": v}, weight_decay=0.1, steps=20_000, rate=0.1)
    W, b = fit.model.weights.detach(), fit.model.bias.detach()
    second = enumerate_moments(W, b)[1]
    # stationary in the couplings: 1 - E[x_i x_j] = w W_ij
    assert (1 - second[1, 0]).item() == pytest.approx(0.1 * W[1, 0].item(), abs=1e-3)


def test_hidden_units_learn_what_pairs_of_visible_units_cannot():
    # odd parity of three units: all pair correlations are 0, and one hidden layer represents it
    v = configurations(3, torch.zeros(()).double())
    v = v[v.prod(-1) > 0]
    visible = BoltzmannMachine(torch.zeros(3, 3).double(), torch.zeros(3).double())
    plain = boltzmann_learning(visible, {"v": v})
    assert plain.history[-1] / 4 == pytest.approx(3 * math.log(2), abs=1e-6)
    start = machine_of(3, 4, seed=3, scale=0.5)
    fit = boltzmann_learning(start, {"v": v}, rate=0.1, steps=1500)
    assert fit.history[-1] / 4 < math.log(4) + 0.03  # the entropy of the data is log 4
    general = machine_of(3, 2, seed=3, scale=0.5, restricted=False)
    fit = boltzmann_learning(general, {"v": v}, rate=0.1, steps=600)
    assert fit.history[-1] / 4 < math.log(4) + 0.05


def test_bars_and_stripes_are_learned_exactly():
    d = bars_and_stripes(3)
    generator = torch.Generator().manual_seed(0)
    W = bipartite(0.1 * torch.randn(9, 8, generator=generator))
    fit = boltzmann_learning(
        BoltzmannMachine(W, torch.zeros(17), 8, restricted=True), d, rate=0.1, steps=3000
    )
    assert fit.history[-1] / 14 < math.log(14) + 0.05
    assert fit.history[-1] / 14 > math.log(14)  # no model beats the entropy of the data
    q = fit.guide.approximation(d["v"])
    torch.testing.assert_close(q.bound, fit.model.log_weight(d["v"]).detach(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("term", "sweeps", "hidden"),
    [("gibbs", 10, 0), ("cd", 1, 0), ("pcd", 1, 0), ("cd", 1, 2), ("pcd", 1, 2)],
)
def test_chains_learn_nearly_what_enumeration_learns(term, sweeps, hidden):
    # the likelihood of chains' weights is compared, which enumeration knows: within 0.02 nat a row
    v = rows_of(5, 300)
    start = machine_of(5, hidden, restricted=hidden > 0, scale=0.1)
    exact = boltzmann_learning(start, {"v": v}, steps=1500)
    fit = boltzmann_learning(
        start, {"v": v}, model_term=term, sweeps=sweeps, chains=400, steps=600, rate=0.3
    )
    lost = (exact.model.log_evidence(v) - fit.model.log_evidence(v)).mean().item()
    assert -1e-3 < lost < 0.02
    assert fit.status is Status.CONVERGED and fit.notes["gradient"] < 0.1


def test_chains_too_short_for_strong_couplings_are_not_called_converged():
    v = rows_of(5, 300)
    start = machine_of(5, 2, scale=0.1)
    fit = boltzmann_learning(
        start, {"v": v}, model_term="gibbs", sweeps=2, chains=200, steps=600, rate=0.3
    )
    assert fit.status is Status.STILL_MOVING and fit.notes["gradient"] > 0.1


def test_learning_that_ran_away_does_not_call_itself_converged():
    # persistent chains stop mixing on noise-free pictures at a high rate
    d = bars_and_stripes(3)
    generator = torch.Generator().manual_seed(0)
    start = BoltzmannMachine(
        bipartite(0.1 * torch.randn(9, 8, generator=generator)), torch.zeros(17), 8, restricted=True
    )
    fit = boltzmann_learning(start, d, model_term="pcd", rate=1.0, steps=1000)
    assert fit.model.log_evidence(d["v"]).mean() < -math.log(14) - 0.5
    assert fit.status is Status.STILL_MOVING and "do not mix" in fit.notes["remedy"]


def test_minibatches_and_many_units():
    # 30 visible and 25 hidden units: nothing is enumerated; log Z by annealing afterwards
    generator = torch.Generator().manual_seed(0)
    v = torch.randint(0, 2, (200, 30), generator=generator).float() * 2 - 1
    v[:, 15:] = v[:, :15]
    W = bipartite(0.05 * torch.randn(30, 25, generator=generator))
    start = BoltzmannMachine(W, torch.zeros(55), 25, restricted=True)
    fit = boltzmann_learning(start, {"v": v}, batch_size=50, steps=1000, rate=0.05, sweeps=2)
    assert fit.notes["model_term"] == "pcd" and fit.notes["objective"] == "pseudo-likelihood"
    Z = annealed_importance_sampling(fit.model, chains=100, temperatures=500)
    gained = fit.model.log_weight(v).mean().item() - Z.log_normaliser + 30 * math.log(2)
    assert gained > 5.0  # of 15 log 2 = 10.4 nats that the copies are worth
    assert Z.standard_error < 0.3


def test_the_seed_decides_and_the_users_random_state_is_left_alone():
    v = rows_of(4, 50)
    start = machine_of(4, 2)
    before = torch.get_rng_state()
    fits = [
        boltzmann_learning(start, {"v": v}, model_term="pcd", steps=20, batch_size=10, seed=s)
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(fits[0].model.couplings, other.model.couplings) for other in fits[1:]]
    assert same == [True, False]


def test_bad_input_has_a_clear_error():
    start = machine_of(4, 2)
    v = rows_of(4, 10)
    with pytest.raises(DataError, match=r"2 \* v - 1"):
        boltzmann_learning(start, {"v": (v + 1) / 2})
    with pytest.raises(DataError, match=r"rows \(n, 4\)"):
        boltzmann_learning(start, {"v": v[:, :3]})
    with pytest.raises(DataError, match="NaN"):
        boltzmann_learning(start, {"v": v * math.nan})
    with pytest.raises(DataError, match="no rows 'v'"):
        boltzmann_learning(start, {})
    with pytest.raises(ModelError, match=r"not a\s+Identity"):
        boltzmann_learning(torch.nn.Identity(), {"v": v})
    with pytest.raises(ModelError, match="no visible unit"):
        boltzmann_learning(machine_of(0, 4, restricted=False), {"v": v})
    with pytest.raises(SettingError, match="no model_term 'ml'"):
        boltzmann_learning(start, {"v": v}, model_term="ml")
    with pytest.raises(SettingError, match="steps=0"):
        boltzmann_learning(start, {"v": v}, steps=0)
    with pytest.raises(SettingError, match="batch_size=11"):
        boltzmann_learning(start, {"v": v}, batch_size=11)
    general = machine_of(4, 2, restricted=False)
    with pytest.raises(SettingError, match="Contrastive divergence starts"):
        boltzmann_learning(general, {"v": v}, model_term="cd")
    wide = BoltzmannMachine(torch.zeros(44, 44), torch.zeros(44), 22, restricted=True)
    with pytest.raises(ModelError, match="too many to enumerate"):
        boltzmann_learning(wide, {"v": torch.ones(3, 22)}, model_term="enumeration")
    with pytest.raises(SettingError, match="temperatures=1"):
        annealed_importance_sampling(start, temperatures=1)
    W, b = couplings(4)
    with pytest.raises(SettingError, match="temperature of zero"):
        anneal(W, b, [1.0, math.inf])
    with pytest.raises(SettingError, match="0 betas"):
        anneal(W, b, [])
    bent = W.clone()
    bent[0, 1] += 1
    with pytest.raises(ModelError, match="not symmetric"):
        annealed_importance_sampling(Boltzmann(bent, b, validate_args=False))
