"""The story of a Gaussian mean and its exact posterior."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import stats

import guidebook as gb
from guidebook.errors import DataError, GuideError, ModelError, SettingError
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.models.gaussian_mean import gaussian_mean
from tests.guides.conjugate.gaussian_mean.story import DATA, PRIOR, X, log_joint, marginals, story


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


# the model ---------------------------------------------------------------------------------------


def scored(mu, tau, **data):
    values = {n: torch.as_tensor(v, dtype=torch.float64) for n, v in (("mu", mu), ("tau", tau))}
    return poutine.trace(poutine.condition(story, values)).get_trace(**data).log_prob_sum()


def test_log_joint_is_the_equation_in_the_docstring():
    assert scored(0.3, 2.0, **DATA).item() == pytest.approx(log_joint(0.3, 2.0), abs=1e-10)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_average_over_mini_batches_is_the_full_log_joint(batch):
    parts = [scored(0.3, 2.0, x=piece, size=12) for piece in DATA["x"].split(batch)]
    assert torch.stack(parts).mean().item() == pytest.approx(log_joint(0.3, 2.0), abs=1e-10)


def test_log_joint_in_vmap_and_in_vectorised_particles():
    mu, tau = torch.randn(5).double(), torch.rand(5).double() + 0.5
    expected = log_joint(mu.numpy(), tau.numpy())
    with pyro.validation_enabled(False):
        found = torch.func.vmap(lambda m, t: scored(m, t, **DATA))(mu, tau)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    def vectorised():
        with pyro.plate("particle", 5, dim=-2):
            story(**DATA)

    values = {"mu": mu.unsqueeze(1), "tau": tau.unsqueeze(1)}
    trace = poutine.trace(poutine.condition(vectorised, values)).get_trace()
    trace.compute_log_prob()
    total = sum(trace.nodes[n]["log_prob"].sum(-1) for n in ("tau", "mu", "x"))
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def test_prior_predictive_rows_are_student_t():
    # x ~ t with 2 a degrees of freedom, scale^2 = b / a (1 + 1 / strength). At 1e-5, fixed seed.
    with torch.no_grad():
        drawn = np.array([story(size=3)[2].item() for _ in range(3000)])
    a, b, k = PRIOR["shape"], PRIOR["rate"], PRIOR["strength"]
    marginal = stats.t(2 * a, loc=PRIOR["loc"], scale=math.sqrt(b / a * (1 + 1 / k)))
    assert stats.kstest(drawn, marginal.cdf).pvalue > 1e-5


# the exact posterior -----------------------------------------------------------------------------


def test_evidence_is_scipys_multivariate_t():
    a, b, k = PRIOR["shape"], PRIOR["rate"], PRIOR["strength"]
    marginal = stats.multivariate_t(
        np.full(12, PRIOR["loc"]), b / a * (np.eye(12) + np.ones((12, 12)) / k), df=2 * a
    )
    found = NormalGammaPosterior(**PRIOR).log_evidence(DATA["x"]).item()
    assert found == pytest.approx(marginal.logpdf(X), abs=1e-9)


@pytest.mark.parametrize("defaults", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_exact_confirms_the_posterior(defaults, offset):
    data = {"x": X + offset}
    guide = NormalGammaPosterior() if defaults else NormalGammaPosterior(**PRIOR)
    fit = gb.exact(gaussian_mean if defaults else story, guide, data)
    expected = guide.log_evidence(torch.from_numpy(data["x"])).item()
    assert fit.notes["log_evidence"] == pytest.approx(expected, rel=1e-10)


def test_one_row_by_hand():
    # m0 = 0, strength = a = b = 1, x = 2: m = 1, strength 2, a = 3/2, b = 1 + 1/2 * 1/2 * 4 = 2.
    guide = NormalGammaPosterior(loc=0.0, strength=1.0, shape=1.0, rate=1.0)
    q = guide.posterior(torch.tensor([2.0], dtype=torch.float64))
    assert [v.item() for v in q] == pytest.approx([1.0, 2.0, 1.5, 2.0], abs=1e-12)


def test_draws_have_the_posteriors_marginals():
    # Two Kolmogorov-Smirnov tests at 1e-5, fixed seed.
    fit = gb.exact(story, NormalGammaPosterior(**PRIOR), {"x": X})
    tree = fit.posterior(4000, seed=1)
    for name, marginal in zip(("mu", "tau"), marginals(), strict=True):
        assert stats.kstest(tree["posterior"][name].values.ravel(), marginal.cdf).pvalue > 1e-5


def test_posterior_errors():
    guide = NormalGammaPosterior()
    with pytest.raises(GuideError, match="needs all 100 rows and was given 12"):
        guide(DATA["x"], size=100)
    with pytest.raises(DataError, match="no x"):
        guide()
    with pytest.raises(DataError, match=r"x \(12, 1\)"):
        guide(DATA["x"].unsqueeze(1))
    for wrong in ({"strength": 0.0}, {"shape": -1.0}, {"rate": math.inf}, {"loc": math.nan}):
        for kind in (NormalGammaPosterior, GaussianMeanField):
            with pytest.raises(SettingError, match="positive"):
                kind(**wrong)
    with pytest.raises(ModelError, match="at least one row"):
        gaussian_mean(size=0)
    with pytest.raises(DataError, match="NaN at index"):
        gb.exact(gaussian_mean, guide, {"x": np.array([0.0, np.nan])})


# its prior and its data --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NormalGammaPosterior, GaussianMeanField])
def test_the_limits_of_the_prior(kind):
    for name in ("strength", "shape", "rate"):
        assert getattr(kind(**{name: 0.25}), name) == 0.25
        for wrong in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(SettingError, match=f"{name}={wrong}"):
                kind(**{name: wrong})
    for wrong in (math.inf, -math.inf, math.nan):
        with pytest.raises(SettingError, match="must be finite"):
            kind(loc=wrong)
    defaults = {n: getattr(kind(), n) for n in PRIOR}
    assert defaults == {n: v for n, v in gaussian_mean.__kwdefaults__.items() if n in PRIOR}


def test_all_rows_may_be_said_to_be_all_and_keep_their_dtype():
    guide = NormalGammaPosterior(**PRIOR)
    assert guide(DATA["x"], size=12)["mu"].dtype is torch.float64
    for name, value in guide.posterior(DATA["x"].float())._asdict().items():
        assert value.dtype is torch.float32, name
    field = GaussianMeanField(**PRIOR)
    for name, value in field.named_buffers():
        assert value.dtype is torch.float64, name
    assert field()["mu"].dtype is torch.float64


def test_draws_are_in_the_precision_of_the_data() -> None:
    guide = GaussianMeanField()
    for dtype in (torch.float32, torch.float64):
        assert {v.dtype for v in guide(torch.zeros(3, dtype=dtype)).values()} == {dtype}
    assert {v.dtype for v in guide().values()} == {torch.float64}
