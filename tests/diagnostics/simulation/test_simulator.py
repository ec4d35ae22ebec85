"""Simulated data against the model's moments; every refusal with its remedy."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm

from guidebook.diagnostics.simulation.simulator import Simulator
from guidebook.errors import ModelError
from guidebook.models import gaussian_mean

Y = torch.linspace(-1, 1, 5, dtype=torch.float64)


def normal(n: int, y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(3.0, 2.0))
    with pyro.plate("row", n):
        pyro.sample("seen", dist.Normal(mu, 1.0), obs=y)


def simulator(model: Any, **data: Any) -> Simulator:
    return Simulator(model, data, torch.float64)


def test_latents_and_data_have_the_moments_of_the_model() -> None:
    """z-tests of the mean of mu and of y - mu over 100 draws; false-alarm rate 2 x 1e-4."""
    made = simulator(normal, n=5, y=Y)
    assert made.arguments == {"seen": "y"}
    drawn = [made.draw(seed) for seed in range(100)]
    mu = torch.stack([z["mu"] for z, _ in drawn])
    noise = torch.stack([y["y"].mean() - z["mu"] for z, y in drawn])
    assert abs(float(mu.mean()) - 3) < norm.isf(5e-5) * 2 / 10
    assert abs(float(noise.mean())) < norm.isf(5e-5) / 10 / 5**0.5
    assert drawn[0][1]["y"].dtype is torch.float64


def test_data_given_latents_follow_them() -> None:
    made = simulator(normal, n=5, y=Y)
    y = made.given({"mu": torch.tensor(1e6, dtype=torch.float64)}, 0)["y"]
    assert float((y - 1e6).abs().max()) < 10
    again = made.given({"mu": torch.tensor(1e6, dtype=torch.float64)}, 0)["y"]
    assert torch.equal(y, again)


def test_the_number_of_rows_may_be_an_argument() -> None:
    x = torch.zeros(7, dtype=torch.float64)
    assert simulator(gaussian_mean, x=x).draw(0)[1]["x"].shape == (7,)


def needed(y: torch.Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def rows_of_y(y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):  # type: ignore[arg-type]
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def one_row(y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", 1 if y is None else len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def transformed(n: int, y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=None if y is None else 2 * y)


def flat(n: int, y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def masked(n: int, y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def factored(n: int, y: torch.Tensor | None = None) -> None:
    normal(n, y)
    pyro.factor("bonus", torch.tensor(1.0))


def trained(n: int, y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def tempered(n: int, y: torch.Tensor | None = None) -> None:
    with pyro.poutine.scale(scale=0.5):
        normal(n, y)


def unseen(n: int) -> None:
    pyro.sample("mu", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (needed, {"y": Y}, "'y' is observed and has no default.* with y=None and obs=y"),
        (rows_of_y, {"y": Y}, "cannot simulate with .'y'. left out.*number of rows follows"),
        (one_row, {"y": Y}, r"the shape \(1,\); the data have \(5,\).*size"),
        (transformed, {"n": 5, "y": Y}, "value of site 'y' is not an argument"),
        (flat, {"n": 5, "y": Y}, "cannot be drawn from.*of='posterior'"),
        (masked, {"n": 5, "y": Y}, "prior of site 'mu' is flat.*of='posterior'"),
        (factored, {"n": 5, "y": Y}, "pyro.factor 'bonus'"),
        (trained, {"n": 5, "y": Y}, "parameter 'm'.*Give it a prior"),
        (tempered, {"n": 5, "y": Y}, "scaled by 0.5"),
        (unseen, {"n": 5}, "no observed site"),
    ],
)
def test_what_cannot_be_simulated_is_refused(model: Any, data: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        simulator(model, **data).draw(0)
    pyro.clear_param_store()
