"""A rule is a pure function of each row: restarts do not know each other, and groups are tables."""

import math

import pytest
import torch

from guidebook.inference.optimisers.adam import ADAM, CLIPPED_ADAM, falling_adam, schedule
from guidebook.inference.optimisers.descent import ADAGRAD_RMSPROP, RMSPROP, SGD
from guidebook.inference.optimisers.optimiser import Optimiser, blend

DECAY = {"weight_decay": 0.2}
BETAS = {"b1": 0.8, "b2": 0.9, "eps": 0.1}
RULES = {
    "ADAM": (ADAM, {**BETAS, **DECAY, "amsgrad": True, "decoupled_weight_decay": True}),
    "CLIPPED_ADAM": (CLIPPED_ADAM, {**BETAS, **DECAY, "clip_norm": 1.0, "centered_variance": True}),
    "SGD": (SGD, {**DECAY, "momentum": 0.5, "dampening": 0.1, "nesterov": False}),
    "RMSPROP": (RMSPROP, {**DECAY, "alpha": 0.9, "eps": 0.1, "momentum": 0.5, "centered": True}),
    "ADAGRAD_RMSPROP": (ADAGRAD_RMSPROP, {"delta": 0.0, "t": 0.1}),
}
STEPS = 6
ENTRY = torch.tensor([0, 0, 1, 1, 1])
CLIPS = {"norm_limit": 0.8, "value_limit": 0.5}


def path(optimiser, flat, gradients):
    """The parameters after each step of these gradients (steps, R, P)."""
    flat = flat.clone()
    kept = {name: torch.zeros_like(flat) for name in optimiser.keeps()}
    tables = optimiser.tables(optimiser.rates)
    places = []
    for step, gradient in enumerate(gradients):
        flat = flat - optimiser.move(flat, gradient, kept, tables, torch.tensor([step]))
        places.append(flat)
    return torch.stack(places)


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    kind = {"dtype": torch.float64, "generator": generator}
    return torch.randn(3, 5, **kind), 2 * torch.randn(STEPS, 3, 5, **kind)


@pytest.mark.parametrize("name", RULES)
def test_rows_do_not_know_each_other(name, given):
    rule, numbers = RULES[name]
    flat, gradients = given
    made = Optimiser(rule, schedule(0.1, STEPS), {**numbers, **CLIPS}, False, ENTRY, ENTRY)
    together = path(made, flat, gradients)
    for row in range(3):
        alone = path(made, flat[row : row + 1], gradients[:, row : row + 1])
        torch.testing.assert_close(together[:, row], alone[:, 0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_groups_are_optimisers_of_their_own(name, given):
    """Rates and decays that differ: each parameter moves as under an optimiser that has it alone."""
    rule, numbers = RULES[name]
    flat, gradients = given
    rates = torch.stack([schedule(0.1, STEPS), schedule(0.3, STEPS)], 1)
    varied = [
        {**numbers, **{k: (1 + g) * numbers[k] for k in DECAY if k in numbers}} for g in (0, 1)
    ]
    table = {
        k: torch.stack([torch.full((STEPS,), v[k], dtype=torch.float64) for v in varied], 1)
        for k in DECAY if k in numbers
    }  # fmt: skip
    together = path(
        Optimiser(rule, rates, {**numbers, **table}, False, ENTRY, ENTRY), flat, gradients
    )
    for group in (0, 1):
        mine = group == ENTRY
        alone = Optimiser(rule, rates[:, group].contiguous(), varied[group], False)
        expected = path(alone, flat[:, mine], gradients[..., mine])
        torch.testing.assert_close(together[..., mine], expected, rtol=1e-12, atol=1e-14)


def test_a_norm_is_that_of_one_parameter_and_the_limit_is_kept_exactly(given):
    flat, gradients = given
    plain = {"momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False}
    ones = torch.ones(STEPS, dtype=torch.float64)
    made = Optimiser(
        SGD, ones, {**plain, "norm_limit": 0.8, "value_limit": math.inf}, False, ENTRY, ENTRY
    )
    moved = flat - path(made, flat, gradients)[0]
    before = gradients[0]
    clipped = 0
    for which in (0, 1):
        norm = before[:, which == ENTRY].norm(dim=1)
        after = moved[:, which == ENTRY].norm(dim=1)
        expected = torch.where(norm > 0.8, 0.8 * norm / (norm + 1e-6), norm)
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=0)
        clipped += int((norm > 0.8).sum())
    assert 0 < clipped < 6, "gradients on both sides of the limit"


def test_the_default_keeps_two_moments_and_reads_two_tables():
    made = falling_adam(0.01, 10)
    assert made.keeps() == ("m", "v") and set(made.tables(made.rates)) == {"rates", "shrink"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keep", [0.9, torch.tensor([[0.9]])])
def test_a_mean_without_gradient_ends_at_zero_and_not_below_normal_numbers(dtype, keep) -> None:
    """0.9^k of it at first, to the bit of the rule; then 0; what is not a number stays so."""
    tiny = torch.finfo(dtype).tiny
    keep = keep.to(dtype) if isinstance(keep, torch.Tensor) else keep
    mean = torch.tensor([[1.0, -1.0, torch.nan, torch.inf]]).to(dtype) * 1e10 * tiny
    expected, none = mean.clone(), torch.zeros_like(mean)
    for _ in range(400):
        blend(mean, keep, none)
        expected = expected * keep
        normal = expected.abs() >= tiny
        assert torch.equal(mean[normal], expected[normal])
        assert not ((mean != 0) & (mean.abs() < tiny)).any()
    assert mean[0, :2].eq(0).all()
    assert mean[0, 2].isnan()
    assert mean[0, 3].isinf()
