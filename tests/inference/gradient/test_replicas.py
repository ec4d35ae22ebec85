"""Many data sets fitted in one step: each fit is that of its own data, by a closed form and by svi."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import guidebook as gb
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import counted
from guidebook.inference.fits.status import Status
from guidebook.inference.gradient import replicas
from guidebook.inference.gradient.problem import Problem, prepare
from guidebook.inference.gradient.replicas import Replica, fit_replicas
from guidebook.programs.batches.source import admitted
from guidebook.programs.graphs.recorded import CannotRecord
from guidebook.programs.potential import Potential

COUNT = 8


def model(n: int, y: Tensor | None = None) -> None:
    """mu given y is N(sum(y) / (n + 1), 1 / (n + 1))."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
    with pyro.plate("row", n):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def own_guide(n: int, y: Tensor | None = None) -> None:
    loc = pyro.param("loc", torch.tensor(0.3, dtype=torch.float64))
    scale = pyro.param(
        "scale", torch.tensor(1.0, dtype=torch.float64), constraint=dist.constraints.positive
    )
    pyro.sample("mu", dist.Normal(loc, scale))


def datasets() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    spread = torch.arange(COUNT, dtype=torch.float64) - COUNT / 2
    noise = torch.randn(COUNT, 3, generator=generator, dtype=torch.float64)
    return [{"y": row} for row in noise + spread[:, None] / 2]


def fitted(guide: Any, steps: int, story: Callable[..., None] = model) -> list[Replica]:
    problems: list[Problem] = []
    given = datasets()
    source = admitted(story, {"n": 3, **given[0]}, batch_size=None, size=None)

    def put(run: Run) -> None:
        problems.append(prepare(run.model, run.guide, source, None, run.device, run.dtype, 0))

    with (
        opened("svi", story, guide, source, seed=0, device=None, check=put),
        counted("test", COUNT, shown=False) as bar,
    ):
        problem = problems[-1]
        potential = Potential(problem.model, problem.data, problem.sites, ("y",))
        return fit_replicas(problem, potential, given, steps, bar)


def moments(found: list[Replica]) -> tuple[Tensor, Tensor]:
    pairs = [(one.guide.value("loc"), one.guide.value("scale")) if hasattr(one.guide, "value")
             else [v[0] for v in one.guide._loc_scale()] for one in found]  # fmt: skip
    loc, scale = (torch.stack([p[i] for p in pairs]).detach() for i in (0, 1))
    return loc, scale


@pytest.mark.parametrize("numbers", [2_000_000, 250])
def test_each_fit_is_the_posterior_of_its_own_data(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one block and in two; within the tenth of a standard deviation that trust allows."""
    monkeypatch.setattr(replicas, "NUMBERS_AT_ONCE", numbers)
    found = fitted(gb.guides.mean_field(model), 400)
    loc, scale = moments(found)
    exact = torch.stack([d["y"].sum() / 4 for d in datasets()])
    assert len(found) == COUNT
    assert float((loc - exact).abs().max()) < 0.1 * 0.5
    assert float((scale / 0.5).log().abs().max()) < 0.1
    assert sum(one.status is Status.CONVERGED for one in found) > COUNT / 2


def test_a_guide_of_ones_own_begins_alike_for_all() -> None:
    """It does not start at the mode, so far data sets take the steps that svi takes for them."""
    found = fitted(own_guide, 1500)
    loc, scale = moments(found)
    exact = torch.stack([d["y"].sum() / 4 for d in datasets()])
    assert float((loc - exact).abs().max()) < 0.1 * 0.5
    assert float((scale / 0.5).log().abs().max()) < 0.2


def test_a_model_that_reads_its_data_is_refused() -> None:
    def reads(n: int, y: Tensor | None = None) -> None:
        wide = y is not None and float(y.abs().max()) > 3
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        with pyro.plate("row", n):
            pyro.sample("y", dist.Normal(mu, 2.0 if wide else 1.0), obs=y)

    with pytest.raises(CannotRecord, match=r"\.item\(\)"):
        fitted(own_guide, 50, reads)


def test_a_fit_whose_objective_is_not_finite_is_marked_alone() -> None:
    def broken(n: int, y: Tensor | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        shift = 0.0 if y is None else torch.where(y.mean() > 1.5, torch.inf, 0.0).to(y)
        with pyro.plate("row", n):
            pyro.sample("y", dist.Normal(mu + shift * mu, 1.0), obs=y)

    found = fitted(own_guide, 30, broken)
    far = [float(d["y"].mean()) > 1.5 for d in datasets()]
    assert any(far)
    assert [one.status is Status.STOPPED_BY_NAN for one in found] == far
