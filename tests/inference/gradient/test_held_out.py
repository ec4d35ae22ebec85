"""Rows held out: which, what the bound on them is, and when it rises, falls, and ends a fit."""

import math

import numpy as np
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import guidebook as gb
from guidebook.datasets.small import digits
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.autoguides.defaults import Defaults
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.gradient.held_out import (
    GROUPS,
    LEAST,
    Change,
    HeldOut,
    change,
    rows_apart,
)
from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.batches.source import Source
from guidebook.programs.owned import copied
from guidebook.programs.rows import ArrayRows

ROWS, WIDTH = 240, 3
X = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) @ torch.tensor(
    [[2.0, 1.0, 0.5], [0.0, 0.3, 0.1], [0.0, 0.0, 0.3]]
)


def decoder():
    torch.manual_seed(0)
    return LinearVAE(WIDTH, 1)


def encoder():
    torch.manual_seed(0)
    guide = AmortizedNormal(nn.Linear(WIDTH, 2), 1)
    guide.defaults = Defaults(steps=60, rate=0.02)
    return guide


# which rows ---------------------------------------------------------------------------------------


def apart(model=None, rows=ROWS, batch_size=None, seed=0, guide=None):
    held = ArrayRows({"x": torch.zeros(rows, WIDTH)})
    return rows_apart(model or decoder(), guide or encoder(), held, batch_size, seed)


def test_a_tenth_of_the_rows_by_the_seed():
    first, again, other = apart(), apart(), apart(seed=1)
    assert len(first) == ROWS // 10 == len(set(first.tolist()))
    np.testing.assert_array_equal(first, again)
    assert set(first.tolist()) != set(other.tolist())
    assert (np.diff(first) > 0).all() and first[0] >= 0 and first[-1] < ROWS


@pytest.mark.parametrize(("rows", "count"), [(199, None), (200, 20), (9_999, 999), (50_000, 1000)])
def test_none_of_few_rows_and_at_most_a_thousand(rows, count):
    found = apart(rows=rows)
    assert (None if found is None else len(found)) == count


def test_none_where_nothing_can_overfit_or_no_row_stands_alone():
    assert apart(decoder().requires_grad_(False)) is None
    assert apart(guide=nn.Linear(1, 1)) is None
    assert rows_apart(decoder(), encoder(), None, None, 0) is None
    assert apart(batch_size=216) is not None
    assert apart(batch_size=217) is None  # a batch of more rows than are left


class Watched:
    """Rows that note which of them were read."""

    names = ("x",)

    def __init__(self):
        self.read = set()

    def __len__(self):
        return ROWS

    def take(self, index):
        self.read |= set(index.tolist())
        return {"x": X.numpy()[index]}


def test_a_number_of_steps_holds_nothing_out():
    fit = gb.svi(
        decoder(), encoder(), {"x": X}, steps=20, batch_size=60, compile="graph", progress=False
    )
    assert "held_out_rows" not in fit.notes and fit.notes["steps"] == 20


def test_rows_held_out_are_in_no_batch():
    index = apart()
    rows = Watched()
    held = Source(rows, 27, None, index)
    batches = held.batches(decoder(), 0, torch.float32, torch.device("cpu"))
    assert batches.count == ROWS - len(index) == 216
    for step in range(8):  # an epoch
        assert batches.batch(step)["size"] == 216
    assert rows.read == set(range(ROWS)) - set(index.tolist())


# what the bound is --------------------------------------------------------------------------------


def held_out(model, count=25):
    data = {"x": X[:count].to(model.weight.dtype), "size": 0}
    return HeldOut(Trace_ELBO(), data, ("x",), (count, ROWS - count), 0)


def test_the_bound_of_an_exact_guide_is_the_evidence_of_each_group():
    """Then log p(x, z) - log q(z | x) = log p(x) at every draw: normal with covariance W W' + s^2 I."""
    model, count = decoder().double(), 25
    held, (model, guide) = held_out(model), copied(model, LinearGaussianPosterior(model))
    found = held.bounds(model, guide)
    weight, scale = model.weight.detach(), float(model.log_scale.detach().exp())
    covariance = weight @ weight.T + scale**2 * torch.eye(WIDTH, dtype=torch.float64)
    truth = torch.distributions.MultivariateNormal(model.bias.detach(), covariance)
    groups = truth.log_prob(X[:count].double()).tensor_split(GROUPS)
    torch.testing.assert_close(found, torch.stack([g.mean() for g in groups]), rtol=1e-10, atol=0)


def test_two_looks_at_the_same_parameters_are_the_same_whatever_is_drawn_between():
    model, guide = copied(decoder(), encoder())
    held = held_out(model)
    first = held.bounds(model, guide)
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(held.bounds(model, guide), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("value", "error", "rises"), [
    (0.0101, 0.005, True), (0.0099, 0.001, False), (0.03, 0.0299, True), (0.03, 0.0301, False),
])  # fmt: skip
def test_a_rise_counts_above_its_error_and_a_hundredth_of_a_nat(value, error, rises):
    assert Change(value, error, LEAST).rises(1.0) is rises
    assert Change(-value, error, LEAST).falls(1.0) is rises
    assert not Change(-value, error, LEAST).rises(1.0)


def test_the_change_between_looks_is_paired_by_group():
    """Groups that differ by nats among each other and all rise alike: the error is that of the rise."""
    before = torch.linspace(-90, -40, GROUPS, dtype=torch.float64)
    found = change(before, before + 0.3)
    assert found.value == pytest.approx(0.3) and found.error < 1e-6
    assert found.least == pytest.approx(LEAST + 1e-4 * 64.7)
    moved = torch.tensor([0.0, 1.0] * (GROUPS // 2), dtype=torch.float64)
    assert change(before, before + moved).error == pytest.approx(
        math.sqrt(GROUPS * 0.25 / (GROUPS - 1) / GROUPS)
    )


# what follows from looks --------------------------------------------------------------------------


def at(mean):
    return torch.full((GROUPS,), float(mean), dtype=torch.float64) + 0.001 * torch.arange(GROUPS)


def looked(means, model=None):
    """Looks at parameters (0,), (1,), ... after 100, 200, ... steps, and what each answered."""
    held = held_out(model or decoder())
    held.begin(torch.zeros(1))
    said = [
        held.rises(100 * (k + 1), torch.tensor([float(k)]), lambda _, m=m: at(m))
        for k, m in enumerate(means)
    ]
    return held, said


def test_it_goes_on_while_the_bound_rises_above_the_best_look():
    held, said = looked([-20, -19, -19.5, -18.9, -18.895])
    assert said == [True, True, False, True, False]
    assert held.best.step == 500 and float(held.kept) == 4.0
    _, said = looked([-20])
    assert said == [True]
    assert held_out(decoder()).best is None


def test_a_bound_that_is_not_finite_is_no_look():
    held, said = looked([-20, math.nan])
    assert said == [True, False] and len(held.taken) == 1


@pytest.mark.parametrize(("first", "second", "rises"), [
    (-18.5, -18.0, True), (-18.0, -18.0, False), (-20.0, -19.5, False), (-18.0, -18.5, False),
])  # fmt: skip
def test_the_end_still_rises_where_it_is_above_its_first_half_and_the_best_look(
    first, second, rises
):
    held, _ = looked([-20, -19])
    halves = {1.0: first, 2.0: second}
    found = held.still_rises(
        torch.tensor([1.0]), torch.tensor([2.0]), lambda flat: at(halves[float(flat)])
    )
    assert found is rises


HISTORY = np.concatenate([np.full(200, 20.0), np.full(400, 15.0)]) * 215
END = torch.tensor([[9.0]])


def ended(final, means=(-20, -19), history=HISTORY):
    held, _ = looked(means)
    return held.ends(END, lambda _: at(final), history, 50)


def test_a_fit_ends_with_its_last_parameters_unless_they_are_clearly_worse():
    for final in (-18.0, -19.0, -19.005):
        result, told = ended(final)
        assert torch.equal(result, END) and "overfitting" not in told
        assert told["held_out_bound"] == pytest.approx(final + 0.0045)
        assert told["training_bound"] == pytest.approx(-15.0)
    result, told = ended(-19.1)
    assert float(result) == 1.0
    assert told["held_out_bound"] == pytest.approx(-19 + 0.0045)
    assert told["held_out_rows"] == 25


def test_overfitting_is_found_with_its_numbers_where_the_training_bound_rose():
    said = ended(-19.1)[1]["overfitting"]
    for words in (
        "after 200 steps",
        "25 rows held out",
        "by 0.1",
        "from -20 to -15",
        "weight decay",
    ):
        assert words in said
    assert "overfitting" not in ended(-19.1, history=np.full(600, 20.0))[1]


# a fit that ends so -------------------------------------------------------------------------------


def fitted(compile="graph", steps="auto", model=None, **settings):
    return gb.svi(
        model or decoder(), encoder(), {"x": X}, steps=steps, compile=compile, progress=False,
        **settings,
    )  # fmt: skip


def test_both_paths_take_the_same_steps():
    ours, theirs = fitted(), fitted(compile=False)
    assert ours.notes["path"] == "captured" and theirs.notes["path"] == "reference"
    assert ours.notes["steps"] == theirs.notes["steps"] == len(ours.history) > 60
    np.testing.assert_allclose(ours.history, theirs.history, rtol=1e-3)
    assert ours.notes["held_out_bound"] == pytest.approx(theirs.notes["held_out_bound"], abs=1e-3)
    assert ours.notes["held_out_rows"] == 24
    assert ours.data["x"] is X  # the fit has all of its data


@pytest.mark.slow
def test_a_decoder_of_few_digits_overfits_and_the_fit_ends_before():
    """128 hidden units and 270 digits: the parameters are of a look at the constant rate, and it is said."""
    torch.manual_seed(0)
    model, guide = VAE(64, 8, (128,)), AmortizedNormal(mlp((64, 128, 16)), 8)
    guide.defaults = Defaults(steps=1000, rate=0.005)
    data = {"x": digits("train", binary=True)["x"][:300]}
    with pytest.warns(UserWarning, match="Overfitting: after .* 30 rows held out fell"):
        fit = gb.svi(model, guide, data, batch_size=100, compile="graph", progress=False)
    assert fit.status is gb.Status.CONVERGED
    assert fit.notes["training_bound"] > fit.notes["held_out_bound"] + 1
    apart = rows_apart(model, guide, ArrayRows(data), 100, 0)
    held = HeldOut(Trace_ELBO(), {"x": data["x"][apart], "size": 0}, ("x",), (30, 270), 0)
    again = float(held.bounds(fit.model, fit.guide).mean())
    assert again == pytest.approx(fit.notes["held_out_bound"], rel=1e-5)
