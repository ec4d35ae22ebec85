"""The Hamiltonian run and the search for modes, on densities whose moments are known."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.witnesses.modes import find_modes, gaussian_elbo, missing_modes
from guidebook.diagnostics.witnesses.subject import Whole
from guidebook.diagnostics.witnesses.transport import transport
from guidebook.programs.potential import Potential
from guidebook.scope import precision

SD = np.array([1e-3, 1.0, 1e4])


def wide_scales(sd: torch.Tensor) -> None:
    pyro.sample("x", dist.Normal(torch.zeros_like(sd), sd).to_event(1))


def log_normal(scale: torch.Tensor) -> None:
    pyro.sample("x", dist.LogNormal(torch.zeros_like(scale), scale))


def two_modes(where: torch.Tensor, log_odds: torch.Tensor) -> None:
    """x in the plane: N(0, I) with odds exp(log_odds) to one against N(where, I)."""
    x = pyro.sample("x", dist.Normal(torch.zeros_like(where), 100.0).to_event(1))
    first = -0.5 * x.square().sum(-1) + log_odds
    second = -0.5 * (x - where).square().sum(-1)
    pyro.factor("density", torch.logaddexp(first, second))


def potential_of(model: object, **data: np.ndarray | float) -> Potential:
    with precision(torch.float64):
        tensors = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in data.items()}
        return Potential(model, tensors)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.8, 0.0), (1.25, 0.0), (1.0, 0.15)])
def test_the_run_measures_the_error_of_the_draws(factor: float, shift: float) -> None:
    """Within five of its own standard errors, on scales that differ by 10^7."""
    potential = potential_of(wide_scales, sd=SD)
    rng = np.random.default_rng(0)
    u = SD * (shift + factor * rng.standard_normal((20_000, 3)))
    found = transport(Whole(potential), u[:, None], np.diag((factor * SD) ** 2)[None])
    assert found is not None and found.able.all()
    assert (np.abs(found.shift - shift) < 5 * found.shift_se).all()
    assert (np.abs(np.log(found.sd_ratio / factor)) < 5 * found.sd_ratio_se + 0.01).all()


def test_it_reports_on_the_constrained_scale() -> None:
    potential = potential_of(log_normal, scale=0.5)
    u = 0.5 * np.random.default_rng(0).standard_normal((20_000, 1))
    found = transport(Whole(potential), u[:, None], np.array([[[0.25]]]))
    assert found is not None
    mean = math.exp(0.125)
    sd = mean * math.sqrt(math.expm1(0.25))
    assert abs(found.mean[0] - mean) < 5 * sd * found.shift_se[0]
    assert abs(found.sd[0] / sd - 1) < 0.05


def test_a_mode_without_draws_is_missed() -> None:
    potential = potential_of(two_modes, where=np.array([9.0, 0.0]), log_odds=math.log(4.0))
    u = np.random.default_rng(0).standard_normal((50_000, 2))  # a few reach into the valley
    found = missing_modes(potential, find_modes(potential, u), u, -math.inf)
    assert len(found) == 1
    mode, expected, share = found[0]
    np.testing.assert_allclose(mode.center, [9.0, 0.0], atol=0.01)
    assert expected == pytest.approx(0.2, abs=0.01) and share == 0


def test_a_mode_with_its_draws_is_not() -> None:
    potential = potential_of(two_modes, where=np.array([9.0, 0.0]), log_odds=0.0)
    rng = np.random.default_rng(0)
    u = rng.standard_normal((2000, 2)) + 9.0 * np.outer(rng.random(2000) < 0.5, [1.0, 0.0])
    assert missing_modes(potential, find_modes(potential, u), u, -math.inf) == []


def test_a_mode_of_little_mass_does_not_count() -> None:
    potential = potential_of(two_modes, where=np.array([9.0, 0.0]), log_odds=math.log(1000.0))
    u = np.random.default_rng(0).standard_normal((2000, 2))
    assert missing_modes(potential, find_modes(potential, u), u, -math.inf) == []


def test_the_gaussian_bound_is_the_evidence_of_a_gaussian() -> None:
    potential = potential_of(wide_scales, sd=SD)
    u = SD * np.random.default_rng(0).standard_normal((200_000, 3))
    assert gaussian_elbo(potential, u) == pytest.approx(0.0, abs=1e-2)


def test_components_that_overlap_are_judged_in_one_order():
    """Eight rows around -1.5 and 1.5: chains exchange the two means, which is no error of the exact
    posterior; its mean field is too narrow by a third.
    """
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(-1.5, 1, (4, 1)), rng.normal(1.5, 1, (4, 1))])
    model = gb.models.GaussianMixture(2, 1, "unit", concentration=None, mean_precision=1 / 9)
    fits = {
        "exact": gb.exact(model, gb.guides.EnumeratedMixture(model), {"x": x}),
        "cavi": gb.cavi(model, gb.guides.MixtureMeanField(model), {"x": x}, progress=False),
    }
    table = gb.compare(fits).table
    assert table.loc["exact", "verdict"] == "trust"
    assert table.loc["cavi", "verdict"] != "trust"
    evidence = fits["exact"].notes["log_evidence"]
    assert table.loc["exact", "log_evidence"] == pytest.approx(evidence, abs=1e-8)
    assert table.loc["cavi", "sd_ratio_min"] < 0.83
