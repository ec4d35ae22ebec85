"""The mixture's section of the page: responsibilities by hand, ellipses, labels, the ELBO's forms."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

import guidebook as gb
from guidebook.diagnostics.measures.forms import elbo_forms
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.models.mixture import GaussianMixture
from guidebook.reports.sections import mixture as figures
from guidebook.reports.sections.forms import forms_table, residual

X = np.array([[-3.0, -3.1], [-2.8, -3.3], [0.1, -0.4], [0.9, 0.2], [3.1, 3.4]])


@pytest.fixture(scope="module")
def fits():
    model = GaussianMixture(3, 2, "unit", concentration=None, mean_precision=0.1)
    quiet = {"progress": False}
    guide = MixtureMeanField(model)
    return {
        "cavi": gb.cavi(model, guide, {"x": X}, **quiet),
        "em": gb.em(model, MixtureMode(model), {"x": X}, **quiet),
        "gibbs": gb.gibbs(model, guide, {"x": X}, draws=100, tune=50, **quiet),
        "exact": gb.exact(model, EnumeratedMixture(model), {"x": X}),
    }


@pytest.fixture(scope="module")
def comparison(fits):
    return gb.compare(fits, reference="exact")


@pytest.fixture(scope="module")
def numbers(comparison):
    return figures.mixture_numbers(comparison)


def test_responsibilities_of_a_point_are_those_of_scipy(fits, numbers):
    """em's draws are all one point: its responsibilities by Bayes' rule with scipy's densities."""
    loc = fits["em"].guide.values["loc"].numpy()
    loc = loc[np.argsort(loc[:, 0])]
    density = np.stack([stats.multivariate_normal(m).pdf(X) for m in loc], -1)
    np.testing.assert_allclose(
        numbers.clusters["em"].share, density / density.sum(1, keepdims=True), atol=1e-6
    )
    np.testing.assert_allclose(numbers.clusters["em"].loc, loc, atol=1e-6)


def test_responsibilities_of_full_covariances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    weights, loc = rng.dirichlet(np.ones(3)), rng.normal(size=(3, 2))
    roots = rng.normal(size=(3, 2, 2))
    precision = roots @ roots.swapaxes(1, 2) + np.eye(2)
    density = weights * np.stack(
        [stats.multivariate_normal(m, np.linalg.inv(p)).pdf(X)
         for m, p in zip(loc, precision, strict=True)], -1)  # fmt: skip
    np.testing.assert_allclose(
        figures._shares(X, weights, loc, precision), density / density.sum(1, keepdims=True),
        rtol=1e-9,
    )  # fmt: skip


def test_every_approximation_has_rows_that_sum_to_one(numbers):
    assert list(numbers.clusters) == ["cavi", "em", "gibbs", "exact"]
    for one in numbers.clusters.values():
        np.testing.assert_allclose(one.share.sum(1), 1.0)
        assert (np.diff(one.loc[:, 0]) > 0).all()  # one labelling for all


@pytest.mark.parametrize("deviations", [1.0, 2.0])
def test_an_ellipse_is_where_the_mahalanobis_distance_is_constant(deviations):
    covariance = np.array([[2.0, 0.9], [0.9, 0.7]])
    patch = figures.ellipse(np.array([1.0, -2.0]), covariance, deviations, "red", 1.0)
    path = patch.get_path().vertices[:-1]  # of a circle by Bezier arcs: right to 3e-4
    away = patch.get_patch_transform().transform(path) - [1.0, -2.0]
    on_curve = np.abs(np.linalg.norm(path, axis=1) - 1) < 1e-9
    assert on_curve.sum() >= 8
    distance = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away))
    np.testing.assert_allclose(distance[on_curve], deviations, rtol=1e-6)


def test_more_columns_lie_on_their_principal_axes():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 4)) * [1.0, 5.0, 0.1, 2.0]
    centre, axes, words = figures.plane(x)
    np.testing.assert_allclose(centre, x.mean(0))
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    assert np.abs(axes[:, 0]).argmax() == 1 and np.abs(axes[:, 1]).argmax() == 3
    assert "% of variance" in words[0]


def test_rows_are_sorted_by_component_and_the_surest_first():
    share = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1], [0.0, 1.0]])
    assert figures.row_order(share).tolist() == [2, 1, 3, 0]


def test_passes_over_the_data():
    np.testing.assert_allclose(figures.passes_of("cavi", 3, 10, {}), [0, 1, 2])
    np.testing.assert_allclose(
        figures.passes_of("natural_svi", 3, 10, {"batch_size": 5}), [0.5, 1.0, 1.5]
    )
    np.testing.assert_allclose(figures.passes_of("svi", 2, 10, {"batch_size": None}), [1, 2])


def test_the_figures_are_drawn(comparison, numbers):
    pictures = figures.pictures(comparison, numbers)
    assert [p.title for p in pictures][:2] == ["Clusters", "Responsibilities"]
    assert len(pictures) == 3
    clusters, shares, ascent = (p.figure for p in pictures)
    assert all(isinstance(p, Figure) for p in (clusters, shares, ascent))
    shown = [axes for axes in clusters.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == list(numbers.clusters)
    assert all(len(axes.patches) == 6 for axes in shown)  # 1 and 2 sd of three components
    labels = [text.get_text() for text in ascent.legends[0].get_texts()]
    assert labels == ["cavi: cavi, ELBO", "em: em, log p(x, θ)"]


@pytest.mark.parametrize("D", [1, 3])
def test_one_column_and_three_are_drawn(D):
    x = np.random.default_rng(0).normal(size=(40, D)) + np.repeat([[-4.0], [4.0]], 20, 0)
    model = GaussianMixture(2, D, "diagonal")
    fit = gb.cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    comparison = SimpleNamespace(
        model=model, data={"x": x}, reference=None, posteriors={"cavi": fit.posterior(100)},
        histories={"cavi": fit.history}, table=pd.DataFrame({"engine": ["cavi"]}, index=["cavi"]),
    )  # fmt: skip
    numbers = figures.mixture_numbers(comparison)
    assert len(figures.pictures(comparison, numbers)) == 3
    assert numbers.clusters["cavi"].share[:20, 0].min() > 0.99
    sd = np.sqrt(np.diagonal(numbers.clusters["cavi"].covariance, axis1=1, axis2=2))
    assert ((sd > 0.6) & (sd < 1.8)).all()


def test_other_models_have_no_such_section():
    assert figures.mixture_numbers(SimpleNamespace(model=None, data=None, posteriors={})) is None


def test_label_switching_is_said(numbers):
    words = figures.labelling(numbers)
    assert "3! = 6 copies" in words and "of the draws of gibbs were relabelled" in words
    one = figures.MixtureNumbers(X, 5, 1, {})
    assert figures.labelling(one).startswith("One component")


def test_the_page_has_the_section_and_the_forms(comparison, tmp_path):
    page = comparison.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    for words in ("The mixture", "Clusters", "Responsibilities", "sweep by sweep", "3! = 6 copies",
                  "The ELBO in its three forms", "KL to posterior", "Free energy"):  # fmt: skip
        assert words in page, words


# the forms of the ELBO ----------------------------------------------------------------------------


def test_the_forms_agree_and_the_evidence_is_elbo_plus_kl(fits, comparison):
    assert set(comparison.bounds) == {"cavi", "exact"}  # those with a density
    evidence = fits["exact"].notes["log_evidence"]
    for name, found in comparison.bounds.items():
        # draw by draw the same numbers: equal up to rounding
        assert found.energy_form.value == pytest.approx(found.data_form.value, abs=1e-8), name
        assert found.evidence_form.value == pytest.approx(found.energy_form.value, abs=1e-8)
        assert residual(found).value == pytest.approx(0.0, abs=1e-8)
        assert found.free_energy.value == -found.energy_form.value
        assert found.log_evidence.value == evidence
    assert comparison.bounds["exact"].posterior_kl.value == pytest.approx(0.0, abs=1e-8)
    cavi = comparison.bounds["cavi"]
    assert 0 < cavi.posterior_kl.value < 0.5


def test_the_elbo_is_the_closed_form_of_cavi_with_its_labellings():
    """Clusters far apart: assignments are certain, so that summing them out gains nothing, and the
    ELBO in one labelling is that of cavi's closed form and log 3!. 5 standard errors: 1e-6.
    """
    x = np.concatenate([X[:2] - 30, X[2:4], X[4:] + 30])
    model = GaussianMixture(3, 2, "unit", concentration=None, mean_precision=0.001)
    fit = gb.cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    found = elbo_forms({"cavi": fit})["cavi"].energy_form
    closed = -fit.history[-1] + math.lgamma(4)
    assert found.value == pytest.approx(closed, abs=5 * found.se + 1e-6)


def test_columns_that_no_row_fills_are_left_out(fits):
    headings, rows = forms_table(elbo_forms({"cavi": fits["cavi"]}))
    assert [h for h, _ in headings] == [
        "Energy", "Entropy", "Data term", "KL to prior", "ELBO", "ELBO", "Free energy"
    ]  # fmt: skip
    assert rows[0].name == "cavi" and len(rows[0].cells) == len(headings)
    assert all("±" in cell for cell in rows[0].cells)


def test_models_without_discrete_sites_have_forms_too():
    pair = gb.pair("gaussian-mean")
    model, data = pair.model(), pair.data()
    fits = {
        "cavi": gb.cavi(model, pair.engines["cavi"][1](model), data, progress=False),
        "exact": gb.exact(model, pair.exact(model), data),
    }
    found = elbo_forms(fits, "exact")
    for name, one in found.items():
        off = one.evidence_form.value - one.energy_form.value
        assert abs(off) < 5 * math.hypot(one.evidence_form.se, one.energy_form.se) + 1e-6, name
        assert abs(residual(one).value) < 5 * residual(one).se + 1e-6
    assert torch.get_default_dtype() is torch.float32  # as it was
