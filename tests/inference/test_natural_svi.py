"""Natural-gradient SVI: CAVI when the step is 1, CAVI's ELBO from mini-batches, exact Gaussians."""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.mixture import MixtureMeanField, hard_assignments
from guidebook.inference.cavi import cavi
from guidebook.inference.gradient.natural import natural_step
from guidebook.inference.natural_svi import natural_svi
from guidebook.inference.protocols.conjugate import whole_pass
from guidebook.models.hierarchical import eight_schools
from guidebook.models.mixture import GaussianMixture
from guidebook.programs.rows import chunks
from guidebook.programs.start.gaussian import Start

COVARIANCES = ("unit", "diagonal", "full")


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def clusters(n, apart=4.0, D=2, K=3, dtype=np.float64):
    rng = np.random.default_rng(0)
    return (apart * (np.arange(n) % K)[:, None] + rng.normal(size=(n, D))).astype(dtype)


def mixture(covariance, K=3, D=2, concentration=0.7):
    return GaussianMixture(K, D, covariance, concentration, 4.0, 0.1, D + 1.5, 1.3)


def fitted(model, x, **options):
    return natural_svi(model, MixtureMeanField(model), {"x": x}, **{"progress": False, **options})


def elbo_of(fit):
    """The ELBO of the guide on all rows."""
    pieces = chunks(fit.data, 8192, torch.device("cpu"))
    return whole_pass(fit.guide, fit.guide.natural, pieces, SimpleNamespace(stopped=False))[0]


# conjugate models -------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("sweeps", [1, 4])
def test_steps_of_size_1_on_all_rows_are_sweeps_of_cavi(covariance, sweeps):
    x, model = clusters(60, apart=1.5), mixture(covariance)
    swept = cavi(model, MixtureMeanField(model), {"x": x}, sweeps=sweeps, tolerance=0.0,
                 progress=False)  # fmt: skip
    stepped = fitted(model, x, steps=sweeps, batch_size=None, forgetting=0.0)
    for name, value in swept.guide.natural.items():
        torch.testing.assert_close(stepped.guide.natural[name], value, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(stepped.history, swept.history[:-1], rtol=1e-10)
    assert elbo_of(stepped) == pytest.approx(-swept.history[-1], rel=1e-10)


def test_a_step_is_a_convex_combination():
    """One mini-batch, rate 2^-0.5, against the formula written out."""
    x, model = clusters(40), mixture("full")
    fit = fitted(model, x, steps=1, batch_size=None, delay=2.0, forgetting=0.5)
    guide, rows = MixtureMeanField(model), torch.from_numpy(x)
    start = guide.initial_natural(rows, 40, 0)
    _, message = guide.local(rows, guide.expected(start))
    rate = 2.0**-0.5
    for name, value in start.items():
        expected = (1 - rate) * value + rate * (guide.prior[name] + message[name])
        torch.testing.assert_close(fit.guide.natural[name], expected, rtol=1e-10, atol=1e-10)


def test_mini_batches_are_scaled_to_all_rows():
    """Averaged over a partition the estimated ELBO of a fixed q is the whole one."""
    x, model = clusters(60), mixture("diagonal")
    # no step moves q where forgetting is 1 and the delay is vast
    fit = fitted(model, x, steps=6, batch_size=10, delay=1e15, forgetting=1.0)
    assert fit.history.mean() == pytest.approx(-elbo_of(fit), rel=1e-9)
    assert fit.notes["passes"] == pytest.approx(1.0)


def test_less_than_one_pass_over_a_million_rows_reaches_the_elbo_of_cavi(tmp_path):
    """To 0.1 %, from a file that is mapped and not read."""
    np.save(tmp_path / "x.npy", clusters(1_000_000, apart=3.0, dtype=np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = mixture("full")
    best = cavi(model, MixtureMeanField(model), {"x": x}, progress=False, tolerance=1e-7)
    fit = fitted(model, x, steps=400)
    assert fit.notes["passes"] < 0.85
    reached, target = elbo_of(fit), -best.history[-1]
    assert reached <= target + 1e-6 * abs(target)
    assert target - reached < 1e-3 * abs(target), (reached, target)


class Blurred(MixtureMeanField):
    """Starts with a third of every cluster's rows shared out among the others."""

    def initial_natural(self, sample, count, seed):
        self.begin(sample)
        right = hard_assignments(sample, 3, seed)
        share = right * 2 / 3 + (1 - right) / 6
        weight = count / len(sample)
        sums = weight * (share.mT @ self._features(sample))
        message = self._message(weight * share.sum(0), sums)
        return {name: value + message[name] for name, value in self.prior.items()}


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_from_a_poor_start_less_than_one_pass_reaches_the_elbo_of_cavi(covariance):
    """k-means starts nearly at the end; this start is a tenth below it or more, and 16 sweeps of
    cavi away. Steps fall slowly then: at the default of 0.7 those of one pass add up to too few.
    """
    x, model = clusters(100_000, apart=6.0, dtype=np.float32), mixture(covariance)
    best = cavi(model, MixtureMeanField(model), {"x": x}, progress=False)
    options = {"steps": 180, "batch_size": 500, "forgetting": 0.55, "progress": False}
    fit = natural_svi(model, Blurred(model), {"x": x}, **options)
    target, reached = -best.history[-1], elbo_of(fit)
    assert fit.history[0] > 1.1 * best.history[-1]
    assert fit.notes["passes"] < 0.91
    assert target - reached < 1e-3 * abs(target), (reached, target)


def test_the_default_is_one_pass_and_at_least_200_steps():
    fit = fitted(mixture("unit"), clusters(300))
    assert fit.notes == {"steps": 200, "batch_size": 300, "passes": 200.0}
    assert fit.status is Status.CONVERGED
    assert fitted(mixture("unit"), clusters(2100), batch_size=10).notes["steps"] == 210


def test_a_few_steps_are_not_called_converged():
    assert fitted(mixture("unit"), clusters(300), steps=20).status is Status.STILL_MOVING


def test_the_seed_alone_decides():
    x, model = clusters(200, apart=1.0), mixture("full")
    first = fitted(model, x, steps=20, batch_size=16, seed=3)
    pyro.set_rng_seed(7)
    before = torch.get_rng_state()
    assert np.array_equal(fitted(model, x, steps=20, batch_size=16, seed=3).history, first.history)
    assert torch.equal(torch.get_rng_state(), before)
    other = fitted(model, x, steps=20, batch_size=16, seed=4)
    assert not np.array_equal(other.history, first.history)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("x", [clusters(2), np.zeros((10, 2)), np.repeat(clusters(2), 9, 0)])
def test_degenerate_rows_are_held_by_the_prior(covariance, x):
    fit = fitted(mixture(covariance), x, steps=30, batch_size=2)
    assert all(bool(v.isfinite().all()) for v in fit.guide.hyper().values())
    assert np.isfinite(fit.history).all()


# Gaussian guides --------------------------------------------------------------------------------


X = torch.from_numpy(np.random.default_rng(1).normal(size=(30, 3)) @ np.diag([1.0, 3.0, 0.2]))
Y = X @ torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64) + 0.3


def regression(X, y=None):
    loc = X.new_zeros(3)
    beta = pyro.sample("beta", dist.Normal(loc, 2.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ beta, 0.5), obs=y)


def exact_posterior():
    precision = X.T @ X / 0.25 + torch.eye(3, dtype=torch.float64) / 4
    return torch.linalg.solve(precision, X.T @ Y / 0.25), precision


def test_full_rank_reaches_the_exact_moments_of_a_gaussian_posterior():
    guide = gb.guides.full_rank(regression)
    fit = natural_svi(regression, guide, {"X": X, "y": Y}, steps=50, progress=False)
    q = fit.guide.get_posterior()
    mean, precision = exact_posterior()
    torch.testing.assert_close(q.mean, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(q.covariance_matrix, torch.linalg.inv(precision), rtol=1e-7,
                               atol=1e-9)  # fmt: skip
    evidence = dist.MultivariateNormal(
        torch.zeros(30).double(), 0.25 * torch.eye(30).double() + 4 * X @ X.T
    ).log_prob(Y)
    tree = fit.posterior(500)
    weights = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values
    np.testing.assert_allclose(weights, float(evidence), atol=1e-5)


def test_mean_field_reaches_the_exact_mean_and_the_conditional_variances():
    """The best factorised Gaussian: variances 1 / P_ii."""
    guide = gb.guides.mean_field(regression)
    fit = natural_svi(regression, guide, {"X": X, "y": Y}, steps=100, progress=False)
    q = fit.guide.get_posterior()
    mean, precision = exact_posterior()
    torch.testing.assert_close(q.mean, mean, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(q.variance, 1 / precision.diagonal(), rtol=0.05, atol=0)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_steps_find_a_gaussian_from_anywhere(diagonal, rate):
    """Newton's method in natural parameters; the precision changes tenfold a step at most.

    Of a diagonal family the target is diagonal too, where its steps have no noise either.
    """
    mean, precision = exact_posterior()
    nothing = dict.fromkeys(Start.__dataclass_fields__)
    factor = torch.full((3,), 3.0, dtype=torch.float64)
    if diagonal:
        precision = torch.diag(precision.diagonal())
    else:
        factor = torch.diag(factor)
    far = Start(**{**nothing, "center": mean + 5, "factor": factor})
    for _ in range(6 if rate == 1.0 else 60):
        matrix = torch.diag(far.factor) if diagonal else far.factor
        noise = torch.randn(20, 3, dtype=torch.float64)
        noise = torch.cat([noise, -noise])
        grad = -(far.center + noise @ matrix.T - mean) @ precision
        far = natural_step(far, noise, grad, rate)
    matrix = torch.diag(far.factor) if diagonal else far.factor
    torch.testing.assert_close(far.center, mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(matrix @ matrix.T, torch.linalg.inv(precision), rtol=1e-8,
                               atol=1e-10)  # fmt: skip


@pytest.mark.parametrize("diagonal", [False, True])
def test_one_step_is_the_equation_of_the_module(diagonal):
    """P <- (1 - r) P + r H, then m <- m + r P^-1 E[grad], for a quadratic log density."""
    mean, target = exact_posterior()[0], torch.diag(torch.tensor([2.0, 0.7, 1.5]).double())
    nothing = dict.fromkeys(Start.__dataclass_fields__)
    scale = torch.tensor([1.0, 0.8, 1.2], dtype=torch.float64)
    start = Start(**{**nothing, "center": mean + torch.tensor([0.5, -1.0, 2.0]),
                     "factor": scale if diagonal else torch.diag(scale)})  # fmt: skip
    noise = torch.randn(20, 3, dtype=torch.float64)
    noise = torch.cat([noise, -noise])
    grad = -(start.center + noise * scale - mean) @ target
    step = natural_step(start, noise, grad, 0.3)
    precision = 0.7 * scale.pow(-2) + 0.3 * target.diagonal()
    moved = start.center - 0.3 * (target @ (start.center - mean)) / precision
    torch.testing.assert_close(step.center, moved, rtol=1e-10, atol=1e-10)
    found = step.factor if diagonal else step.factor.diagonal()
    torch.testing.assert_close(found.pow(-2), precision, rtol=1e-10, atol=1e-10)


def mean_elbo(fit):
    """The ELBO over 20,000 draws and its standard error."""
    stats = fit.posterior(20_000, seed=5)["sample_stats"]
    weights = (stats["lp"] - stats["log_q"]).values.ravel()
    return weights.mean(), weights.std() / len(weights) ** 0.5


def test_eight_schools_agrees_with_svi():
    """Two optimisers of one objective: ELBOs within 0.05 nat and 4 standard errors."""
    data = gb.datasets.eight_schools()
    natural = natural_svi(eight_schools, gb.guides.full_rank(eight_schools), data, progress=False)
    other = gb.svi(eight_schools, gb.guides.full_rank(eight_schools), data, progress=False)
    assert natural.status.good, natural
    (a, error_a), (b, error_b) = mean_elbo(natural), mean_elbo(other)
    assert abs(a - b) < 0.05 + 4 * np.hypot(error_a, error_b), (a, b)
    assert -natural.history[-50:].mean() == pytest.approx(a, abs=0.1)


# bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"steps": 2.5}, {"batch_size": 0}, {"seed": -1}, {"delay": 0.5},
     {"delay": np.inf}, {"delay": np.nan}, {"forgetting": -0.1}, {"forgetting": 1.1},
     {"forgetting": np.nan}],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        fitted(mixture("full"), clusters(20), **wrong)


def test_gaussian_guides_take_all_rows():
    guide = gb.guides.full_rank(regression)
    with pytest.raises(SettingError, match=r"all rows .* svi with batch_size"):
        natural_svi(regression, guide, {"X": X, "y": Y}, batch_size=5, progress=False)


def test_other_families_have_no_natural_parameters():
    guide = gb.guides.low_rank(regression)
    with pytest.raises(GuideError, match=r"full_rank and mean_field, not for low_rank.*svi"):
        natural_svi(regression, guide, {"X": X, "y": Y}, progress=False)


def test_a_guide_without_structure_is_told_what_it_lacks():
    def plain(X, y=None):
        pyro.sample("beta", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with pytest.raises(GuideError, match=r"natural_svi needs .* plain lacks families, prior"):
        natural_svi(regression, plain, {"X": X, "y": Y}, progress=False)


def test_rows_that_are_not_finite_are_named():
    x = clusters(20)
    x[3, 1] = np.nan
    with pytest.raises(DataError, match=r"NaN at index \(3, 1\)"):
        fitted(mixture("full"), x)
