"""SVI against closed forms; what a user brings; that nothing outside the fit is touched."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
import torch
from pyro.distributions import constraints
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoMultivariateNormal, AutoNormal

import guidebook as gb
from guidebook import Status
from guidebook.errors import SettingError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.protocols.mode import defaults_of
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression

QUIET = {"compile": "graph", "progress": False}
SCHOOLS = {"sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
           "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12])}  # fmt: skip
DRAWS = 20_000  # the mean of so many draws is 0.007 sd off, their sd 0.5 %


def moments(fit, name, draws=DRAWS):
    values = fit.posterior(draws)["posterior"][name].values[0].astype(float)
    return values.mean(0), values.std(0), values


# closed forms -------------------------------------------------------------------------------------


def normal_mean(y, sigma, prior):
    mu = pyro.sample("mu", dist.Normal(0.0, prior))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
@pytest.mark.parametrize(
    "family", ["mean_field", "full_rank", "low_rank", pytest.param("flow", marks=pytest.mark.slow)]
)
def test_the_mean_of_gaussian_data_at_any_scale(scale, family):
    """25 rows with sigma = 5 scale: the posterior sd is scale, and the mean 1,000 sds from zero."""
    rng = np.random.default_rng(0)
    sigma, prior = 5 * scale, 1e5 * scale
    y = 1000 * scale + sigma * rng.normal(size=25)
    guide = getattr(gb.guides, family)(normal_mean)
    data = {"y": y, "sigma": sigma, "prior": prior}
    fit = gb.svi(normal_mean, guide, data, steps=500, **QUIET)
    precision = 25 / sigma**2 + 1 / prior**2
    mean, sd, _ = moments(fit, "mu")
    assert abs(mean - y.sum() / sigma**2 / precision) * np.sqrt(precision) < 0.05
    assert sd * np.sqrt(precision) == pytest.approx(1, abs=0.05)


def flat_regression(X, y):
    b = pyro.sample("b", dist.ImproperUniform(constraints.real_vector, (), (X.shape[1],)))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def designed(unit, correlation, seed=0):
    """X and y of a flat-prior regression with a posterior of given scales and correlation."""
    sds = np.array([unit, 1e4 * unit])
    covariance = np.outer(sds, sds) * np.array([[1, correlation], [correlation, 1]])
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(12, 2)))[0]
    X = basis @ np.linalg.cholesky(np.linalg.inv(covariance)).T
    mean = np.array([30.0, -50.0]) * sds
    return {"X": X, "y": X @ mean}, mean, sds


@pytest.mark.parametrize("unit", [1e-3, 1.0])
def test_correlation_0_999_flat_prior_and_scales_that_differ_by_ten_thousand(unit):
    data, mean, sds = designed(unit, 0.999)
    fit = gb.svi(flat_regression, gb.guides.full_rank(flat_regression), data, steps=500, **QUIET)
    found, spread, draws = moments(fit, "b")
    np.testing.assert_allclose((found - mean) / sds, 0, atol=0.05)
    np.testing.assert_allclose(spread / sds, 1, atol=0.05)
    # Fisher's z of the correlation: its standard error is 1 / sqrt(draws)
    z = np.arctanh(np.corrcoef(draws.T)[0, 1]) - np.arctanh(0.999)
    assert abs(z) < 0.05


def test_mean_field_gives_the_conditional_standard_deviations():
    """The best independent Gaussian of N(m, C) has variances 1 / (C^-1)_ii (Bishop 2006, 10.1.2)."""
    data, mean, sds = designed(1.0, 0.9)
    fit = gb.svi(flat_regression, gb.guides.mean_field(flat_regression), data, steps=800, **QUIET)
    found, spread, _ = moments(fit, "b")
    np.testing.assert_allclose((found - mean) / sds, 0, atol=0.05)
    np.testing.assert_allclose(spread / (sds * np.sqrt(1 - 0.9**2)), 1, atol=0.05)


def test_delta_finds_the_mode_of_z():
    def model(y):
        rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    y = np.array([3.0, 1.0, 4.0])
    fit = gb.svi(model, gb.guides.delta(model), {"y": y}, steps=500, **QUIET)
    found = fit.posterior(1)["posterior"]["rate"].item()
    assert found == pytest.approx((4 + 8 - 1) / (2 + 3), rel=1e-3)


def test_default_settings_converge_and_the_objective_is_minus_the_evidence():
    rng = np.random.default_rng(0)
    y = 3 + 2 * rng.normal(size=25)
    data = {"y": y, "sigma": 2.0, "prior": 10.0}
    fit = gb.svi(normal_mean, gb.guides.full_rank(normal_mean), data, **QUIET)
    assert fit.status is Status.CONVERGED
    assert fit.status.good
    covariance = 4 * np.eye(25) + 100
    evidence = scipy.stats.multivariate_normal(np.zeros(25), covariance).logpdf(y)
    assert fit.history.shape == (2000,)
    # for an exact guide the objective has no variance but that of its parameters' own noise
    assert -fit.history[-400:].mean() == pytest.approx(evidence, abs=0.01)


# how a fit ends -----------------------------------------------------------------------------------


def test_too_few_steps_from_far_away_are_still_moving():
    data = {"y": np.full(10, 1000.0), "sigma": 1.0, "prior": 1e4}
    fit = gb.svi(normal_mean, AutoNormal(normal_mean), data, steps=300, **QUIET)
    assert fit.status is Status.STILL_MOVING
    assert "Raise steps" in fit.status.value
    assert moments(fit, "mu", 100)[0] < 900


def test_restarts_of_a_convex_problem_agree():
    data = {"y": np.array([1.0, 2.0, 4.0]), "sigma": 1.0, "prior": 10.0}
    guide = gb.guides.mean_field(normal_mean)
    fit = gb.svi(normal_mean, guide, data, steps=1500, restarts=8, **QUIET)
    assert fit.notes["restarts"] == 8
    assert len(fit.notes["restarts_objective"]) == 8
    assert 0.99 < fit.notes["restarts_rhat"] < 1.02
    assert fit.status is Status.CONVERGED
    mean, sd, _ = moments(fit, "mu")
    precision = 3 + 0.01
    assert abs(mean - 7 / precision) * np.sqrt(precision) < 0.05
    assert sd * np.sqrt(precision) == pytest.approx(1, abs=0.05)


def two_modes(y):
    """A unit normal at -8 and one at 8, as a potential on a flat prior."""
    z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
    parts = torch.stack([-0.5 * (z - 8) ** 2, -0.5 * (z + 8) ** 2])
    pyro.factor("modes", parts.logsumexp(0))
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def test_restarts_in_two_modes_disagree():
    guide = AutoNormal(two_modes, init_loc_fn=pyro.infer.autoguide.init_to_value(
        values={"z": torch.tensor(0.0, dtype=torch.float64)}), init_scale=0.5)  # fmt: skip
    fit = gb.svi(two_modes, guide, {"y": np.array(0.0)}, steps=1500, restarts=8,
                 optim=pyro.optim.Adam({"lr": 0.05}), **QUIET)  # fmt: skip
    assert fit.notes["restarts_rhat"] > 1.2  # R-hat of ranks: bounded where few differ
    assert fit.status is Status.RESTARTS_DISAGREE
    assert "several optima" in fit.status.value


# seeds and side effects ---------------------------------------------------------------------------


def schools(seed=0, guide=gb.guides.mean_field, **settings):
    settings = {"steps": 100} | QUIET | settings
    return gb.svi(eight_schools, guide(eight_schools), SCHOOLS, seed=seed, **settings)


def small_flow(model):
    return gb.guides.flow(model, transforms=1, hidden=8, bins=4)


@pytest.mark.parametrize(
    ("guide", "settings"),
    [
        (gb.guides.mean_field, {}),
        (gb.guides.full_rank, {"restarts": 3}),
        (AutoNormal, {}),
        (AutoNormal, {"restarts": 3}),
        (AutoNormal, {"compile": False, "steps": 30}),
        pytest.param(small_flow, {}, marks=pytest.mark.slow),
        pytest.param(small_flow, {"restarts": 3}, marks=pytest.mark.slow),
        pytest.param(gb.guides.mean_field, {"compile": False}, marks=pytest.mark.slow),
    ],
)
def test_the_seed_alone_decides(guide, settings):
    torch.manual_seed(1)
    one = schools(3, guide, **settings)
    torch.manual_seed(2)
    again = schools(3, guide, **settings)
    other = schools(4, guide, **settings)
    np.testing.assert_array_equal(one.history, again.history)
    for left, right in zip(one.guide.parameters(), again.guide.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not np.array_equal(one.history, other.history)


def test_the_users_random_state_is_untouched():
    torch.manual_seed(11)
    np.random.seed(12)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    schools()
    schools(restarts=2)
    schools(0, AutoNormal, compile=False, steps=30)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_what_the_user_passed_in_is_untouched():
    guide, optim = AutoNormal(eight_schools), pyro.optim.Adam({"lr": 0.01})
    data = {k: torch.as_tensor(v) for k, v in SCHOOLS.items()}
    kept = {k: v.clone() for k, v in data.items()}
    for compile in ("graph", False):
        gb.svi(eight_schools, guide, data, steps=20, optim=optim, compile=compile, progress=False)
    assert list(guide.parameters()) == []
    assert guide.prototype_trace is None
    assert optim.optim_objs == {}
    assert all(torch.equal(kept[k], data[k]) for k in data)
    torch.manual_seed(0)
    model = gb.models.VAE(6, 2, (4,))
    amortised = AmortizedNormal(torch.nn.Linear(6, 4), 2)
    x = torch.rand(10, 6).round()
    before = [p.detach().clone() for part in (model, amortised) for p in part.parameters()]
    fit = gb.svi(model, amortised, {"x": x}, steps=20, **QUIET)
    after = [p for part in (model, amortised) for p in part.parameters()]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))
    assert not torch.equal(fit.guide.encoder.weight, amortised.encoder.weight)


def test_two_fits_with_parameters_of_one_name_do_not_meet():
    def guide(y, sigma, prior):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("mu", dist.Normal(loc, 0.1))

    found = []
    for compile in ("graph", False):
        for centre in (5.0, -5.0):
            data = {"y": np.full(4, centre), "sigma": 0.5, "prior": 100.0}
            fit = gb.svi(normal_mean, guide, data, steps=400, compile=compile, progress=False,
                         optim=pyro.optim.Adam({"lr": 0.1}))  # fmt: skip
            found.append(moments(fit, "mu", 500)[0])
            assert len(list(pyro.get_param_store().keys())) == 0
    np.testing.assert_allclose(found, [5, -5, 5, -5], atol=0.1)


def test_parameters_that_the_user_has_in_the_store_stay():
    pyro.param("loc", torch.tensor(7.0))

    def guide(y, sigma, prior):
        pyro.sample("mu", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.1))

    data = {"y": np.full(4, 1.0), "sigma": 0.5, "prior": 100.0}
    for compile in ("graph", False):
        gb.svi(normal_mean, guide, data, steps=20, compile=compile, progress=False)
        assert pyro.param("loc").item() == 7.0
    pyro.clear_param_store()


def test_a_fit_in_another_thread():
    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(schools()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0].history, schools().history)


# guides a user brings -----------------------------------------------------------------------------


def schools_by_hand(sigma, y=None):
    scale = constraints.positive
    pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(4.0)),
                                  pyro.param("s", torch.tensor(3.0), constraint=scale)))  # fmt: skip
    pyro.sample(
        "tau",
        dist.LogNormal(
            pyro.param("mt", torch.tensor(1.0)),
            pyro.param("st", torch.tensor(0.8), constraint=scale),
        ),
    )
    with pyro.plate("school", len(sigma)):
        pyro.sample(
            "theta_trans",
            dist.Normal(
                pyro.param("t", torch.zeros(8)), pyro.param("u", torch.ones(8), constraint=scale)
            ),
        )


def listed(model):
    guide = AutoGuideList(model)
    guide.append(AutoMultivariateNormal(pyro.poutine.block(model, expose=["mu", "tau"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["theta_trans"])))
    return guide


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["graph", False])
@pytest.mark.parametrize(
    "make",
    [AutoNormal, AutoMultivariateNormal, listed, lambda model: schools_by_hand],
    ids=["AutoNormal", "AutoMultivariateNormal", "AutoGuideList", "function"],
)
def test_guides_that_a_user_brings(make, compile):
    """All end near one ELBO: that of the non-centred schools, -31.6 (facts: mean-field)."""
    steps = 1500 if compile else 900
    fit = gb.svi(eight_schools, make(eight_schools), SCHOOLS, steps=steps, compile=compile,
                 optim=pyro.optim.Adam({"lr": 0.02}), progress=False)  # fmt: skip
    stats = fit.posterior(4000)["sample_stats"]
    elbo = float((stats["lp"] - stats["log_q"]).mean())
    assert elbo == pytest.approx(-31.6, abs=0.35)
    assert {site.name for site in fit.sites} == {"mu", "tau", "theta_trans"}


class ClassicVAE(torch.nn.Module):
    """As in Pyro's tutorial: one class, model and guide methods, pyro.module in both."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(6, 4)
        self.decoder = torch.nn.Linear(2, 6)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            logits = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("compile", ["graph", False])
def test_the_classic_vae_class(compile):
    torch.manual_seed(0)
    vae = ClassicVAE()
    x = torch.rand(40, 6).round()
    x[:, 1] = x[:, 0]
    x[:, 2] = 1 - x[:, 0]
    before = [p.detach().clone() for p in vae.parameters()]
    fit = gb.svi(vae.model, vae.guide, {"x": x}, steps=300, compile=compile, progress=False,
                 optim=pyro.optim.Adam({"lr": 0.02}))  # fmt: skip
    assert fit.history[-50:].mean() < fit.history[:20].mean() - 20
    assert all(
        torch.equal(left, right) for left, right in zip(before, vae.parameters(), strict=True)
    )
    lp = fit.posterior(20)["sample_stats"]["lp"].values
    assert np.isfinite(lp).all()


@pytest.mark.parametrize("compile", ["graph", False])
def test_a_network_that_a_function_guide_registers(compile):
    """A global network is trained in the fit, and stays as it was for the user."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(1, 1).double()

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], 0.2**0.5))

    x = np.random.default_rng(0).normal(size=20) * 1.25**0.5
    before = encoder.weight.item(), encoder.bias.item()
    fit = gb.svi(model, guide, {"x": x}, steps=800, compile=compile, progress=False,
                 optim=pyro.optim.Adam({"lr": 0.01}))  # fmt: skip
    assert (encoder.weight.item(), encoder.bias.item()) == before
    # z | x ~ N(x / 1.25, 0.2): the encoder's weight is 0.8 and its bias 0
    assert fit.guide.value("encoder$$$weight").item() == pytest.approx(0.8, abs=0.08)
    assert fit.guide.value("encoder$$$bias").item() == pytest.approx(0.0, abs=0.08)
    mean = fit.posterior(500)["posterior"]["z"].values[0].mean(0)
    np.testing.assert_allclose(mean, 0.8 * x, atol=0.25)
    assert len(list(pyro.get_param_store().keys())) == 0


@pytest.mark.parametrize(
    "objective", [Trace_ELBO(num_particles=4, vectorize_particles=True), TraceMeanField_ELBO()]
)
def test_other_objectives(objective):
    fit = gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, objective=objective,
                 steps=100, **QUIET)  # fmt: skip
    assert fit.notes["path"] == "captured"
    assert np.isfinite(fit.history).all()


def test_an_objective_without_differentiable_loss_takes_the_reference_path():
    objective = RenyiELBO(alpha=0.5, num_particles=4)
    with pytest.warns(UserWarning, match=r"RenyiELBO has no differentiable_loss"):
        fit = gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, objective=objective,
                     steps=10, **QUIET)  # fmt: skip
    assert fit.notes["path"] == "reference"


def test_a_guide_without_parameters_says_so():
    def guide(y, sigma, prior):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    data = {"y": np.ones(3), "sigma": 1.0, "prior": 1.0}
    with pytest.raises(SettingError, match=r"has a parameter to fit.*gb\.exact"):
        gb.svi(normal_mean, guide, data, steps=10, **QUIET)


# mini-batches -------------------------------------------------------------------------------------


def logistic_data(rows=400):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 2))
    logits = 0.5 + X @ np.array([1.0, -0.7])
    return {"X": X, "y": (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(float)}


def laplace_by_scipy(data):
    A = np.column_stack([np.ones(len(data["X"])), data["X"]])

    def negative(w):
        logits = A @ w
        return np.logaddexp(0, logits).sum() - data["y"] @ logits + (w @ w) / (2 * 2.5**2)

    mode = scipy.optimize.minimize(negative, np.zeros(3), method="BFGS").x
    p = 1 / (1 + np.exp(-A @ mode))
    return mode, np.linalg.inv((A * (p * (1 - p))[:, None]).T @ A + np.eye(3) / 2.5**2)


@pytest.mark.slow
def test_mini_batches_reach_the_posterior_of_all_rows():
    """400 rows: the posterior is N(mode, curvature^-1) to a few hundredths of a sd."""
    data = logistic_data()
    guide = gb.guides.full_rank(logistic_regression)
    fit = gb.svi(logistic_regression, guide, data, batch_size=50, steps=1500, **QUIET)
    mode, covariance = laplace_by_scipy(data)
    sds = np.sqrt(np.diag(covariance))
    posterior = fit.posterior(DRAWS)["posterior"]
    draws = np.column_stack([posterior["intercept"].values[0], posterior["beta"].values[0]])
    np.testing.assert_allclose((draws.mean(0) - mode) / sds, 0, atol=0.15)
    np.testing.assert_allclose(draws.std(0) / sds, 1, atol=0.1)
    assert fit.history.shape == (1500,)
    assert fit.notes["batch_size"] == 50


def test_memory_mapped_arrays_and_lists_are_data_like_others(tmp_path):
    data = logistic_data(120)
    mapped = {}
    for name, value in data.items():
        np.save(tmp_path / f"{name}.npy", value)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    listed = {name: value.tolist() for name, value in data.items()}
    tensors = {name: torch.as_tensor(value) for name, value in data.items()}
    for batch in (30, None):
        histories = [
            gb.svi(logistic_regression, AutoNormal(logistic_regression), given,
                   batch_size=batch, steps=50, **QUIET).history
            for given in (data, mapped, listed, tensors)
        ]  # fmt: skip
        for history in histories[1:]:
            np.testing.assert_allclose(history, histories[0], rtol=1e-10)


def test_a_model_without_size_refuses_mini_batches():
    data = {"y": np.ones(10), "sigma": 1.0, "prior": 1.0}
    with pytest.raises(SettingError, match=r"takes size=None"):
        gb.svi(normal_mean, gb.guides.mean_field(normal_mean), data, batch_size=5, **QUIET)


def test_a_batch_of_all_rows_needs_no_size():
    data = {"y": np.ones(10), "sigma": 1.0, "prior": 1.0}
    guide = gb.guides.mean_field(normal_mean)
    fit = gb.svi(normal_mean, guide, data, batch_size=10, steps=20, **QUIET)
    assert np.isfinite(fit.history).all()


# the record ---------------------------------------------------------------------------------------


def test_a_fit_is_a_value():
    fit = schools()
    with pytest.raises(AttributeError):
        fit.seed = 3
    assert fit.engine == "svi"
    assert fit.history.shape == (100,)
    assert fit.history.dtype == np.float64
    assert fit.seconds > 0
    assert fit.notes["steps"] == 100
    assert "Fit(svi, 3 sites" in repr(fit)


@pytest.mark.parametrize(
    ("make", "steps"),
    [(gb.guides.mean_field, 2000), (gb.guides.flow, 4000), (AutoDelta, 5000)],
)
def test_default_steps(make, steps):
    assert defaults_of(make(eight_schools)).steps == steps


def test_the_progress_bar_shows_the_objective(capsys, monkeypatch):
    gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, steps=100, compile="graph")
    assert capsys.readouterr().err == ""  # not a terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, steps=1000, compile="graph")
    assert "objective=" in capsys.readouterr().err


def test_double_and_single_precision():
    """Data alone are worked on in float64; networks in the precision they were made in."""
    fit = schools()
    assert fit.guide.center.dtype == torch.float64
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((10, 6)).round()
    for dtype in (torch.float32, torch.float64):
        model = gb.models.VAE(6, 2, (4,)).to(dtype)
        guide = AmortizedNormal(torch.nn.Linear(6, 4).to(dtype), 2)
        fit = gb.svi(model, guide, {"x": x}, steps=10, **QUIET)
        assert fit.guide.encoder.weight.dtype == dtype


def intercepts_and_slopes(group, x, y=None):
    spread = pyro.sample("spread", dist.HalfNormal(torch.tensor(1.0)))
    with pyro.plate("group", 3):
        intercept = pyro.sample("intercept", dist.Normal(0.0, spread))
        slope = pyro.sample("slope", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("row", len(x)):
        mean = intercept[group] + slope[group] * x
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank", "delta"])
def test_two_sites_in_one_plate(family):
    """Each plate of the model is one statement of the guide, whatever the number of its sites."""
    x = np.linspace(-1, 1, 12)
    data = {"group": np.arange(12) % 3, "x": x, "y": x + 1}
    guide = getattr(gb.guides, family)(intercepts_and_slopes)
    fit = gb.svi(intercepts_and_slopes, guide, data, steps=20, **QUIET)
    assert [site.name for site in fit.sites] == ["spread", "intercept", "slope"]
    assert np.isfinite(fit.history).all()


def two_clusters(x):
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 3.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_enumerated_sites_are_summed_out_and_the_start_leaves_its_symmetry():
    """At the origin both means are one and the gradient keeps them so: a saddle, 35 nats too low."""
    x = np.concatenate([np.linspace(-4, -2, 5), np.linspace(2, 4, 5)])
    fit = gb.svi(two_clusters, gb.guides.mean_field(two_clusters), {"x": x}, steps=200, **QUIET)
    loc = np.sort(fit.posterior(500)["posterior"]["loc"].values.reshape(-1, 2).mean(0))
    exact = 5 * 3 / (5 + 1 / 9)  # of five rows around 3, and the prior
    np.testing.assert_allclose(loc, [-exact, exact], atol=0.15)
