"""Numbers of Boltzmann machines: bounds below log Z, recall, samples, all decided by the seed."""

import numpy as np
import pytest
import torch

from guidebook.diagnostics.model_kinds import normaliser, recall
from guidebook.diagnostics.model_kinds.energy import energy_numbers, samples
from guidebook.models.energy.boltzmann import BoltzmannMachine, bipartite
from guidebook.models.energy.hopfield import associative_memory

PATTERNS = torch.tensor([[1.0, 1, 1, -1, -1, -1, 1, 1, 1], [1.0, -1, 1, -1, 1, -1, 1, -1, 1]])
CUE = {"v": torch.tensor([[1.0, 1.0, 1.0]])}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(normaliser, "TEMPERATURES", 2)
    monkeypatch.setattr(recall, "SIZES", ((20, 2),))
    monkeypatch.setattr(recall, "LOADS", (0.05, 0.5))


def machine():
    across = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    weights = bipartite(across)
    return BoltzmannMachine(weights, torch.zeros(6), 2, restricted=True).requires_grad_(False)


def test_every_family_is_below_log_z_and_the_estimate_is_near():
    """Five standard errors: one false alarm in a million for each of the two temperatures."""
    found = normaliser.log_normaliser(associative_memory(PATTERNS, 3, beta=1.0))
    np.testing.assert_allclose(found.betas, [1.0, 2.0])
    for bound in found.bounds.values():
        assert (bound <= found.truth + 1e-9).all()
    assert (np.abs(found.estimate - found.truth) < 5 * found.error + 1e-3).all()


def test_more_units_than_can_be_enumerated_have_no_truth():
    big = associative_memory(torch.sign(torch.randn(2, 26, generator=torch.manual_seed(0))), 3)
    assert normaliser.log_normaliser(big).truth is None


def test_the_recall_starts_at_the_cue_and_no_update_raises_the_energy():
    found = energy_numbers(associative_memory(PATTERNS, 3, beta=1.0), CUE, {}).memory
    np.testing.assert_array_equal(found.cues[0], [1, 1, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found.stored[1:], PATTERNS)
    assert (np.abs(found.cues[1:] - found.stored[1:]).sum(1) == 2 * round(0.2 * 9)).all()
    assert (np.diff(found.energies, axis=0) <= 1e-6).all()
    assert found.kept[20][0] > found.kept[20][1]  # a memory that is too full recalls less


def test_samples_have_the_sign_of_their_couplings():
    """Units coupled by 2 to one hidden unit: P(equal) = e^4 / (e^4 + 1) squared and more, 0.96."""
    drawn = samples(machine(), 3)
    assert drawn.shape == (16, 4)
    agree = (drawn[:, 0] == drawn[:, 1]).float().mean() + (
        drawn[:, 2] == drawn[:, 3]
    ).float().mean()
    assert agree / 2 > 0.75  # of 32 pairs at most 8 differ: P < 1e-5 at 0.04 each


def test_the_seed_decides():
    data = {"v": torch.tensor([[1.0, 1, -1, -1]])}
    one, again, other = (energy_numbers(machine(), data, {}, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.samples, again.samples)
    np.testing.assert_array_equal(one.normaliser.estimate, again.normaliser.estimate)
    assert (one.normaliser.estimate != other.normaliser.estimate).all()


def test_other_models_have_no_such_numbers():
    assert energy_numbers(lambda v: None, CUE, {}) is None
    assert energy_numbers(machine(), None, {}) is None
    free = BoltzmannMachine(torch.zeros(3, 3), torch.zeros(3))
    assert energy_numbers(free, {"v": torch.ones(1, 3)}, {}) is None
