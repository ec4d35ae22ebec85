"""How sweeps of expectation propagation come to rest, what is left out, kept and refused."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.sites import ClutterSites, LogisticSites, ProbitSites
from guidebook.inference.ep import ep
from guidebook.models.clutter import clutter
from guidebook.models.probit import probit_regression
from guidebook.models.regression import logistic_regression
from tests.inference.ep.stories import BOTH, minka, one_column, quadrature


def test_both_schedules_and_any_damping_come_to_rest_at_the_same_place():
    data = one_column(30, 5, scipy.stats.norm)
    fits = [
        ep(
            probit_regression,
            ProbitSites(),
            data,
            schedule=s,
            damping=d,
            tolerance=1e-9,
            progress=False,
        )
        for s, d in (("sequential", None), ("parallel", None), ("parallel", 0.3))
    ]
    for fit in fits[1:]:
        np.testing.assert_allclose(fit.guide.loc, fits[0].guide.loc, atol=1e-7)
        np.testing.assert_allclose(fit.guide.scale_tril, fits[0].guide.scale_tril, atol=1e-7)
        assert fit.notes["log_evidence_ep"] == pytest.approx(fits[0].notes["log_evidence_ep"])


def test_the_result_is_the_density_of_its_sites():
    """q is prior times sites, and each marginal has the moments of its tilted distribution."""
    data = one_column(30, 5, scipy.stats.logistic)
    guide = ep(logistic_regression, LogisticSites(), data, progress=False).guide
    A = np.column_stack([np.ones(30), data["X"]])
    tau, nu = guide.site_precision.numpy(), guide.site_shift.numpy()[:, 0]
    assert (tau > 0).all()  # the likelihood is log-concave
    covariance = np.linalg.inv(np.eye(2) / 6.25 + A.T @ (tau[:, None] * A))
    q = guide.posterior()
    np.testing.assert_allclose(q.covariance_matrix, covariance, atol=1e-12)
    np.testing.assert_allclose(q.mean, covariance @ A.T @ nu, atol=1e-12)
    for i in range(3):
        mean, variance = A[i] @ q.mean.numpy(), A[i] @ covariance @ A[i]
        cavity = 1 / (1 / variance - tau[i])
        sign = 2 * data["y"][i] - 1
        _, there, spread = quadrature(
            lambda s, sign=sign: scipy.stats.logistic.logcdf(sign * s),
            cavity * (mean / variance - nu[i]),
            cavity,
        )
        assert mean == pytest.approx(there, abs=1e-5)
        assert variance == pytest.approx(spread, rel=1e-5)


def test_sweeps_that_do_not_suffice_are_said():
    data = one_column(30, 5, scipy.stats.norm)
    fit = ep(probit_regression, ProbitSites(), data, sweeps=1, progress=False)
    assert fit.status is Status.STILL_MOVING
    assert fit.notes["residual"] > 1e-6


@BOTH
def test_factors_that_cannot_agree_leave_q_proper_and_the_status_honest(schedule):
    # few points on both sides of the clutter: the posterior has two modes, and EP is known to fail
    rng = np.random.default_rng(0)
    ended = []
    for _ in range(4):
        x = rng.normal(0, 1, (3, 1)) + rng.choice([-6.0, 6.0], (3, 1))
        fit = ep(clutter, ClutterSites(), {"x": x}, sweeps=60, schedule=schedule, progress=False)
        assert np.isfinite(fit.history).all()
        assert float(fit.guide.posterior().variance) > 0
        resting = fit.notes["residual"] < 1e-6 and fit.notes["left_out"] == 0
        assert fit.status is (Status.CONVERGED if resting else Status.STILL_MOVING)
        assert ("log_evidence_ep" in fit.notes) == (fit.notes["left_out"] == 0)
        ended.append(fit.status)
    assert Status.CONVERGED in ended
    assert schedule == "sequential" or Status.STILL_MOVING in ended


def test_a_site_with_an_improper_cavity_is_left_out_and_counted():
    fit = ep(
        clutter, ClutterSites(), {"x": minka(20, 1, seed=4)}, schedule="sequential", progress=False
    )
    assert fit.notes["left_out"] == 1
    assert "log_evidence_ep" not in fit.notes
    assert fit.status is Status.STILL_MOVING


def test_a_saved_fit_comes_back(tmp_path):
    data = one_column(30, 5, scipy.stats.norm)
    guide = ProbitSites()
    fit = ep(probit_regression, guide, data, progress=False)
    assert guide.loc is None  # what was passed in is not touched
    back = gb.load(
        fit.save(tmp_path / "fit.pt"), model=probit_regression, guide=ProbitSites(), data=data
    )
    one, two = (f.posterior(10)["posterior"]["beta"].values for f in (fit, back))
    assert (one == two).all()


def test_what_does_not_fit_is_named():
    data = one_column(30, 5, scipy.stats.norm)
    with pytest.raises(GuideError, match=r"are not the model's.*scale"):
        ep(probit_regression, ProbitSites(scale=2.0), data, progress=False)
    with pytest.raises(GuideError, match="are not the model's"):
        ep(logistic_regression, ProbitSites(scale=2.5), data, progress=False)
    with pytest.raises(GuideError, match=r"HasSites.*lacks hold, position.*laplace"):
        ep(probit_regression, gb.guides.full_rank(probit_regression), data, progress=False)
    with pytest.raises(DataError, match="other than 0 and 1"):
        ep(probit_regression, ProbitSites(), {**data, "y": data["y"] + 1}, progress=False)
    with pytest.raises(DataError, match="no observed rows"):
        ep(probit_regression, ProbitSites(), {"X": data["X"]}, progress=False)
    with pytest.raises(DataError, match="all 60 rows"):
        ep(probit_regression, ProbitSites(), {**data, "size": 60}, progress=False)
    for wrong in ({"sweeps": 0}, {"schedule": "random"}, {"damping": 1.5}, {"tolerance": 0.0}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            ep(probit_regression, ProbitSites(), data, progress=False, **wrong)
    with pytest.raises(SettingError, match="scale=0"):
        ProbitSites(scale=0.0)
    with pytest.raises(SettingError, match="share=1"):
        ClutterSites(share=1.0)
    with pytest.raises(SettingError, match="share=0"):
        clutter(torch.zeros(2, 1), share=0.0)
