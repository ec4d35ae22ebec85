"""CAVI: its ELBO is Pyro's, below the evidence, never falls, and ends where no update moves it."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import stats

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.inference.cavi import cavi
from guidebook.inference.gibbs import gibbs
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.mixture import GaussianMixture
from guidebook.scope import precision

COVARIANCES = ("unit", "diagonal", "full")


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def clusters(n=60, apart=4.0, D=2, K=3, seed=0):
    rng = np.random.default_rng(seed)
    centers = apart * np.arange(K)[:, None] * np.ones(D)
    return centers[np.arange(n) % K] + rng.normal(size=(n, D))


def mixture(covariance, K=3, D=2, concentration=0.7):
    return GaussianMixture(K, D, covariance, concentration, 4.0, 0.1, D + 1.5, 1.3)


def fitted(model, x, **options):
    return cavi(model, MixtureMeanField(model), {"x": x}, **{"progress": False, **options})


def assert_same_q(one, other, tolerance):
    for name, value in one.guide.natural.items():
        torch.testing.assert_close(other.guide.natural[name], value, rtol=tolerance, atol=tolerance)


# ascent -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("apart", [0.5, 4.0])
def test_no_sweep_lowers_the_elbo(covariance, apart):
    fit = fitted(mixture(covariance), clusters(apart=apart), tolerance=1e-12)
    rises = -np.diff(fit.history)
    assert fit.status is Status.CONVERGED and len(rises) == fit.notes["sweeps"] >= 2
    assert rises.min() >= -1e-10 * abs(fit.history[-1])
    assert fit.history[0] - fit.history[-1] > 1e-4


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_it_ends_at_a_fixed_point_and_at_a_stationary_elbo(covariance, concentration):
    x = clusters()
    fit = fitted(mixture(covariance, concentration=concentration), x, tolerance=0.0, sweeps=400)
    guide, rows = fit.guide, torch.from_numpy(x)
    _, message = guide.local(rows, guide.expected(guide.natural))
    for name, value in guide.prior.items():
        torch.testing.assert_close(value + message[name], guide.natural[name], rtol=1e-6, atol=1e-6)


def test_every_restart_reports_where_it_ended_and_the_best_is_kept():
    x = clusters(K=5, n=50, apart=1.5)
    model = mixture("diagonal", K=5)
    fit = fitted(model, x, restarts=4, seed=3)
    ends = fit.notes["restarts_objective"]
    assert len(ends) == 4 and fit.history[-1] == min(ends)
    alone = [fitted(model, x, seed=3 + i).history[-1] for i in range(4)]
    assert ends == pytest.approx(alone, rel=1e-12)


def test_the_seed_alone_decides():
    x, model = clusters(apart=1.0), mixture("full")
    pyro.set_rng_seed(1)
    first = fitted(model, x, seed=5)
    pyro.set_rng_seed(2)
    before = torch.get_rng_state()
    assert np.array_equal(fitted(model, x, seed=5).history, first.history)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_passed_in_stays_as_it_is():
    x, model = clusters(), mixture("full")
    guide, kept = MixtureMeanField(model), clusters()
    before = {n: v.clone() for n, v in guide.state_dict().items()}
    cavi(model, guide, {"x": x}, progress=False)
    assert np.array_equal(x, kept)
    assert all(torch.equal(v, before[n]) for n, v in guide.state_dict().items())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_chunks_give_what_the_whole_gives(covariance, tmp_path):
    x, model = clusters(), mixture(covariance)
    whole = fitted(model, x, chunk=1000)
    pieces = fitted(model, x, chunk=7)
    np.testing.assert_allclose(pieces.history, whole.history, rtol=1e-10)
    assert_same_q(whole, pieces, 1e-10)
    np.save(tmp_path / "x.npy", x)
    mapped = fitted(model, np.load(tmp_path / "x.npy", mmap_mode="r"), chunk=7)
    assert_same_q(pieces, mapped, 1e-12)


def test_too_few_sweeps_are_said():
    fit = fitted(mixture("full"), clusters(apart=1.0), sweeps=1)
    assert fit.status is Status.STILL_MOVING and len(fit.history) == 2


# the ELBO ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_the_elbo_is_pyros_of_globals_and_assignments(covariance, concentration):
    # 200 draws of the globals, assignments enumerated: within 5 standard errors, fixed seed.
    x = clusters(n=30)
    model = mixture(covariance, concentration=concentration)
    fit = fitted(model, x)
    rows, elbo = torch.from_numpy(x), TraceEnum_ELBO(max_plate_nesting=1)
    with precision(torch.float64), torch.no_grad():
        found = [-elbo.loss(model, fit.guide.with_assignments, rows) for _ in range(200)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) + fit.history[-1]) < 5 * error
    assert error < 0.5


def test_the_elbo_is_pyros_with_drawn_assignments():
    # 400 draws of everything, within 5 standard errors, fixed seed.
    x = clusters(n=30)
    model = mixture("diagonal")
    fit = fitted(model, x)
    rows, elbo = torch.from_numpy(x), Trace_ELBO()
    drawn = poutine.infer_config(fit.guide.with_assignments, lambda site: {"enumerate": None})
    with precision(torch.float64), torch.no_grad():
        found = [-elbo.loss(model, drawn, rows) for _ in range(400)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert abs(np.mean(found) + fit.history[-1]) < 5 * error
    assert error < 0.5


@pytest.mark.parametrize("apart", [0.0, 1.0, 6.0])
def test_the_elbo_is_below_the_evidence(apart):
    """q sits in one of the two copies of the mode: far apart that alone costs log 2."""
    x = clusters(n=8, apart=apart, D=1, K=2)
    model = GaussianMixture(2, 1, "unit", None, 3.0, 0.1)
    fit = fitted(model, x)
    _, evidence = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    elbo = -fit.history[-1]
    assert elbo < float(evidence)
    if apart == 6.0:
        assert float(evidence) - elbo == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_component_is_the_exact_posterior_after_one_sweep(covariance):
    """K = 1: the ELBO is log p(x), in closed form."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2)) * [1.0, 2.0] + 1
    m, kappa, nu, b = 0.5, 0.3, 3.5, 1.7
    model = GaussianMixture(1, 2, covariance, None, m, kappa, nu, b)
    fit = fitted(model, x)
    if covariance == "unit":
        joint = stats.multivariate_normal(np.full(20, m), np.eye(20) + np.ones((20, 20)) / kappa)
        expected = sum(joint.logpdf(column) for column in x.T)
    elif covariance == "diagonal":
        guide = NormalGammaPosterior(loc=m, strength=kappa, shape=nu / 2, rate=b / 2)
        expected = sum(float(guide.log_evidence(torch.from_numpy(c.copy()))) for c in x.T)
    else:  # one row after the other, each a multivariate t given those before (Murphy 2007, 258)
        expected, loc, scale = 0.0, np.full(2, m), b * np.eye(2)
        for row in x:
            df = nu - 1
            spread = scale * (kappa + 1) / (kappa * df)
            expected += stats.multivariate_t(loc, spread, df=df).logpdf(row)
            away = row - loc
            scale = scale + kappa / (kappa + 1) * np.outer(away, away)
            loc = loc + away / (kappa + 1)
            kappa, nu = kappa + 1, nu + 1
    assert -fit.history[-1] == pytest.approx(expected, abs=1e-8)
    assert fit.notes["sweeps"] <= 2
    assert gb.exact(model, fit.guide, {"x": x}).notes["log_evidence"] == pytest.approx(expected)


def test_gaussian_mean_ends_where_its_closed_form_is():
    x = np.random.default_rng(0).normal(2.0, 1.5, size=25)
    fit = cavi(gaussian_mean, GaussianMeanField(), {"x": x}, tolerance=1e-14, progress=False)
    solved = GaussianMeanField()
    elbo = float(solved.solve({"x": torch.from_numpy(x)}))
    assert fit.status is Status.CONVERGED
    assert -fit.history[-1] == pytest.approx(elbo, abs=1e-10)
    for name, value in solved.state_dict().items():
        torch.testing.assert_close(fit.guide.state_dict()[name], value, rtol=1e-6, atol=0)
    assert np.diff(fit.history).max() <= 1e-10


# against Gibbs ----------------------------------------------------------------------------------


def moments(sampler):
    """Means and standard deviations of `loc` (K, D) by Gibbs, and the means' standard errors."""
    loc = sampler.potential.constrain(sampler.draws.flatten(0, 1))["loc"].numpy()
    sd = loc.std(0, ddof=1)
    return loc.mean(0), sd, sd / math.sqrt(sampler.notes["ess"])


def in_order(fit):
    """The hyperparameters of q, its components in the model's order."""
    hyper = fit.guide.hyper()
    order = fit.model.canonical_order(hyper)
    return {name: value[order].numpy() for name, value in hyper.items()}


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_means_are_those_of_gibbs_where_clusters_are_apart(covariance):
    # Six means within 4.5 standard errors; beyond that a fiftieth of a posterior standard
    # deviation, for what the factorisation itself moves. False alarm below 1e-4, fixed seeds.
    x, model = clusters(n=60, apart=8.0), mixture(covariance)
    q = in_order(fitted(model, x))
    sampler = gibbs(model, MixtureMeanField(model), {"x": x}, draws=400, tune=50, progress=False)
    assert sampler.status is Status.CONVERGED
    mean, sd, error = moments(sampler)
    off = np.abs(q["loc"] - mean)
    assert (off < 4.5 * error + 0.02 * sd).all(), f"means differ by {off / sd} posterior sds"


def test_variances_are_smaller_than_those_of_gibbs_where_clusters_overlap():
    # Means 2.5 sd apart: uncertain assignments widen the posterior, and q does not see them.
    x = clusters(n=150, apart=2.5, D=1, K=2, seed=3)
    model = GaussianMixture(2, 1, "unit", None, 0.0, 0.1)
    fit = fitted(model, x)
    sampler = gibbs(model, MixtureMeanField(model), {"x": x}, draws=2000, tune=200, progress=False)
    assert sampler.status is Status.CONVERGED
    q = in_order(fit)
    mean, sd, error = moments(sampler)
    ratio = (1 / q["mean_precision"] / sd[:, 0] ** 2).round(4)
    # a variance's relative standard error is sqrt(2 / ess)
    noise = math.sqrt(2 / sampler.notes["ess"])
    said = f"variances of CAVI over those of Gibbs: {ratio} +- {noise:.3f}"
    assert (ratio < 1 - 4 * noise).all(), said
    assert (ratio > 0.3).all(), said
    off = np.abs(q["loc"] - mean)
    assert (off < 4.5 * error + 0.25 * sd).all(), f"means differ by {off / sd} posterior sds"


def test_variances_are_smaller_than_the_enumerated_ones():
    """The variances of the sorted means by 100,000 independent exact draws: known to 0.5 %."""
    x = clusters(n=12, apart=4.0, D=1, K=2, seed=1)
    model = GaussianMixture(2, 1, "unit", None, 2.0, 0.05)
    posterior, _ = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    index = posterior.mixture_distribution.sample(torch.Size([100_000]))
    given = posterior.component_distribution.base_dist  # of which each draw needs only one
    drawn = torch.normal(given.loc[index], given.scale[index]).squeeze(-1)
    exact = drawn.sort(-1).values.var(0)
    variance = 1 / fitted(model, x).guide.hyper()["mean_precision"]
    ratio = (variance / exact).numpy()
    assert ((ratio > 0.3) & (ratio < 0.98)).all(), f"CAVI's variances over the exact ones: {ratio}"


# bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    "x",
    [
        clusters(n=2),
        clusters(n=1),
        np.repeat(clusters(n=2), 10, 0),
        np.zeros((10, 2)),
        np.column_stack([clusters(n=20)[:, 0], np.full(20, 3.0)]),
    ],
    ids=["fewer rows than components", "one row", "duplicates", "all the same", "constant column"],
)
def test_degenerate_rows_are_held_by_the_prior(covariance, x):
    fit = fitted(mixture(covariance), x)
    assert np.isfinite(fit.history).all() and fit.status is Status.CONVERGED
    hyper = fit.guide.hyper()
    assert all(bool(v.isfinite().all()) for v in hyper.values())
    share = fit.guide.responsibilities(torch.from_numpy(x))
    torch.testing.assert_close(share.sum(1), torch.ones(len(x)).double())
    if covariance == "full":  # no covariance has become singular
        eigenvalues = torch.linalg.eigvalsh(hyper["inverse_scale"])
        assert float(eigenvalues.min()) > 1.3 - 1e-6


def test_draws_given_one_row_have_finite_densities():
    tree = fitted(mixture("full"), clusters(n=1)).posterior(100)
    assert np.isfinite(tree["sample_stats"]["lp"].values).all()
    assert np.isfinite(tree["sample_stats"]["log_q"].values).all()


def test_a_component_without_rows_keeps_its_prior():
    x = np.repeat([[0.0, 0.0], [9.0, 9.0]], 20, 0)
    model = GaussianMixture(4, 2, "full", 0.01, 4.5, 1.0)
    hyper = fitted(model, x, tolerance=0.0, sweeps=200).guide.hyper()
    empty = hyper["concentration"] < 0.011
    assert int(empty.sum()) >= 1
    prior = model.prior(hyper["loc"])
    for name, value in hyper.items():
        torch.testing.assert_close(value[empty], prior[name][empty], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(wrong):
    x = clusters()
    x[17, 1] = wrong
    with pytest.raises(DataError, match=r"'x' holds (NaN|inf) at index \(17, 1\)"):
        fitted(mixture("full"), x)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"\(rows, 2\)"):
        fitted(mixture("full"), clusters(D=3))
    with pytest.raises(DataError, match=r"\(rows, 2\)"):
        fitted(mixture("full"), clusters()[:, 0])
    with pytest.raises(DataError, match="empty"):
        fitted(mixture("full"), np.empty((0, 2)))


def test_a_guide_without_structure_is_told_what_it_lacks():
    def model(x=None):
        pyro.sample("a", dist.Normal(0.0, 1.0))

    def plain(x=None):
        pyro.sample("a", dist.Normal(0.0, 1.0))

    with pytest.raises(GuideError, match=r"plain lacks families, prior.*MixtureMeanField.*svi"):
        cavi(model, plain, {"x": clusters()})

    class Half(MixtureMeanField):
        local = property()

    with pytest.raises(GuideError, match=r"Half lacks local\."):
        cavi(mixture("full"), Half(mixture("full")), {"x": clusters()})


def test_an_update_that_lowers_the_elbo_is_found_out():
    class Wrong(MixtureMeanField):
        def local(self, x, expected):
            bound, message = super().local(x, expected)
            return bound, {name: 0.5 * value for name, value in message.items()}

    model = mixture("full")
    with pytest.raises(GuideError, match="lowered the ELBO"):
        cavi(model, Wrong(model), {"x": clusters(apart=1.0)}, progress=False)


@pytest.mark.parametrize(
    "wrong",
    [{"sweeps": 0}, {"sweeps": 1.5}, {"restarts": 0}, {"seed": -1}, {"chunk": 0}, {"chunk": True},
     {"tolerance": -1e-3}, {"tolerance": 1.0}, {"tolerance": math.nan}, {"seed": 2**63}],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        fitted(mixture("full"), clusters(), **wrong)


def test_the_guide_of_another_model_is_refused():
    with pytest.raises(GuideError):
        cavi(mixture("unit"), MixtureMeanField(mixture("full")), {"x": clusters()}, progress=False)
