"""Boltzmann machines against sums over all states, transfer matrices and automatic derivatives."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from guidebook.datasets.patterns import bars_and_stripes, letters
from guidebook.errors import DataError, ModelError, SettingError
from guidebook.models.energy.boltzmann import BoltzmannMachine, bipartite
from guidebook.models.energy.energy import Boltzmann, Spin, energy, ising_grid, log_two_cosh
from guidebook.models.energy.enumeration import (
    configurations,
    enumerate_log_normaliser,
    enumerate_moments,
    index_of,
)


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def couplings(D, scale=0.5):
    W = scale * torch.randn(D, D, dtype=torch.float64)
    return (W + W.T).fill_diagonal_(0), torch.randn(D, dtype=torch.float64)


def by_hand(W, b, beta):
    """-beta E of all states, in plain loops."""
    D = len(b)
    values = []
    for state in range(2**D):
        x = [1.0 if state >> (D - 1 - i) & 1 else -1.0 for i in range(D)]
        pairs = sum(W[i, j].item() * x[i] * x[j] for i in range(D) for j in range(i))
        values.append(beta * (pairs + sum(b[i].item() * x[i] for i in range(D))))
    return np.array(values)


@pytest.mark.parametrize("D", [1, 2, 3, 6])
def test_log_normaliser_is_the_sum_over_states_in_plain_loops(D):
    W, b = couplings(D)
    expected = np.logaddexp.reduce(by_hand(W, b, 0.7))
    assert enumerate_log_normaliser(W, b, 0.7).item() == pytest.approx(expected, abs=1e-12)
    p = Boltzmann(W, b, 0.7)
    found = p.log_prob(configurations(D, b)).numpy()
    np.testing.assert_allclose(found, by_hand(W, b, 0.7) - expected, rtol=0, atol=1e-12)


def test_states_are_found_at_their_index():
    x = configurations(5, torch.zeros(()))
    assert index_of(x).tolist() == list(range(32))


@pytest.mark.parametrize(("N", "beta"), [(3, 0.4), (8, 1.3), (20, 0.6)])
def test_a_ring_has_the_log_normaliser_of_its_transfer_matrix(N, beta):
    # Z = (2 cosh beta J)^N + (2 sinh beta J)^N: Ising (1925)
    J = 0.8
    W = J * ising_grid(1, N, periodic=True).double()
    expected = np.logaddexp(
        N * math.log(2 * math.cosh(beta * J)), N * math.log(2 * math.sinh(beta * J))
    )
    found = enumerate_log_normaliser(W, torch.zeros(N, dtype=torch.float64), beta).item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_gradient_of_log_z_is_the_moments():
    W, b = couplings(7)
    beta = 0.6
    Z = enumerate_log_normaliser(W.requires_grad_(), b.requires_grad_(), beta)
    of_W, of_b = torch.autograd.grad(Z, (W, b))
    mean, second = enumerate_moments(W.detach(), b.detach(), beta)
    torch.testing.assert_close(of_b, beta * mean, rtol=0, atol=1e-12)
    off = 1 - torch.eye(7, dtype=torch.float64)  # the table reads each pair once within a half,
    symmetric = of_W + of_W.T  # and the pairs across halves at one of their two places
    both = torch.autograd.functional.jacobian(
        lambda c: enumerate_log_normaliser(_symmetric(c, 7), b.detach(), beta),
        W.detach()[tuple(torch.tril_indices(7, 7, -1))],
    )
    i, j = torch.tril_indices(7, 7, -1)
    torch.testing.assert_close(both, beta * (second * off)[i, j], rtol=0, atol=1e-12)
    assert bool(symmetric.isfinite().all())
    assert second.diagonal().tolist() == pytest.approx([1.0] * 7)


def _symmetric(c, D):
    i, j = torch.tril_indices(D, D, -1)
    low = c.new_zeros(D, D).index_put((i, j), c)
    return low + low.T


def test_batches_are_single_machines_side_by_side():
    W, b = couplings(5)
    many_b = torch.stack([b, -b, 2 * b])
    many = Boltzmann(W, many_b, 0.5)
    assert many.batch_shape == (3,) and many.event_shape == (5,)
    x = many.sample((4,))
    assert x.shape == (4, 3, 5)
    for k in range(3):
        one = Boltzmann(W, many_b[k], 0.5)
        torch.testing.assert_close(many.log_prob(x)[:, k], one.log_prob(x[:, k]))
        torch.testing.assert_close(many.mean[k], one.mean)
        torch.testing.assert_close(many.entropy()[k], one.entropy())
    wide = Boltzmann(W, b, 0.5).expand((6,))
    assert wide.log_prob(x[0, :1].expand(6, 5)).shape == (6,)
    assert wide.sample().shape == (6, 5)


def test_exact_draws_have_the_right_frequencies():
    # chi-square on 2^4 states, 20,000 draws: false alarm 1e-5
    W, b = couplings(4)
    p = Boltzmann(W, b, 0.8)
    count = torch.bincount(index_of(p.sample((20_000,))), minlength=16).numpy()
    expected = 20_000 * p.log_prob(configurations(4, b)).exp().numpy()
    assert stats.chisquare(count, expected).pvalue > 1e-5


def test_entropy_is_minus_the_mean_log_probability():
    W, b = couplings(6)
    p = Boltzmann(W, b, 0.9)
    log_p = p.log_prob(configurations(6, b))
    assert p.entropy().item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=1e-12)
    zero = Boltzmann(W, b, 0.0)
    assert zero.entropy().item() == pytest.approx(6 * math.log(2))


def test_enumerate_support_holds_every_state_once():
    W, b = couplings(4)
    p = Boltzmann(W, b).expand((3,))
    assert p.enumerate_support().shape == (16, 3, 4)
    assert (
        p.log_prob(p.enumerate_support(expand=False)).exp().sum(0).tolist()
        == [pytest.approx(1.0)] * 3
    )


def test_a_spin_is_a_machine_of_one_unit():
    a = torch.linspace(-3, 3, 7).double()
    spin = Spin(2 * 0.7 * a)
    for i, field in enumerate(a):
        one = Boltzmann(torch.zeros(1, 1).double(), field[None], 0.7)
        for x in (-1.0, 1.0):
            value = torch.full((1,), x).double()
            expected = one.log_prob(value).item()
            assert spin.log_prob(torch.full((7,), x).double())[i].item() == pytest.approx(expected)
    torch.testing.assert_close(spin.mean, (0.7 * a).tanh())
    both = spin.enumerate_support()
    entropy = -(spin.log_prob(both).exp() * spin.log_prob(both)).sum(0)
    torch.testing.assert_close(spin.entropy(), entropy)
    far = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    assert log_two_cosh(far).tolist() == [800.0, 800.0]


@pytest.mark.parametrize(
    ("rows", "columns", "periodic"), [(2, 3, False), (4, 3, True), (1, 1, True)]
)
def test_grid_has_the_edges_of_the_grid(rows, columns, periodic):
    W = ising_grid(rows, columns, 1.0, periodic=periodic)
    assert torch.equal(W, W.T) and not W.diagonal().any()
    down, across = rows - 1 + (periodic and rows > 2), columns - 1 + (periodic and columns > 2)
    assert W.sum() / 2 == down * columns + across * rows


@pytest.mark.parametrize("restricted", [True, False])
def test_the_model_is_the_boltzmann_distribution_of_all_units(restricted):
    W, b = couplings(7)
    if restricted:
        W = bipartite(W[:4, 4:])
    machine = BoltzmannMachine(W, b, 3, beta=0.8, restricted=restricted)
    assert torch.equal(machine.weights, W)
    plain = Boltzmann(W, b, 0.8)
    v = configurations(4, b)
    with torch.no_grad():
        trace = poutine.trace(machine).get_trace(v)
        x = torch.cat([v, trace.nodes["h"]["value"]], -1)
        assert trace.log_prob_sum().item() == pytest.approx(plain.log_prob(x).sum().item())
        assert machine.log_evidence(v).exp().sum().item() == pytest.approx(1.0)
        everything = plain.log_prob(configurations(7, b)).reshape(16, 8)
        torch.testing.assert_close(machine.log_evidence(v), everything.logsumexp(-1))
        torch.testing.assert_close(
            -0.8 * machine.free_energy(v) - machine.log_normaliser(), everything.logsumexp(-1)
        )


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("hidden", [2, 4])
def test_the_model_simulates_its_own_distribution(restricted, hidden):
    # chi-square on the 2^6 states of (v, h), 30,000 rows: false alarm 1e-5 each, four tests
    W, b = couplings(6, 0.3)
    if restricted:
        W = bipartite(W[: 6 - hidden, 6 - hidden :])
    machine = BoltzmannMachine(W, 0.3 * b, hidden, beta=0.8, restricted=restricted)
    with torch.no_grad():
        trace = poutine.trace(machine).get_trace(size=30_000)
    x = torch.cat([trace.nodes["v"]["value"], trace.nodes["h"]["value"]], -1)
    expected = 30_000 * Boltzmann(W, 0.3 * b, 0.8).log_prob(configurations(6, b)).exp()
    count = torch.bincount(index_of(x), minlength=64)
    assert stats.chisquare(count.numpy(), expected.numpy()).pvalue > 1e-5


def test_a_minibatch_stands_for_the_whole():
    W, b = couplings(5)
    machine = BoltzmannMachine(W, b, 0)
    v = machine(size=8).detach()
    with torch.no_grad():
        whole = poutine.trace(machine).get_trace(v).log_prob_sum()
        halves = [
            poutine.trace(machine).get_trace(part, size=8).log_prob_sum() for part in v.split(4)
        ]
    assert (sum(halves) / 2).item() == pytest.approx(whole.item())


def test_a_machine_without_visible_units_has_its_state_as_latent():
    W, b = couplings(6)
    machine = BoltzmannMachine(W, b, 6)
    trace = poutine.trace(machine).get_trace()
    assert not trace.nodes["h"]["is_observed"] and "v" not in trace.nodes
    assert trace.nodes["h"]["value"].shape == (1, 6)
    h = trace.nodes["h"]["value"]
    assert trace.log_prob_sum().item() == pytest.approx(Boltzmann(W, b).log_prob(h).item())


def test_a_wide_restricted_machine_enumerates_its_smaller_layer():
    across = 0.2 * torch.randn(30, 5, dtype=torch.float64)
    b = torch.randn(35, dtype=torch.float64)
    wide = BoltzmannMachine(bipartite(across), b, 5, restricted=True)
    turned = torch.cat([b[30:], b[:30]])
    tall = BoltzmannMachine(bipartite(across.T), turned, 30, restricted=True)
    assert wide.log_normaliser().item() == pytest.approx(tall.log_normaliser().item(), abs=1e-9)
    h = configurations(5, b)  # a sum by hand: visible units are independent given h
    by_sum = (h @ b[30:] + log_two_cosh(b[:30] + h @ across.T).sum(-1)).logsumexp(0)
    assert wide.log_normaliser().item() == pytest.approx(by_sum.item(), abs=1e-9)
    assert wide(size=3).shape == (3, 30) and tall(size=3).shape == (3, 5)


def test_weights_stay_symmetric_without_diagonal_under_an_optimiser():
    W, b = couplings(5)
    machine = BoltzmannMachine(W, b)
    with torch.no_grad():
        machine.couplings.add_(torch.randn_like(machine.couplings))
        assert torch.equal(machine.weights, machine.weights.T)
        assert not machine.weights.diagonal().any()


def test_many_units_need_their_log_normaliser():
    D = 30
    W, b = torch.zeros(D, D), torch.ones(D)
    p = Boltzmann(W, b)
    x = torch.ones(D)
    assert p.unnormalised_log_prob(x).item() == pytest.approx(30.0)
    with pytest.raises(ModelError, match=r"annealed_importance_sampling"):
        p.log_prob(x)
    with pytest.raises(ModelError, match="sample by gibbs"):
        p.sample()
    given = Boltzmann(W, b, log_normaliser=D * math.log(2 * math.cosh(1)))
    expected = -D * math.log1p(math.exp(-2))
    assert given.log_prob(x).item() == pytest.approx(expected, abs=1e-4)
    assert given.expand((2,)).log_prob(x).tolist() == [pytest.approx(expected, abs=1e-4)] * 2


def test_bad_input_has_a_clear_error():
    W, b = couplings(4)
    bent = W.clone()
    bent[0, 2] += 0.5
    with pytest.raises(ModelError, match=r"not symmetric: W\[0, 2\] and W\[2, 0\]"):
        Boltzmann(bent, b)
    loop = W.clone()
    loop[1, 1] = 0.3
    with pytest.raises(ModelError, match="Unit 1 is connected to itself"):
        BoltzmannMachine(loop, b)
    with pytest.raises(SettingError, match="temperature of zero"):
        Boltzmann(W, b, math.inf)
    for beta in (-1.0, math.nan):
        with pytest.raises(SettingError, match="inverse temperature"):
            Boltzmann(W, b, beta)
    with pytest.raises(ModelError, match="not finite"):
        Boltzmann(W * math.nan, b)
    with pytest.raises(ModelError, match="do not match"):
        Boltzmann(W, b[:3])
    with pytest.raises(ModelError, match="couples visible to hidden units only"):
        BoltzmannMachine(W, b, 2, restricted=True)
    with pytest.raises(SettingError, match="hidden=5"):
        BoltzmannMachine(W, b, 5)
    with pytest.raises(DataError, match="4 visible units"):
        BoltzmannMachine(W, b)(torch.ones(3, 5))
    with pytest.raises(ValueError, match="support"):
        Boltzmann(W, b).log_prob(torch.zeros(4).double())
    for machine in (
        BoltzmannMachine(W, b, 2),
        BoltzmannMachine(bipartite(W[:2, 2:]), b, 2, restricted=True),
    ):
        zeros = poutine.trace(machine).get_trace(torch.zeros(3, 2).double())
        with pytest.raises(ValueError, match="support"):
            zeros.log_prob_sum()
    with pytest.raises(SettingError, match="at least 1 x 1"):
        ising_grid(0, 3)


def test_patterns_are_what_they_say():
    four = letters()["v"]
    assert four.shape == (4, 25) and set(four.unique().tolist()) == {-1.0, 1.0}
    agree = (four.unsqueeze(1) == four).sum(-1)
    assert agree[~torch.eye(4, dtype=torch.bool)].min() >= 10
    assert agree[~torch.eye(4, dtype=torch.bool)].max() <= 15
    pictures = bars_and_stripes(4)["v"].reshape(-1, 4, 4)
    assert len(pictures.flatten(1).unique(dim=0)) == 30
    rows = (pictures == pictures[:, :, :1]).all(-1).all(-1)
    columns = (pictures == pictures[:, :1]).all(-1).all(-1)
    assert bool((rows | columns).all())
    with pytest.raises(DataError, match="no pattern for"):
        letters("Q")
    with pytest.raises(SettingError, match="side=1"):
        bars_and_stripes(1)


def test_energy_of_batched_weights():
    W, b = couplings(4)
    x = configurations(4, b)[:3]
    stacked = torch.stack([W, 2 * W, 3 * W])
    found = energy(x, stacked, b)
    for k in range(3):
        assert found[k].item() == pytest.approx(energy(x[k], (k + 1) * W, b).item())
