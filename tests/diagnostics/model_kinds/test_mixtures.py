"""Numbers of mixtures: responsibilities against scipy's densities, passes, label order."""

from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

import guidebook as gb
from guidebook.diagnostics.model_kinds.mixtures import (
    mixture_numbers,
    passes_of,
    responsibilities,
)
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.models.mixture import GaussianMixture

X = np.array([[-3.0, -3.1], [-2.8, -3.3], [0.1, -0.4], [0.9, 0.2], [3.1, 3.4]])
MODEL = GaussianMixture(3, 2, "unit", concentration=None, mean_precision=0.1)
DATA = MappingProxyType({"x": X})


@pytest.fixture(scope="module")
def fits():
    data = dict(DATA)
    return {
        "cavi": gb.cavi(MODEL, MixtureMeanField(MODEL), data, progress=False),
        "em": gb.em(MODEL, MixtureMode(MODEL), data, progress=False),
        "exact": gb.exact(MODEL, EnumeratedMixture(MODEL), data),
    }


@pytest.fixture(scope="module")
def numbers(fits):
    trees = {name: fit.posterior(300) for name, fit in fits.items()}
    return mixture_numbers(MODEL, DATA, trees, {name: fit.history for name, fit in fits.items()})


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
        responsibilities(X, weights, loc, precision), density / density.sum(1, keepdims=True),
        rtol=1e-9,
    )  # fmt: skip


def test_every_approximation_has_rows_that_sum_to_one(numbers):
    assert list(numbers.clusters) == ["cavi", "em", "exact"]
    for one in numbers.clusters.values():
        np.testing.assert_allclose(one.share.sum(1), 1.0)
        assert (np.diff(one.loc[:, 0]) > 0).all()  # one labelling for all


def test_the_ascents_are_the_histories_of_those_that_climb(fits, numbers):
    assert set(numbers.ascents) == {"cavi", "em"}
    assert numbers.ascents["em"].log_joint and not numbers.ascents["cavi"].log_joint
    np.testing.assert_array_equal(numbers.ascents["cavi"].objective, -fits["cavi"].history)
    assert numbers.log_evidence == pytest.approx(fits["exact"].notes["log_evidence"])
    assert numbers.ascents["cavi"].objective[-1] < numbers.log_evidence


def test_passes_over_the_data():
    np.testing.assert_allclose(passes_of("cavi", 3, 10), [0, 1, 2])
    np.testing.assert_allclose(passes_of("natural_svi", 3, 10, 5), [0.5, 1.0, 1.5])
    np.testing.assert_allclose(passes_of("svi", 2, 10), [1, 2])


def test_other_models_have_no_such_numbers(fits):
    trees = {"cavi": fits["cavi"].posterior(10)}
    assert mixture_numbers(None, None, {}, {}) is None
    assert mixture_numbers(lambda x: None, DATA, trees, {}) is None
    assert mixture_numbers(MODEL, DATA, {}, {}) is None


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
