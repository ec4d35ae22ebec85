"""The density of a model of two data sets: p(z) p(y | z) p(y' | z), local and enumerated latents too."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, HalfNormal, Normal

import guidebook as gb
from guidebook.diagnostics.simulation.doubled import AGAIN, Doubled, again, guide_of
from guidebook.programs.potential import Potential

Y = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
Y2 = torch.tensor([1.3, 0.0, -0.5], dtype=torch.float64)


def local(n: int, y: Tensor | None = None) -> None:
    tau = pyro.sample("tau", dist.HalfNormal(torch.ones((), dtype=torch.float64)))
    with pyro.plate("row", n):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), tau))
        pyro.deterministic("doubled_z", 2 * z)
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def two_kinds(n: int, y: Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    with pyro.plate("row", n):
        kind = pyro.sample("kind", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(mu + 3 * kind, 1.0), obs=y)


def both(model: Any) -> Potential:
    return Potential(Doubled(model, ["y"]), {"n": 3, "y": Y, **again({"y": Y2})})


def test_every_latent_has_the_density_of_both_data_sets() -> None:
    potential = both(local)
    u = torch.tensor([[0.2, 0.5, -0.7, 1.0], [-1.0, 0.0, 0.1, 0.2]], dtype=torch.float64)
    found, log_det = potential(u)
    tau, z = u[:, 0].exp(), u[:, 1:]
    expected = HalfNormal(1.0).log_prob(tau) + Normal(0.0, tau[:, None]).log_prob(z).sum(1)
    for y in (Y, Y2):
        expected = expected + Normal(z, 1.0).log_prob(y).sum(1)
    assert torch.allclose(found, expected, atol=1e-12)
    assert torch.allclose(log_det, u[:, 0], atol=1e-12)
    assert potential.observed == ("y", f"y{AGAIN}")
    assert potential.derived == ("doubled_z",)


def test_enumerated_latents_are_summed_out_for_both_at_once() -> None:
    """A row has one kind, that of both its values."""
    potential = both(two_kinds)
    u = torch.tensor([[0.4], [-0.3]], dtype=torch.float64)
    found, _ = potential(u)
    terms = torch.stack(
        [
            Bernoulli(0.3).log_prob(torch.tensor(float(kind)))
            + Normal(u + 3 * kind, 1.0).log_prob(Y)
            + Normal(u + 3 * kind, 1.0).log_prob(Y2)
            for kind in (0, 1)
        ]
    )
    expected = Normal(0.0, 1.0).log_prob(u[:, 0]) + terms.logsumexp(0).sum(1)
    assert torch.allclose(found, expected, atol=1e-6)


def test_it_simulates_neither_and_returns_what_the_model_does() -> None:
    model = Doubled(lambda n, y=None: (local(n, y), 7)[1], ["y"])
    assert model(n=3, y=Y, **again({"y": Y2})) == 7


@pytest.mark.parametrize("kind", ["gb", "function", "module"])
def test_guides_are_called_as_before(kind: str) -> None:
    doubled = Doubled(local, ["y"])
    seen: list[set[str]] = []

    def mine(**data: Any) -> None:
        seen.append(set(data))

    class Mine(torch.nn.Module):
        def forward(self, **data: Any) -> None:
            mine(**data)

    given: Any = {"gb": gb.guides.low_rank(local, rank=2), "function": mine, "module": Mine()}[kind]
    with pyro.settings.context(module_local_params=True):
        guide = guide_of(given, doubled)
        guide(n=3, y=Y, **again({"y": Y2}))
    if kind == "gb":
        assert guide is not given
        assert (guide.family, guide.rank, guide.latent_dim) == ("low_rank", 2, 4)
    else:
        assert seen == [{"n", "y"}]
