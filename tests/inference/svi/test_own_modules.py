"""Modules that tell Pyro of their own parameters, and words and lists that come with batches of rows."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import guidebook as gb
from guidebook.errors import DataError
from guidebook.inference.gradient.held_out import rows_apart
from guidebook.programs.rows import ArrayRows

N = 60
ADAM = {"optim": pyro.optim.Adam({"lr": 0.05}), "progress": False}


def observations() -> torch.Tensor:
    return 3.0 + torch.randn(N, generator=torch.Generator().manual_seed(0))


class NamesItsOwn(nn.Module):
    """q of the mean of a normal, pyro.param("loc", self.loc)."""

    def __init__(self):
        super().__init__()
        self.loc, self.log_scale = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def forward(self, y):
        loc, log_scale = pyro.param("loc", self.loc), pyro.param("log_scale", self.log_scale)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()))


def mean_of_a_normal(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:svi runs by:UserWarning")
@pytest.mark.parametrize("compile", ["graph", False])
def test_a_module_that_names_its_own_parameters_trains_them(compile):
    """The posterior is N(sum y / 61, 1 / 61); what is not trained stays at 0 and 0."""
    y = observations()
    fit = gb.svi(mean_of_a_normal, NamesItsOwn(), {"y": y}, steps=400, compile=compile, **ADAM)
    path = fit.notes["path"]
    assert path == ("captured" if compile else "reference")
    sd = (N + 1) ** -0.5
    loc, log_scale = float(fit.guide.loc.detach()), float(fit.guide.log_scale.detach())
    assert abs(loc - float(y.sum()) / (N + 1)) < 2 * sd and abs(log_scale - np.log(sd)) < 0.5


class RegistersItself(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.net, self.inner = nn.Linear(1, 1), inner

    def forward(self, x, y):
        pyro.module("decoder", self.net if self.inner else self)
        z = pyro.sample("z", dist.Normal(0.0, 0.1))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(z + self.net(x[:, None])[:, 0], 1.0), obs=y)


@pytest.mark.parametrize("inner", [True, False])
def test_a_module_that_registers_itself_is_captured_and_trained(inner):
    """Least squares of y = 2 x, in closed form but for the prior of z."""
    x = torch.linspace(-1, 1, N)

    def guide(x, y):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))

    fit = gb.svi(RegistersItself(inner), guide, {"x": x, "y": 2 * x}, steps=600, **ADAM)
    assert fit.notes["path"] == "captured"
    assert float(fit.model.net.weight.detach()) == pytest.approx(2.0, abs=0.05)


class Noisy(nn.Module):
    """Nothing to train, and dropout in training mode."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z + self.drop(torch.ones(len(y))), 1.0), obs=y)


def test_a_model_without_parameters_is_evaluated_by_engines_that_train_none():
    y = observations()
    fit = gb.laplace(Noisy(), {"y": y})
    assert not fit.model.training and fit.status.good
    mean = float((y.double() - 1).sum()) / (N + 1)
    assert float(fit.posterior(4000)["posterior"]["z"].mean()) == pytest.approx(mean, abs=0.01)


def words_of(rows):
    return np.array(["high" if row % 2 else "low" for row in rows])


def by_words(y, kind=None, size=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    shift = (
        torch.zeros(len(y)) if kind is None else torch.tensor([5.0 * (k == "high") for k in kind])
    )
    with pyro.plate("row", size or len(y), subsample_size=len(y)):
        pyro.sample("y", dist.Normal(z + shift, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore:svi runs by:UserWarning")
def test_words_that_come_with_batches_are_those_of_each_batch():
    """Every second batch of a stream is shifted by 5, and says so: the mean is that without the shift."""
    y = observations()
    shifted = [
        {"y": y[:30] + 5.0 * (b % 2), "kind": np.array([("low", "high")[b % 2]] * 30)}
        for b in (0, 1)
    ]

    def guide(y, kind=None, size=None):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))

    fit = gb.svi(by_words, guide, shifted, size=60, steps=400, **ADAM)
    assert float(fit.guide.value("loc").detach()) == pytest.approx(
        2 * float(y[:30].sum()) / 61, abs=0.2
    )


def test_a_list_with_an_item_a_row_is_no_array_to_take_batches_of():
    y, words = observations(), ["low"] * N
    with pytest.raises(DataError, match="'kind' is a list of as many items as there are rows"):
        gb.svi(by_words, by_words, {"y": y, "kind": words}, batch_size=10, progress=False)
    rows = ArrayRows({"y": torch.zeros(300), "kind": ["low"] * 300})
    assert rows.lists == ["kind"] and rows.names == ("y",)
    network = gb.models.mlp((1, 4, 2))
    guide = gb.guides.AmortizedNormal(network, 1)
    guide.observed = "y"
    assert rows_apart(network, guide, rows, None, 0) is None
    assert rows_apart(network, guide, ArrayRows({"y": torch.zeros(300)}), None, 0) is not None
