"""Mean field, blocks and Gibbs for Boltzmann machines: bounds and marginals against enumeration."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.guides.energy.mean_field import SpinBlocks, mean_field_fixed_point
from guidebook.guides.energy.spin_gibbs import (
    SpinGibbs,
    _one_after_the_other,
    draw_units,
    gibbs_sweep,
)
from guidebook.models.energy.boltzmann import BoltzmannMachine, bipartite
from guidebook.models.energy.energy import Boltzmann, ising_grid
from guidebook.models.energy.enumeration import (
    configurations,
    enumerate_log_normaliser,
    enumerate_moments,
    index_of,
)


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def couplings(D, scale=0.4):
    W = scale * torch.randn(D, D, dtype=torch.float64)
    return (W + W.T).fill_diagonal_(0), 0.5 * torch.randn(D, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.2, 1.0, 3.0])
def test_the_bound_lies_below_and_log_z_is_bound_plus_kl(beta):
    W, b = couplings(8)
    p = Boltzmann(W, b, beta)
    states = configurations(8, b)
    for blocks in (1, 2, 4, [[0, 5, 7], [1], [2, 3, 4, 6]]):
        found = mean_field_fixed_point(W, b, beta, blocks=blocks)
        log_q = found.q.log_prob(states)
        assert log_q.exp().sum().item() == pytest.approx(1.0)
        kl = (log_q.exp() * (log_q - p.log_prob(states))).sum().item()
        assert kl > 0
        assert p.log_normaliser.item() == pytest.approx(found.bound.item() + kl, abs=1e-10)
        assert found.settled and bool((found.history.diff(dim=0) >= -1e-10).all())


def test_one_block_is_exact_and_larger_blocks_close_the_gap():
    # blocks of a block: each family holds the one before it, so its best bound is not lower
    b = 0.1 * torch.randn(16, dtype=torch.float64)
    W = 0.4 * ising_grid(4, 4).double()
    exact = enumerate_log_normaliser(W, b).item()
    bounds = [mean_field_fixed_point(W, b, blocks=k).bound.item() for k in (1, 2, 4, 8, 16)]
    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(exact, abs=1e-10)
    assert exact - bounds[0] > 1.0 > exact - bounds[3]  # 1.32 and 0.37 nats


def test_a_unit_satisfies_the_mean_field_equation():
    W, b = couplings(10)
    m = mean_field_fixed_point(W, b, 0.9, tolerance=0.0, sweeps=2000).q.mean
    torch.testing.assert_close(m, (0.9 * (W @ m + b)).tanh(), rtol=0, atol=1e-6)


def test_restarts_leave_the_symmetric_saddle():
    # a strong ferromagnet without bias: the start at the bias stays at m = 0, bound D log 2
    W = ising_grid(3, 3).double()
    b = torch.zeros(9, dtype=torch.float64)
    one = mean_field_fixed_point(W, b, restarts=1)
    many = mean_field_fixed_point(W, b, restarts=8)
    assert one.bound.item() == pytest.approx(9 * math.log(2))
    assert many.bound > one.bound + 3
    assert many.q.mean.abs().min() > 0.9


def test_block_distribution_matches_its_tables():
    # chi-square on 2^4 states, 20,000 draws: false alarm 1e-5
    blocks = [torch.tensor([2, 0]), torch.tensor([1]), torch.tensor([3])]
    tables = [torch.randn(2 ** len(part)).double().log_softmax(-1) for part in blocks]
    q = SpinBlocks(blocks, tables)
    states = configurations(4, tables[0])
    log_q = q.log_prob(states)
    x = states[0b0110]  # unit 0 -1, 1 +1, 2 +1, 3 -1: block (2, 0) in state (+1, -1)
    assert q.log_prob(x).item() == pytest.approx(
        (tables[0][2] + tables[1][1] + tables[2][0]).item()
    )
    count = torch.bincount(index_of(q.sample((20_000,))), minlength=16)
    assert stats.chisquare(count.numpy(), 20_000 * log_q.exp().numpy()).pvalue > 1e-5
    torch.testing.assert_close(q.mean, log_q.exp() @ states)
    assert q.entropy().item() == pytest.approx(-(log_q.exp() * log_q).sum().item())
    assert q.expand((3,)).sample((2,)).shape == (2, 3, 4)
    assert q.expand((3,)).log_prob(x).shape == (3,)


def log_weights(machine, guide, v, times=20):
    found = []
    with torch.no_grad():
        for _ in range(times):
            drawn = poutine.trace(guide).get_trace(v)
            joint = poutine.trace(poutine.replay(machine, drawn)).get_trace(v)
            found.append((joint.log_prob_sum() - drawn.log_prob_sum()).item())
    return found


@pytest.mark.parametrize("restricted", [True, False])
def test_where_the_guide_is_exact_its_log_weight_is_the_evidence(restricted):
    W, b = couplings(7)
    if restricted:
        W = bipartite(W[:4, 4:])
    machine = BoltzmannMachine(W, b, 3, beta=0.8, restricted=restricted)
    guide = BlockMeanField(machine, blocks=1 if restricted else 3)
    v = machine(size=5).detach()
    evidence = machine.log_evidence(v).sum().item()
    assert log_weights(machine, guide, v) == [pytest.approx(evidence, abs=1e-9)] * 20
    bound = guide.approximation(v).bound
    torch.testing.assert_close(bound, machine.log_weight(v).detach())
    with torch.no_grad():
        scaled = poutine.trace(guide).get_trace(v, size=50)
        joint = poutine.trace(poutine.replay(machine, scaled)).get_trace(v, size=50)
    assert (joint.log_prob_sum() - scaled.log_prob_sum()).item() == pytest.approx(10 * evidence)


def test_rows_are_approximated_each_by_itself():
    W, b = couplings(8)
    machine = BoltzmannMachine(W, b, 5)
    v = configurations(3, b)
    together = BlockMeanField(machine, blocks=2).approximation(v)
    assert bool((together.bound < machine.log_weight(v)).all())
    for i in range(8):
        alone = BlockMeanField(machine, blocks=2, restarts=32).approximation(v[i : i + 1])
        assert alone.bound.item() == pytest.approx(together.bound[i].item(), abs=1e-6)


def test_mean_field_of_a_machine_without_visible_units():
    W, b = couplings(6)
    machine = BoltzmannMachine(W, b, 6)
    guide = BlockMeanField(machine)
    assert guide.approximation().bound < machine.log_normaliser()
    drawn = poutine.trace(guide).get_trace()
    assert drawn.nodes["h"]["value"].shape == (1, 6)
    assert torch.isfinite(poutine.trace(poutine.replay(machine, drawn)).get_trace().log_prob_sum())


def test_the_sweep_is_unit_by_unit_gibbs_whatever_the_block():
    # the same uniforms, one unit after the other in plain loops
    W, b = couplings(11)
    x = draw_units(torch.zeros(11, 6).double(), 1.0, torch.Generator().manual_seed(1))
    expected = x.clone()
    noise = torch.rand(8, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for i in range(3, 11):
        field = W[i] @ expected + b[i]
        expected[i] = torch.where((2 * 0.7 * field).sigmoid() > noise[i - 3], 1.0, -1.0).double()
    # p(+1) > u in both: a > logit(u) / (2 beta)
    for block in (1, 3, 4, 64):
        generator = torch.Generator().manual_seed(2)
        assert torch.equal(gibbs_sweep(x, W, b, 0.7, generator, first=3, block=block), expected)
    assert torch.equal(x[:3], expected[:3])


def test_a_block_is_drawn_alike_by_numpy_and_by_torch():
    # what runs on a GPU, on the CPU
    W, _ = couplings(9)
    x = draw_units(torch.zeros(9, 5).double(), 1.0, torch.Generator().manual_seed(1))
    excess = W @ x + torch.randn(9, 5).double()
    by_numpy, by_torch = x.clone(), x.clone()
    change = torch.empty(9, 5).double()
    arrays = [t.numpy() for t in (by_numpy, excess, W, change)]
    _one_after_the_other(*arrays, np.copysign)
    _one_after_the_other(by_torch, excess, W, change, torch.copysign)
    assert torch.equal(by_numpy, by_torch) and not torch.equal(by_torch, x)


def marginals_agree(draws, mean, second, alarm=1e-6):
    """Every mean and product of pairs of independent draws (S, D), two-sided normal tests.

    Each at the rate 1e-6 divided by their number: Bonferroni.
    """
    S, D = draws.shape
    i, j = torch.tril_indices(D, D, -1)
    found = torch.cat([draws.mean(0), (draws.T @ draws / S)[i, j]])
    expected = torch.cat([mean, second[i, j]])
    z = (found - expected) / ((1 - expected.square()).clamp_min(1e-3) / S).sqrt()
    return z.abs().max().item() < stats.norm.isf(alarm / 2 / len(z))


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_free_gibbs_has_the_marginals_of_enumeration(beta):
    W, b = couplings(9, 0.3)
    generator = torch.Generator().manual_seed(0)
    x = draw_units(torch.zeros(9, 20_000).double(), 1.0, generator)
    for _ in range(60):
        x = gibbs_sweep(x, W, b, beta, generator)
    assert marginals_agree(x.T, *enumerate_moments(W, b, beta))
    assert not marginals_agree(x.T, *enumerate_moments(W, b, 1.15 * beta))  # the test can fail


def test_each_chain_may_have_its_own_temperature():
    W, b = couplings(5, 0.3)
    betas = torch.tensor([0.0, 1.0]).double().repeat_interleave(20_000)
    generator = torch.Generator().manual_seed(0)
    x = draw_units(torch.zeros(5, 40_000).double(), 1.0, generator)
    for _ in range(40):
        x = gibbs_sweep(x, W, b, betas, generator)
    for beta, part in zip((0.0, 1.0), x.T.split(20_000), strict=True):
        assert marginals_agree(part, *enumerate_moments(W, b, beta))


@pytest.mark.parametrize("restricted", [True, False])
def test_clamped_gibbs_draws_from_the_posterior_of_each_row(restricted):
    W, b = couplings(8, 0.3)
    if restricted:
        W = bipartite(W[:4, 4:])
    machine = BoltzmannMachine(W, b, 4, beta=0.9, restricted=restricted)
    guide, data = SpinGibbs(machine), {"v": configurations(4, b)[[1, 6]]}
    generator = torch.Generator().manual_seed(0)
    state = guide.initial(data, 20_000, generator)
    assert guide.sites == ("h",) and state["h"].shape == (20_000, 2, 4)
    for _ in range(1 if restricted else 40):
        state = guide.sweep(state, data, generator)
    for row in range(2):
        field = (b[4:] + data["v"][row] @ W[:4, 4:]).detach()
        moments = enumerate_moments(W[4:, 4:], field, 0.9)
        assert marginals_agree(state["h"][:, row], *moments)


@pytest.mark.parametrize("restricted", [True, False])
def test_free_running_machine(restricted):
    W, b = couplings(7, 0.3)
    if restricted:
        W = bipartite(W[:4, 4:])
    machine = BoltzmannMachine(W, b, 3, restricted=restricted)
    guide = SpinGibbs(machine, clamped=False)
    generator = torch.Generator().manual_seed(0)
    state = guide.initial({}, 20_000, generator)
    assert guide.sites == ("v", "h")
    for _ in range(60):
        state = guide.sweep(state, {}, generator)
    draws = torch.cat([state["v"], state["h"]], -1).squeeze(1)
    assert marginals_agree(draws, *enumerate_moments(W, b))


@pytest.mark.parametrize("restricted", [True, False])
def test_gewekes_joint_test(restricted):
    # (v, h) drawn from the machine, then v | h and a clamped sweep of h in turns: still the
    # machine's joint distribution. Chi-square on 2^6 states of 20,000 chains: false alarm 1e-5.
    W, b = couplings(6, 0.3)
    if restricted:
        W = bipartite(W[:3, 3:])
    machine = BoltzmannMachine(W, b, 3, restricted=restricted)
    guide, generator = SpinGibbs(machine), torch.Generator().manual_seed(0)
    with torch.no_grad():
        trace = poutine.trace(machine).get_trace(size=20_000)
        v, h = trace.nodes["v"]["value"], trace.nodes["h"]["value"]
        for _ in range(3):
            h = guide.sweep({"h": h[None]}, {"v": v}, generator)["h"][0]
            given = poutine.condition(machine, {"h": h})
            v = poutine.trace(given).get_trace(size=20_000).nodes["v"]["value"]
    count = torch.bincount(index_of(torch.cat([v, h], -1)), minlength=64)
    expected = 20_000 * Boltzmann(W, b).log_prob(configurations(6, b)).exp()
    assert stats.chisquare(count.numpy(), expected.numpy()).pvalue > 1e-5


def test_gibbs_follows_parameters_that_change():
    W, b = couplings(5)
    machine = BoltzmannMachine(W, b, 5)
    guide = SpinGibbs(machine)
    state = guide.initial({}, 10, torch.Generator().manual_seed(0))
    guide.sweep(state, {}, torch.Generator().manual_seed(0))
    with torch.no_grad():
        machine.couplings.zero_()
        machine.bias.fill_(100.0)
    assert (guide.sweep(state, {}, torch.Generator().manual_seed(0))["h"] == 1).all()


def test_errors():
    W, b = couplings(6)
    machine = BoltzmannMachine(W, b, 3)
    with pytest.raises(GuideError, match="no hidden unit"):
        BlockMeanField(BoltzmannMachine(W, b))
    with pytest.raises(GuideError, match="no weights and no bias"):
        SpinGibbs(torch.nn.Identity())
    with pytest.raises(DataError, match="give v"):
        BlockMeanField(machine)()
    with pytest.raises(DataError, match="samples the visible units too"):
        SpinGibbs(machine, clamped=False).initial({"v": b[None, :3]}, 2, torch.Generator())
    with pytest.raises(SettingError, match="exactly once"):
        BlockMeanField(machine, blocks=[[0, 1]])
    with pytest.raises(SettingError, match="at most 16"):
        mean_field_fixed_point(torch.zeros(20, 20), torch.zeros(20), blocks=17)
    with pytest.raises(SettingError, match="blocks=0"):
        mean_field_fixed_point(W, b, blocks=0)
