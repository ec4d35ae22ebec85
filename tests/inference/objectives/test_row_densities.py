"""Densities and scales of rows, on programs of normals whose densities are known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from guidebook.errors import ModelError
from guidebook.inference.objectives.rows import (
    PARTICLES,
    At,
    latent_sites,
    row_log_density,
    row_scale,
    traced,
    values_of,
)

X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def normal(value: Tensor, loc: Tensor | float = 0.0) -> Tensor:
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), 1.0).log_prob(value)


def program(x: Tensor, size: int | None = None) -> None:
    """A derived value first, then z_i ~ N(0, 1), a derived value, x_i ~ N(z_i, 1)."""
    with pyro.plate("row", size or len(x), subsample=torch.arange(len(x))):
        pyro.deterministic("before", x.new_zeros(len(x)))
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.deterministic("twice", 2 * z)
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("particles", [1, 4])
@pytest.mark.parametrize("size", [None, 30])
def test_the_density_of_a_row_is_the_unscaled_sum_of_its_sites(
    particles: int, size: int | None
) -> None:
    pyro.set_rng_seed(0)
    trace = traced(program, {"x": X, "size": size}, particles)
    z = values_of(trace)["z"]
    found = row_log_density(trace, particles)
    assert found.shape == (particles, 3) and z.shape[-1] == 3
    torch.testing.assert_close(found, (normal(z) + normal(X, z)).expand(particles, 3))
    assert row_scale(trace) == (10.0 if size else 1.0)


def test_latent_sites_are_those_sampled() -> None:
    trace = traced(program, {"x": X, "size": 30}, 1)
    assert list(latent_sites(trace)) == ["before", "z", "twice"] or list(latent_sites(trace)) == [
        "z"
    ]
    assert set(values_of(trace)) == set(latent_sites(trace))


def test_particles_are_a_plate_left_of_the_models_own() -> None:
    pyro.set_rng_seed(0)
    frames = traced(program, {"x": X}, 4).nodes["z"]["cond_indep_stack"]
    assert {f.name: (f.dim, f.size) for f in frames} == {"row": (-1, 3), PARTICLES: (-2, 4)}
    frames = traced(program, {"x": X}, 4, 3).nodes["z"]["cond_indep_stack"]
    assert {f.name: f.dim for f in frames} == {"row": -1, PARTICLES: -4}
    assert [f.name for f in traced(program, {"x": X}, 1).nodes["z"]["cond_indep_stack"]] == ["row"]


def test_given_values_take_the_place_of_draws_and_not_of_data() -> None:
    at = {"z": torch.ones(3, dtype=torch.float64), "x": torch.zeros(3, dtype=torch.float64)}
    with At(at):
        trace = poutine.trace(program).get_trace(X)
    assert trace.nodes["z"]["value"] is at["z"] and trace.nodes["x"]["value"] is X


def nested(x: Tensor) -> None:
    """A site of the rows alone, and one of rows and pixels, (2, 3)."""
    with pyro.plate("row", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0))
        with pyro.plate("pixel", 2, dim=-2):
            pyro.sample("x", dist.Normal(z.expand(*z.shape[:-1], 3), 1.0), obs=x.expand(2, 3))


@pytest.mark.parametrize("particles", [1, 4])
def test_other_plates_are_summed(particles: int) -> None:
    pyro.set_rng_seed(0)
    trace = traced(nested, {"x": X}, particles, 2)
    z = trace.nodes["z"]["value"].reshape(particles, 3)
    found = row_log_density(trace, particles, "row", 2)
    torch.testing.assert_close(found, normal(z) + 2 * normal(X, z))
    by_pixel = traced(lambda x: nested_pixels(x), {"x": X}, 1, 2)
    assert row_log_density(by_pixel, 1, "pixel", 2).shape == (1, 2)


def nested_pixels(x: Tensor) -> None:
    with pyro.plate("row", 3, dim=-1), pyro.plate("pixel", 2, dim=-2):
        pyro.sample("x", dist.Normal(x.new_zeros(2, 3), 1.0), obs=x.expand(2, 3))


def scaled(x: Tensor) -> None:
    """One site outside of the rows, one inside of rows and pixels; 2 of 6 pixels, 3 of 12 rows."""
    pyro.sample("mu", dist.Normal(x.new_zeros(()), 1.0))
    with (
        pyro.plate("pixel", 6, subsample=torch.arange(2), dim=-2),
        pyro.plate("row", 12, subsample=torch.arange(3), dim=-1),
    ):
        pyro.sample("x", dist.Normal(x.new_zeros(2, 3), 1.0), obs=x.expand(2, 3))


def test_the_scale_of_a_row_is_that_of_the_first_site_in_its_plate() -> None:
    trace = poutine.trace(scaled).get_trace(X)
    assert row_scale(trace) == 12.0
    assert row_scale(trace, "elsewhere") == 1.0
    with pytest.raises(ModelError, match="'mu' is outside the plate 'row'"):
        row_log_density(trace, 1, "row", 2)


def test_a_program_without_sites_has_no_rows() -> None:
    with pytest.raises(ModelError, match="No site of the model lies in a plate called 'row'"):
        row_log_density(poutine.trace(lambda: None).get_trace(), 1)
