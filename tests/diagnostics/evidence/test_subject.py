"""What witnesses are heard on: marginals by name, and what counts as a standard deviation."""

import arviz_base
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

from guidebook.diagnostics.evidence.subject import (
    Marginals,
    Subject,
    Whole,
    attribute,
    marginals_of,
)
from guidebook.programs.potential import Potential


def test_the_least_standard_deviation_of_whole_numbers() -> None:
    """That of a value seen in a hundred of S draws, sqrt(100 / S) in sds: 2 x 10 / sqrt(S)."""
    subject = Subject("density", ["a", "b"], np.zeros((10_000, 1, 2)), np.array([True, False]))
    assert subject.least_sd[0] == pytest.approx(0.2)
    assert subject.least_sd[1] < 1e-200
    assert not subject.moved  # but where it is said


def test_marginals_are_matched_by_name() -> None:
    found = Marginals(["a", "b", "c"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found.in_order_of(["c", "a"]), [[2.0, 0.0], [5.0, 3.0]])
    np.testing.assert_array_equal(found.in_order_of(["d", "a"]), [[np.nan, 0.0], [np.nan, 3.0]])
    assert found.in_order_of(["d"]) is None


def test_what_is_not_said_of_draws() -> None:
    """They are of no trained model, their tails are light, and their marginals are continuous."""
    bare = Subject("density", ["a"], np.zeros((3, 1, 1)), np.zeros(1, bool))
    assert not bare.amortized and bare.tails.tolist() == [[1.0]]
    assert not Marginals(["a"], np.zeros((3, 1))).discrete


def test_one_posterior_a_column_of_the_second_axis() -> None:
    mixed = Subject("density", ["a", "b"], np.zeros((5, 4, 2)), np.array([True, False]))
    assert (mixed.draws, mixed.posteriors, mixed.is_discrete) == (5, 4, True)
    assert mixed.tails.shape == (1, 1)


DRAWS = {
    "a": np.arange(6.0).reshape(2, 3),
    "b": np.arange(24.0).reshape(2, 3, 2, 2),
    "c": -np.arange(6.0).reshape(2, 3, 1),
}
"""Two chains of three draws."""


def test_chains_and_draws_are_joined_and_entries_are_named() -> None:
    found = marginals_of(arviz_base.from_dict({"posterior": DRAWS}))
    assert found.names == ["a", "b[0, 0]", "b[0, 1]", "b[1, 0]", "b[1, 1]", "c[0]"]
    expected = np.column_stack([DRAWS["a"].ravel(), DRAWS["b"].reshape(6, 4), DRAWS["c"].ravel()])
    np.testing.assert_array_equal(found.values, expected)
    assert not found.discrete


def test_some_variables_alone() -> None:
    tree = arviz_base.from_dict({"posterior": DRAWS})
    assert marginals_of(tree, only={"c", "a"}).names == ["a", "c[0]"]
    assert marginals_of(tree, only={"b"}).values.shape == (6, 4)


def test_the_order_of_the_dimensions_does_not_matter() -> None:
    tree = arviz_base.from_dict({"posterior": DRAWS})
    turned = tree.copy()
    turned["posterior"] = xr.DataTree(
        tree["posterior"].to_dataset().transpose("draw", "chain", ...)
    )
    np.testing.assert_array_equal(marginals_of(turned).values, marginals_of(tree).values)


def test_what_a_file_says_of_its_fit() -> None:
    tree = arviz_base.from_dict({"posterior": DRAWS})
    assert attribute(tree, "family") == ""
    tree["vi_fit"] = xr.DataTree(xr.Dataset(attrs={"family": "flow", "discrete": 1}))
    assert attribute(tree, "family") == "flow" and attribute(tree, "engine") == ""
    assert marginals_of(tree).discrete


def test_a_global_density_is_that_of_one_posterior() -> None:
    """Two standard normal z and a log-normal s = exp u: log p is that of three standard normal numbers."""

    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("s", dist.LogNormal(0.0, 1.0))

    whole = Whole(Potential(model, {}))
    u = torch.tensor([[[0.5, -1.0, 0.3]], [[1.0, 2.0, -0.4]]])
    value, gradient = whole.value_and_grad(u)
    expected = -0.5 * u.square().sum(-1) - 1.5 * np.log(2 * np.pi)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, -u)
    assert value.shape == (2, 1) and gradient.shape == (2, 1, 3)
    values = whole.values(u)
    assert values.shape == (2, 1, 3) and values.dtype == np.float64
    moved = torch.cat([u[..., :2], u[..., 2:].exp()], -1)
    np.testing.assert_allclose(values, moved.numpy(), rtol=1e-6)
    assert torch.equal(whole.ordered(u), u)
