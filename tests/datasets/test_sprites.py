"""Sprites against their geometry."""

import numpy as np
import pytest
import torch

from guidebook.datasets.sprites import LEVELS, sprite_factors, sprites


def test_one_picture_for_every_combination_and_no_two_alike():
    x, factors = sprites()["x"], sprite_factors()
    assert x.shape == (3072, 256)
    assert x.dtype == torch.get_default_dtype()
    assert factors.shape == (3072, 5)
    assert tuple((factors.max(0).values + 1).tolist()) == LEVELS
    assert len(torch.unique(factors, dim=0)) == 3072
    assert len(torch.unique(x, dim=0)) == 3072
    assert x.min() == 0
    assert x.max() == 1
    assert torch.equal(x, sprites()["x"])


def test_areas_centres_and_orientation_are_those_of_the_shapes():
    levels = (3, 2, 4, 2, 2)
    side = 32
    x = sprites(side, levels)["x"].double().numpy().reshape(-1, side, side)
    shape, scale, turn, across, down = sprite_factors(levels).numpy().T
    radius = np.array([0.16, 0.28])[scale] * side
    area = x.sum((1, 2))
    for number, of_unit in ((0, 1.6**2), (1, np.pi * 0.55)):
        rows = shape == number
        np.testing.assert_allclose(area[rows], of_unit * radius[rows] ** 2, rtol=0.03)
    grid = np.arange(side) + 0.5
    middle = np.array([0.3, 0.7]) * side
    symmetric = shape < 2  # a heart's centre of mass is not its origin
    for axis, place in ((1, across), (2, down)):
        mean = (x.sum(axis) * grid).sum(-1) / area
        np.testing.assert_allclose(mean[symmetric], middle[place][symmetric], atol=0.1)
    # the long axis of the ellipse turns by the angle
    for i in np.flatnonzero((shape == 1) & (scale == 1)):
        dy, dx = np.meshgrid(grid - middle[down[i]], grid - middle[across[i]], indexing="ij")
        covariance = [(x[i] * a * b).sum() for a, b in ((dx, dx), (dx, dy), (dy, dy))]
        angle = 0.5 * np.arctan2(2 * covariance[1], covariance[0] - covariance[2])
        assert angle == pytest.approx(np.pi / 8 * turn[i], abs=0.03)
