"""What witnesses are heard on: marginals by name, and what counts as a standard deviation."""

import numpy as np
import pytest

from guidebook.diagnostics.witnesses.subject import Marginals, Subject


def test_the_least_standard_deviation_of_whole_numbers() -> None:
    """That of a value seen in a hundred of S draws, sqrt(100 / S) in sds: 2 x 10 / sqrt(S)."""
    subject = Subject("density", ["a", "b"], np.zeros((10_000, 1, 2)), np.array([True, False]))
    assert subject.least_sd[0] == pytest.approx(0.2)
    assert subject.least_sd[1] < 1e-200


def test_marginals_are_matched_by_name() -> None:
    found = Marginals(["a", "b", "c"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(found.in_order_of(["c", "a"]), [[2.0, 0.0], [5.0, 3.0]])
    assert found.in_order_of(["a", "d"]) is None


def test_what_is_not_said_of_draws() -> None:
    """They are of no trained model, their tails are light, and their marginals are continuous."""
    bare = Subject("density", ["a"], np.zeros((3, 1, 1)), np.zeros(1, bool))
    assert not bare.amortized and bare.tails.tolist() == [[1.0]]
    assert not Marginals(["a"], np.zeros((3, 1))).discrete
