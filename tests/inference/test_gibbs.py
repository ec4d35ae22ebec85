"""Gibbs sampling: Geweke's joint test, the enumerated posterior, status and labels."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.guides.exact.normal_gamma import NormalGammaPosterior
from guidebook.inference.gibbs import gibbs
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.mixture import GaussianMixture, cholesky_of
from guidebook.programs.labels import in_canonical_order
from guidebook.scope import precision

K, D, ROWS = 3, 2, 6


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def clusters(n, apart, D=1, K=2, seed=0):
    rng = np.random.default_rng(seed)
    return apart * (np.arange(n) % K)[:, None] * np.ones(D) + rng.normal(size=(n, D))


def sampled(model, x, **options):
    options = {"draws": 500, "tune": 100, "progress": False, **options}
    return gibbs(model, MixtureMeanField(model), {"x": x}, **options)


def values_of(fit):
    """Draws of the sites (chains * draws, ...)."""
    return fit.potential.constrain(fit.draws.flatten(0, 1))


# Geweke (2004), Getting it right: joint distribution tests of posterior simulators ---------------


def mixture(covariance, **options):
    settings = {"concentration": 1.5, "loc": 0.5, "mean_precision": 0.4, "df": 5.0,
                "inverse_scale": 2.0, **options}  # fmt: skip
    return GaussianMixture(K, D, covariance, **settings)


def simulated(model, values):
    """Assignments and rows given globals with `size` joint draws in front: (size, ROWS, D)."""
    shares = values.get("weights", torch.full_like(values["loc"][..., 0], 1 / K))
    z = torch.multinomial(shares, ROWS, replacement=True)
    index = z.unsqueeze(-1).expand(-1, -1, D)
    noise = torch.randn(*index.shape, dtype=torch.float64)
    if model.covariance == "diagonal":
        noise = noise * values["precision"].gather(1, index).rsqrt()
    if model.covariance == "full":
        factor = cholesky_of(values["log_cholesky"], D)[torch.arange(len(z))[:, None], z]
        noise = torch.linalg.solve_triangular(factor.mT, noise.unsqueeze(-1), upper=True)[..., 0]
    return values["loc"].gather(1, index) + noise


def marginal_conditional(model, size):
    """Independent draws of the joint: globals from the prior, rows given them."""
    hyper = model.prior(torch.zeros(1, dtype=torch.float64))
    values = model.globals({n: v.expand(size, *v.shape) for n, v in hyper.items()})
    return values, simulated(model, values)


def successive_conditional(model, guide, size, rounds):
    """`size` independent chains that change between globals by the guide's sweep and rows."""
    values, x = marginal_conditional(model, size)
    guide.begin(torch.full((1, D), 0.7, dtype=torch.float64))  # a shift that is not zero
    generator = torch.Generator().manual_seed(1)
    for _ in range(rounds):
        if model.covariance == "full":  # whose sweep takes the same rows for all its chains
            each = [
                guide.sweep({n: v[i : i + 1] for n, v in values.items()}, {"x": x[i]}, generator)
                for i in range(size)
            ]
            values = {n: torch.cat([one[n] for one in each]) for n in each[0]}
        else:
            values = guide.sweep(values, {"x": x}, generator)
        values.pop("z")
        x = simulated(model, values)
    return values, x


def test_functions(values, x):
    """Numbers whose distributions are compared, each (size,)."""
    loc = values["loc"]
    found = {
        "loc": loc[:, 0, 0], "loc of another": loc[:, 2, 1], "loc^2": loc[:, 1].square().sum(-1),
        "x": x[:, 0, 0], "spread of x": x.var(1).log().sum(-1),
        "x and loc": (x.mean(1) * loc.mean(1)).sum(-1), "pair of rows": (x[:, 0] * x[:, 1]).sum(-1),
    }  # fmt: skip
    if "weights" in values:
        found["weights"] = values["weights"][:, 0]
        found["weights and x"] = values["weights"].amax(-1) * x.var(1).sum(-1)
    if "precision" in values:
        size = len(loc)
        found["precision"] = values["precision"].reshape(size, K, -1)[:, 0, 0]
        found["precision and loc"] = (
            values["precision"].reshape(size, K, -1)[:, 1, 0] * loc[:, 1, 0]
        )
    return {name: value.numpy() for name, value in found.items()}


test_functions.__test__ = False


def smallest_p(model, guide, size, rounds):
    """The smallest p-value of two-sample Kolmogorov-Smirnov tests, and which test it was."""
    with precision(torch.float64), torch.no_grad():
        one = test_functions(*marginal_conditional(model, 5 * size))
        other = test_functions(*successive_conditional(model, guide, size, rounds))
    return min((stats.ks_2samp(one[n], other[n]).pvalue, n) for n in one)


@pytest.mark.parametrize(
    ("covariance", "size", "rounds"), [("unit", 4000, 10), ("diagonal", 4000, 10), ("full", 400, 4)]
)
@pytest.mark.parametrize("concentration", [None, 1.5])
def test_sweeps_leave_the_joint_distribution_as_it_is(covariance, size, rounds, concentration):
    # At most 11 tests at 1e-5 each: false alarm below 1.1e-4 a case, fixed seed.
    model = mixture(covariance, concentration=concentration)
    p, name = smallest_p(model, MixtureMeanField(model), size, rounds)
    assert p > 1e-5, f"{name}: p = {p}"


@pytest.mark.parametrize(
    ("covariance", "wrong"),
    [
        ("unit", {"mean_precision": 0.6}),
        ("unit", {"concentration": 2.0}),
        ("diagonal", {"df": 6.0}),
        ("diagonal", {"inverse_scale": 2.6}),
        ("diagonal", {"loc": 0.7}),
    ],
)
def test_conditionals_of_another_prior_are_found_out(covariance, wrong):
    """That the test above has power: errors of the size of one lost or doubled prior row."""
    guide = MixtureMeanField(mixture(covariance, **wrong))
    assert smallest_p(mixture(covariance), guide, 4000, 10)[0] < 1e-5


def test_normal_gamma_sweeps_leave_the_joint_distribution_as_it_is():
    # 300 chains, three tests at 1e-5, fixed seed; marginals of the prior are known.
    guide, generator = GaussianMeanField(), torch.Generator().manual_seed(0)
    ends = []
    with precision(torch.float64), torch.no_grad():
        for _ in range(300):
            tau = dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)).sample((1,))
            state = {"tau": tau, "mu": torch.randn(1) / tau.sqrt()}
            for _ in range(4):
                x = state["mu"] + torch.randn(5) / state["tau"].sqrt()
                state = guide.sweep(state, {"x": x}, generator)
            ends.append([float(state["mu"]), float(state["tau"])])
    mu, tau = np.array(ends).T
    assert stats.kstest(tau, stats.gamma(2.0).cdf).pvalue > 1e-5
    assert stats.kstest(mu, stats.t(4, scale=math.sqrt(0.5)).cdf).pvalue > 1e-5
    assert stats.kstest(mu * np.sqrt(tau), stats.norm.cdf).pvalue > 1e-5


# known posteriors -------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [1.0, 4.0])
def test_moments_are_the_enumerated_ones(apart):
    # Means and squares of both sorted components within 4.5 standard errors of both sides: false
    # alarm below 1e-4, fixed seeds.
    x = clusters(10, apart)
    model = GaussianMixture(2, 1, "unit", None, 0.5, 0.2)
    fit = sampled(model, x, draws=1500)
    assert fit.status is Status.CONVERGED
    found = values_of(fit)["loc"][..., 0].numpy()
    posterior, _ = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    index = posterior.mixture_distribution.sample(torch.Size([40_000]))
    given = posterior.component_distribution.base_dist
    exact = torch.normal(given.loc[index], given.scale[index])[..., 0].sort(-1).values.numpy()
    for power in (1, 2):
        a, b = found**power, exact**power
        # ess counts means; squares mix as slowly at worst by half of it
        error = np.hypot(a.std(0) / math.sqrt(fit.notes["ess"] / power), b.std(0) / 200)
        off = np.abs(a.mean(0) - b.mean(0))
        assert (off < 4.5 * error).all(), f"power {power}: off by {off / error} standard errors"


def test_normal_mean_and_precision_have_the_exact_posterior():
    x = np.random.default_rng(0).normal(1.0, 2.0, size=12)
    options = {"draws": 1000, "tune": 50, "progress": False}
    fit = gibbs(gaussian_mean, GaussianMeanField(), {"x": x}, **options)
    exact = NormalGammaPosterior().posterior(torch.from_numpy(x))
    assert fit.status is Status.CONVERGED
    drawn, error = values_of(fit), 4.5 / math.sqrt(fit.notes["ess"])
    shape, rate = float(exact.shape), float(exact.rate)
    assert abs(float(drawn["tau"].mean()) - shape / rate) < error * math.sqrt(shape) / rate
    assert abs(float(drawn["mu"].mean()) - float(exact.loc)) < error * float(drawn["mu"].std())
    spread = stats.t(2 * shape, scale=math.sqrt(rate / (float(exact.strength) * shape))).std()
    assert float(drawn["mu"].std()) == pytest.approx(spread, rel=0.1)


# the Fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
def test_chains_agree_and_draws_lie_in_order(covariance):
    x = clusters(40, 8.0, D=2)
    model = GaussianMixture(2, 2, covariance, 1.0, 4.0, 0.1, 3.5, 1.0)
    fit = sampled(model, x, draws=400)
    assert fit.status is Status.CONVERGED, fit.notes
    assert fit.notes["rhat"] <= 1.01 and fit.notes["ess"] >= 400
    assert fit.notes["draws"] == 400 and fit.draws.shape[:2] == (4, 400)
    first = values_of(fit)["loc"][..., 0]
    assert bool((first[:, 0] < first[:, 1]).all())


def test_the_posterior_holds_the_chains_of_the_globals():
    model = GaussianMixture(2, 1, "unit", 1.0, 4.0, 0.1)
    tree = sampled(model, clusters(20, 6.0), draws=20, tune=10).posterior()
    assert dict(tree["posterior"].sizes)["chain"] == 4
    assert set(tree["posterior"].data_vars) == {"weights", "loc"}
    assert "log_q" not in tree["sample_stats"]
    assert np.isfinite(tree["sample_stats"]["lp"].values).all()


def test_labels_of_every_start_come_to_the_same_order():
    # Starts are random: of 24 chains all sit in one labelling with probability 2^-23.
    x, model = clusters(40, 8.0, D=2), GaussianMixture(2, 2, "unit", 1.0, 4.0, 0.1)
    fits = [sampled(model, x, draws=50, tune=20, seed=s) for s in range(6)]
    assert 0 < np.mean([fit.notes["relabelled"] for fit in fits]) < 1
    for fit in fits:
        np.testing.assert_allclose(values_of(fit)["loc"].mean(0)[:, 0], [0.0, 8.0], atol=1.0)


def test_sites_move_together_into_the_canonical_order():
    model = GaussianMixture(3, 1)
    loc = torch.tensor([[[3.0], [1.0], [2.0]], [[1.0], [2.0], [3.0]]])
    weights = torch.tensor([[0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])
    values, moved = in_canonical_order(model, {"loc": loc, "weights": weights})
    assert values["loc"][..., 0].tolist() == [[1.0, 2.0, 3.0]] * 2
    torch.testing.assert_close(values["weights"], torch.tensor([[0.1, 0.2, 0.3]] * 2))
    assert moved == 0.5


def test_too_few_draws_are_said():
    fit = sampled(GaussianMixture(2, 1, "unit", None), clusters(30, 1.0), draws=8, tune=0)
    assert fit.status is Status.CHAINS_DISAGREE


def test_the_seed_alone_decides():
    x, model = clusters(20, 3.0), GaussianMixture(2, 1, "full")
    options = {"draws": 10, "tune": 5, "seed": 4}
    first = sampled(model, x, **options)
    pyro.set_rng_seed(99)
    before = torch.get_rng_state()
    again = sampled(model, x, **options)
    assert torch.equal(first.draws, again.draws)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(sampled(model, x, **{**options, "seed": 5}).draws, first.draws)


def test_what_is_passed_in_stays_as_it_is():
    x, model = clusters(20, 3.0), GaussianMixture(2, 1, "diagonal")
    guide = MixtureMeanField(model)
    before = {n: v.clone() for n, v in guide.state_dict().items()}
    gibbs(model, guide, {"x": x}, draws=10, tune=5, progress=False)
    assert np.array_equal(x, clusters(20, 3.0))
    assert all(torch.equal(v, before[n]) for n, v in guide.state_dict().items())


@pytest.mark.parametrize("x", [clusters(2, 1.0), np.zeros((8, 1)), np.repeat([[1.0], [5.0]], 5, 0)])
def test_fewer_rows_than_components_and_duplicated_rows_are_held_by_the_prior(x):
    fit = sampled(GaussianMixture(4, 1, "full", 1.0, 0.0, 0.1, 3.0, 1.0), x, draws=50, tune=10)
    assert bool(fit.draws.isfinite().all())


def test_one_component_is_the_exact_posterior():
    # K = 1: independent draws of N((k m + s) / (k + n), 1 / (k + n)); Kolmogorov-Smirnov at 1e-5.
    x = clusters(9, 0.0)
    fit = sampled(GaussianMixture(1, 1, "unit", None, 1.0, 0.5), x, draws=500, tune=0)
    exact = stats.norm((0.5 + x.sum()) / 9.5, 1 / math.sqrt(9.5))
    assert fit.notes["relabelled"] == 0
    assert stats.kstest(fit.draws.flatten().numpy(), exact.cdf).pvalue > 1e-5


# bad input --------------------------------------------------------------------------------------


def test_a_guide_without_conditionals_is_told_what_it_lacks():
    def plain(x=None):
        pyro.sample("loc", dist.Normal(0.0, 1.0))

    message = r"plain lacks sites, initial, sweep\. .*MixtureMeanField.*nuts"
    with pytest.raises(GuideError, match=message):
        gibbs(GaussianMixture(2, 1), plain, {"x": clusters(9, 1.0)})


def test_rows_that_cannot_be_used_are_named():
    model, x = GaussianMixture(2, 1), clusters(9, 1.0)
    x[3, 0] = np.nan
    with pytest.raises(DataError, match=r"NaN at index \(3, 0\)"):
        sampled(model, x)
    with pytest.raises(gb.GuidebookError, match=r"needs \(rows, 1\)"):
        sampled(model, clusters(9, 1.0, D=2))


@pytest.mark.parametrize(
    "wrong",
    [{"draws": 3}, {"draws": 4.0}, {"tune": -1}, {"chains": 0}, {"chains": 10**9}, {"seed": -1}],
)
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        sampled(GaussianMixture(2, 1), clusters(9, 1.0), **wrong)
