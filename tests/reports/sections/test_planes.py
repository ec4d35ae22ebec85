"""Figures of autoencoders: what they draw is what they were given."""

import numpy as np
import pytest

from guidebook.diagnostics.measures.gradients import Noise
from guidebook.errors import DataError
from guidebook.reports.sections.planes import gradient_errors, pictures, posteriors_in_the_plane


def test_every_pixel_is_where_it_belongs() -> None:
    x = np.arange(24.0).reshape(4, 6) / 24
    drawn = pictures({"one": x[:3], "two": x[3:]}, (2, 3), above=["a", "b", "c"])
    axes = drawn.axes[0]
    canvas = axes.images[0].get_array()
    assert canvas is not None
    assert canvas.shape == (2 * 3 - 1, 3 * 4 - 1)
    np.testing.assert_array_equal(canvas[:2, 4:7], x[1].reshape(2, 3))
    np.testing.assert_array_equal(canvas[3:, :3], x[3].reshape(2, 3))
    assert canvas.mask[3:, 4:].all()
    assert canvas.mask[2].all()
    assert [t.get_text() for t in axes.get_yticklabels()] == ["one", "two"]


def test_ellipses_are_of_one_and_two_standard_deviations() -> None:
    line = (np.arange(40) + 0.5) / 5 - 4
    nodes = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    tril = np.array([[0.5, 0.0], [0.3, 0.4]])
    mean = np.array([1.0, -0.5])
    white = np.linalg.solve(tril, (nodes - mean).T)
    weights = np.exp(-0.5 * np.square(white).sum(0))
    weights /= weights.sum()
    drawn = posteriors_in_the_plane(nodes, weights[None], {"q": (mean[None], tril[None])}, ["row"])
    axes = drawn.axes[0]
    for ring, radius in zip(axes.lines, (1.0, 2.0), strict=True):
        points = np.stack(ring.get_data()).astype(float) - mean[:, None]
        np.testing.assert_allclose(np.linalg.norm(np.linalg.solve(tril, points), axis=0), radius)
    # the shade under the centre is the darkest: x runs along the first coordinate
    shade = np.asarray(axes.collections[0].get_array()).reshape(40, 40)
    row, column = np.unravel_index(shade.argmax(), shade.shape)
    assert abs(line[column] - 1.0) <= 0.1001
    assert abs(line[row] + 0.5) <= 0.1001


def test_bias_and_noise_are_the_estimators() -> None:
    exact = np.array([3.0, 4.0])
    found = {
        "unbiased": Noise(np.array([3.0, 4.1]), np.array([1.0, 1.0]), 100, exact),
        "biased": Noise(np.array([3.0, 6.0]), np.array([0.3, 0.4]), 100, exact),
    }
    left, right = gradient_errors(found).axes
    np.testing.assert_allclose(left.lines[0].get_xdata(), [0.1, 2.0])
    np.testing.assert_allclose(left.lines[1].get_xdata(), [np.sqrt(0.02), 0.05])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [np.sqrt(2), 0.5])
    for axes in (left, right):
        np.testing.assert_allclose(axes.lines[-1].get_xdata(), 5.0)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(DataError, match="arrays \\(m, 6\\)"):
        pictures({"one": np.zeros((2, 5))}, (2, 3))
    with pytest.raises(DataError, match="square grid"):
        posteriors_in_the_plane(np.zeros((9, 1)), np.ones((1, 9)), {}, ["row"])
    with pytest.raises(DataError, match="exact"):
        gradient_errors({"one": Noise(np.zeros(1), np.ones(1), 10)})
