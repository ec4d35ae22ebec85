"""Factors that do not exist, of some positions: those are not numbers, the others as by themselves."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from guidebook.programs.graphs.interpreted import AFTER_CALLS
from guidebook.programs.graphs.marked import CHECK, FACTORS, marked
from guidebook.programs.graphs.recorded import record
from guidebook.programs.potential import Potential

Y = torch.tensor([0.3, -0.2], dtype=torch.float64)


def correlated(y):
    """Correlation r, of which a covariance exists for |r| < 1 alone."""
    r = pyro.sample("r", dist.Normal(torch.zeros_like(y[0]), 1.0))
    one = torch.ones_like(r)
    covariance = torch.stack([torch.stack([one, r], -1), torch.stack([r, one], -1)], -2)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(y), covariance), obs=y)


def in_closed_form(r: np.ndarray) -> np.ndarray:
    """log N(r; 0, 1) + log N(y; 0, [[1, r], [r, 1]])."""
    a, b = Y.tolist()
    inside = (a * a - 2 * r * a * b + b * b) / (1 - r * r)
    density: np.ndarray = -0.5 * (r * r + 3 * math.log(2 * math.pi) + np.log(1 - r * r) + inside)
    return density


@pytest.mark.parametrize("first", [0.0, 3.0])
def test_positions_without_a_factor_are_no_numbers_and_the_others_what_they_are(first) -> None:
    """Also where the first batch, from which it is recorded, holds some, and once it is interpreted."""
    with pyro.validation_enabled(False):
        potential = Potential(correlated, {"y": Y})
        u = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
        potential.value_and_grad(torch.full_like(u, first))
        for _ in range(AFTER_CALLS + 1):
            value, grad = potential.value_and_grad(u)
    r = u[:, 0].numpy()
    exists = np.abs(r) < 1 - 1e-9
    np.testing.assert_array_equal(value.isnan(), ~exists)
    np.testing.assert_array_equal(grad[:, 0].isnan(), ~exists)
    np.testing.assert_allclose(value[exists], in_closed_form(r[exists]), rtol=1e-10)
    step = 1e-6
    slope = (in_closed_form(r[exists] + step) - in_closed_form(r[exists] - step)) / (2 * step)
    np.testing.assert_allclose(grad[exists, 0], slope, rtol=1e-5, atol=1e-7)
    assert potential.vectorised


def test_an_inverse_is_marked_and_what_is_not_known_still_raises() -> None:
    singular = torch.stack([torch.eye(2), torch.zeros(2, 2)])
    graph = record(torch.linalg.inv, torch.eye(2).expand(2, 2, 2).clone())
    with pytest.raises(torch.linalg.LinAlgError):
        graph(singular)
    found = marked(graph)(singular)
    assert torch.equal(found[0], torch.eye(2)) and bool(found[1].isnan().all())
    solving = record(lambda a: torch.linalg.solve(a, torch.ones(2, 1)), torch.eye(2))
    assert any(node.target is CHECK for node in solving.graph.nodes) and marked(solving) is solving
    plain = record(torch.exp, torch.eye(2))
    assert marked(plain) is plain


def test_a_factor_that_nothing_reads_is_not_made() -> None:
    """Its check kept it in the recording: with the check goes all that led to it."""
    graph = record(lambda a: (torch.linalg.cholesky(a.exp()), a + 1.0)[1], torch.eye(2))
    assert any(node.target in FACTORS for node in graph.graph.nodes)
    found = marked(graph)
    assert [n.target for n in found.graph.nodes if n.op == "call_function"] == [
        torch.ops.aten.add.Tensor
    ]
    assert torch.equal(found(torch.zeros(2, 2)), torch.ones(2, 2))  # exp(0) has no factor
