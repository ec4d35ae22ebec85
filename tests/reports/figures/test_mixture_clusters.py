"""Clusters: ellipses where the Mahalanobis distance is constant, planes of principal axes."""

import numpy as np
import pytest

import guidebook as gb
from guidebook.diagnostics.model_kinds.mixtures import mixture_numbers
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.models.mixture import GaussianMixture
from guidebook.reports.figures.mixture_ascent import ascent
from guidebook.reports.figures.mixture_clusters import clusters, ellipse, plane
from guidebook.reports.figures.mixture_rows import responsibilities
from tests.reports.drawn import is_drawn, only


def test_a_panel_for_every_approximation(mixture_comparison):
    numbers = mixture_comparison.mixture
    drawn = clusters(mixture_comparison, numbers)
    shown = [axes for axes in drawn.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == list(numbers.clusters)
    assert all(len(axes.patches) == 6 for axes in shown)  # 1 and 2 sd of three components


@pytest.mark.parametrize("deviations", [1.0, 2.0])
def test_an_ellipse_is_where_the_mahalanobis_distance_is_constant(deviations):
    covariance = np.array([[2.0, 0.9], [0.9, 0.7]])
    patch = ellipse(np.array([1.0, -2.0]), covariance, deviations, "red", 1.0)
    path = patch.get_path().vertices[:-1]  # of a circle by Bezier arcs: right to 3e-4
    away = patch.get_patch_transform().transform(path) - [1.0, -2.0]
    on_curve = np.abs(np.linalg.norm(path, axis=1) - 1) < 1e-9
    assert on_curve.sum() >= 8
    distance = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away))
    np.testing.assert_allclose(distance[on_curve], deviations, rtol=1e-6)


def test_more_columns_lie_on_their_principal_axes():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)) * [1.0, 5.0, 0.1, 2.0]
    centre, axes, words = plane(x)
    np.testing.assert_allclose(centre, x.mean(0))
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert np.abs(axes[:, 0]).argmax() == 1 and np.abs(axes[:, 1]).argmax() == 3
    assert "% of variance" in words[0]


@pytest.mark.parametrize("D", [1, 3])
def test_one_column_and_three_are_drawn(mixture_comparison, D):
    x = np.random.default_rng(0).normal(size=(40, D)) + np.repeat([[-4.0], [4.0]], 20, 0)
    model = GaussianMixture(2, D, "diagonal")
    fit = gb.cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    numbers = mixture_numbers(model, {"x": x}, {"cavi": fit.posterior(100)}, {"cavi": fit.history})
    alone = only(mixture_comparison, "cavi")
    for draw in (clusters, responsibilities, ascent):
        is_drawn(draw(alone, numbers))
    assert numbers.clusters["cavi"].share[:20, 0].min() > 0.99
    sd = np.sqrt(np.diagonal(numbers.clusters["cavi"].covariance, axis1=1, axis2=2))
    assert ((sd > 0.6) & (sd < 1.8)).all()
