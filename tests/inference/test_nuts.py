"""NUTS against closed forms; what it says of itself."""

import signal
import threading

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import guidebook as gb
from guidebook import Status
from guidebook.errors import ModelError, SettingError
from guidebook.inference import nuts as module
from tests.starts import searched_once

STARTS = {}
"""Of the runs that are played, which differ in what comes after the start."""
SHORT = {"draws": 500, "tune": 300, "chains": 2, "progress": False}


def regression(X, y=None):
    b = pyro.sample("b", dist.Normal(torch.zeros(X.shape[1]), 2.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 0.5), obs=y)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def regression_data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(15, 2)) * np.array([1.0, 300.0])
    return {"X": X, "y": X @ np.array([1.0, -0.01]) + 0.5 * rng.normal(size=15)}


@pytest.fixture(scope="module")
def conjugate():
    """The regression's data, and its fit."""
    data = regression_data()
    return data, gb.nuts(regression, data, **SHORT)


def test_moments_of_a_conjugate_posterior(conjugate):
    """Means and variances of 4 z-scores: at 4.5 standard errors the false-alarm rate is 3e-5."""
    data, fit = conjugate
    X, y = data["X"], data["y"]
    covariance = np.linalg.inv(X.T @ X / 0.25 + np.eye(2) / 4)
    mean = covariance @ X.T @ y / 0.25
    sd = np.sqrt(np.diag(covariance))
    z = (fit.posterior()["posterior"]["b"].values - mean) / sd
    size = fit.notes["ess"]
    assert size > 200
    assert np.abs(z.mean((0, 1))).max() < 4.5 / np.sqrt(size)
    # the variance of z^2 is 2; squares mix at least half as fast as the draws here
    assert np.abs((z**2).mean((0, 1)) - 1).max() < 4.5 * np.sqrt(2 / (size / 2))
    assert fit.status is Status.CONVERGED
    assert fit.notes["divergences"] == 0
    assert fit.notes["rhat"] < 1.01


def test_a_gamma_posterior_on_its_own_scale():
    y = np.array([3.0, 1.0, 4.0])
    fit = gb.nuts(counts, {"y": y}, **SHORT)
    draws = fit.posterior()["posterior"]["rate"].values.ravel()
    truth = scipy.stats.gamma(4 + y.sum(), scale=1 / (2 + len(y)))
    thinned = draws[:: max(1, round(2 * len(draws) / fit.notes["ess"]))]
    # Kolmogorov-Smirnov on nearly independent draws, false-alarm rate 1e-3
    assert scipy.stats.kstest(thinned, truth.cdf).pvalue > 1e-3


def test_chains_and_draws_are_kept_and_lp_is_the_log_joint(conjugate):
    data, fit = conjugate
    tree = fit.posterior(draws=10)  # a sampler's draws are what they are
    assert dict(tree["posterior"].sizes) == {"chain": 2, "draw": 500, "b_dim_0": 2}
    assert set(tree["sample_stats"].data_vars) == {"lp", "diverging"}
    b = tree["posterior"]["b"].values[1, 7]
    expected = scipy.stats.norm(0, 2).logpdf(b).sum()
    expected += scipy.stats.norm(data["X"] @ b, 0.5).logpdf(data["y"]).sum()
    assert float(tree["sample_stats"]["lp"][1, 7]) == pytest.approx(expected, rel=1e-10)
    assert tree["sample_stats"]["diverging"].values.sum() == fit.notes["divergences"]


def test_divergences_in_a_funnel_enter_the_status():
    """Centred eight schools with long steps: divergences in every one of eight seeds tried."""
    fit = gb.nuts(
        gb.models.eight_schools_centered, gb.datasets.eight_schools(), draws=300, tune=200,
        chains=2, target_accept=0.6, progress=False,
    )  # fmt: skip
    assert fit.notes["divergences"] > 0
    assert fit.status is Status.DIVERGENCES
    assert not fit.status.good
    assert "Reparameterise" in fit.status.value
    diverging = fit.posterior()["sample_stats"]["diverging"]
    assert diverging.shape == (2, 300)
    assert int(diverging.sum()) == fit.notes["divergences"]


def test_chains_in_two_far_modes_disagree():
    def modes(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        parts = dist.Normal(torch.stack([mu, -mu]), 0.1)
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)
        with pyro.plate("row", len(y)):
            pyro.sample("y", mixture, obs=y)

    data = {"y": np.array([5.0, -5.0, 5.1, -5.1])}
    statuses = {
        gb.nuts(modes, data, draws=100, tune=100, chains=6, seed=s, progress=False).status
        for s in (0, 1)
    }
    assert Status.CHAINS_DISAGREE in statuses


def test_the_same_seed_gives_the_same_draws_and_another_others():
    data = regression_data()
    settings = {"draws": 50, "tune": 50, "chains": 2, "progress": False}
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (gb.nuts(regression, data, seed=s, **settings).draws for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_a_model_that_reads_values_is_refused_with_the_remedy():
    def branching(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0 if mu > 0 else 2.0), obs=y)

    with pytest.raises(ModelError, match=r"can be recorded.*without \.item\(\)"):
        gb.nuts(branching, {"y": np.array(0.3)}, **SHORT)


def test_enumerated_components_are_summed_out():
    def mixture(y):
        means = pyro.sample("means", dist.Normal(torch.tensor([-2.0, 2.0]), 0.5).to_event(1))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Normal(means[z], 0.3), obs=y)

    y = np.array([-2.2, -1.9, -2.0, 2.3, 2.1])
    fit = gb.nuts(mixture, {"y": y}, draws=200, tune=100, chains=2, progress=False)
    means = fit.posterior()["posterior"]["means"].values.reshape(-1, 2).mean(0)
    # well apart, each component is conjugate with its own rows
    expected = [
        (centre / 0.25 + rows.sum() / 0.09) / (1 / 0.25 + len(rows) / 0.09)
        for centre, rows in ((-2.0, y[:3]), (2.0, y[3:]))
    ]
    np.testing.assert_allclose(means, expected, atol=0.05)


@pytest.mark.parametrize(
    "setting",
    [
        {"draws": 0}, {"tune": 0}, {"chains": 0}, {"chains": 40_001}, {"draws": 2.5}, {"target_accept": 1.0},
        {"target_accept": "high"}, {"target_accept": np.ones(2)}, {"target_accept": True},
    ],
)  # fmt: skip
def test_settings_out_of_range(setting):
    with pytest.raises(SettingError, match=f"{next(iter(setting))}=.*out of range"):
        gb.nuts(counts, {"y": np.array([1.0])}, **{**SHORT, **setting})


def test_ctrl_c_keeps_the_draws_so_far():
    """A run of hours is asked for; a second after its start Ctrl-C is pressed."""
    pressed = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    before = signal.getsignal(signal.SIGINT)

    def model(y):  # the timer starts with the sampler: nothing is evaluated before that
        counts(y)

    sample = module._nutpie().sample

    class Nutpie:
        compiled_pyfunc = module._nutpie().compiled_pyfunc

        @staticmethod
        def sample(*given, **settings):
            pressed.start()
            return sample(*given, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_nutpie", lambda: Nutpie)
        fit = gb.nuts(
            model, {"y": np.array([3.0, 1.0])}, draws=10_000_000, tune=100, chains=2, progress=False
        )
    assert fit.status is Status.INTERRUPTED
    assert 4 <= fit.notes["draws"] < 10_000_000
    kept = fit.notes["draws"] * fit.notes["chains"]
    assert fit.notes["interrupted"] == f"after {kept:,} of 20,000,000 draws"
    assert fit.draws.shape == (fit.notes["chains"], fit.notes["draws"], 1)
    assert bool(fit.draws.isfinite().all())
    assert signal.getsignal(signal.SIGINT) is before


def played(monkeypatch, diverging=0, apart=0.0, stopped=0, left=0):
    """The first run diverges so often, or has chains so far apart; the second is good. Ctrl-C ends run
    `stopped` with so many draws left to make.
    """
    seen = []

    def sampled(run, density, **settings):
        seen.append(settings)
        first = len(seen) == 1
        run.interrupted = len(seen) == stopped
        shape = settings["chains"], settings["draws"] - left * run.interrupted
        u = np.random.default_rng(len(seen)).standard_normal((*shape, 2))
        if first:
            u += apart * np.arange(shape[0])[:, None, None]
        found = np.zeros(shape, bool)
        found[0, : diverging if first else 0] = True
        return u, found

    monkeypatch.setattr(module, "_sampled", sampled)
    return seen


@pytest.mark.parametrize(
    ("first", "settings", "second"),
    [
        ({}, {}, None),
        ({"diverging": 1}, {}, {"draws": 1000, "tune": 2000, "target_accept": 0.99}),
        ({"apart": 1.0}, {}, {"draws": 4000, "tune": 1000, "target_accept": 0.9}),
        ({"diverging": 1, "apart": 1.0}, {}, {"draws": 1000, "tune": 2000, "target_accept": 0.99}),
        ({"diverging": 1}, {"draws": 500}, {"draws": 500, "tune": 2000, "target_accept": 0.99}),
        ({"apart": 1.0}, {"draws": 500}, None),
        ({"diverging": 1}, {"target_accept": 0.8}, None),
        ({"apart": 1.0}, {"target_accept": 0.8}, {"draws": 4000, "tune": 1000, "target_accept": 0.8}),
        ({"apart": 1.0, "stopped": 1, "left": 1}, {}, None),
        ({"apart": 1.0, "stopped": 1}, {}, None),
    ],
)  # fmt: skip
def test_it_samples_once_more_where_its_own_settings_do_not_pass(
    first, settings, second, monkeypatch
):
    seen = played(monkeypatch, **first)
    with searched_once(STARTS):
        fit = gb.nuts(regression, regression_data(), progress=False, **settings)
    assert len(seen) == fit.notes["runs"] == (1 if second is None else 2)
    asked = {name: seen[-1][name] for name in ("draws", "tune", "target_accept")}
    if second is not None:
        assert asked == second and fit.status is Status.CONVERGED
        assert fit.notes["tune"] == second["tune"] and fit.notes["draws"] == second["draws"]


@pytest.mark.parametrize(("left", "run"), [(4000, 1), (3001, 1), (3000, 2)])
def test_ctrl_c_in_the_second_run_keeps_the_longer_one(left, run, monkeypatch):
    """Of 1,000 draws and 4,000, of which so many were left."""
    played(monkeypatch, apart=1.0, stopped=2, left=left)
    with searched_once(STARTS):
        fit = gb.nuts(regression, regression_data(), progress=False)
    assert fit.status is Status.INTERRUPTED and fit.notes["runs"] == run
    assert fit.draws.shape[1] == fit.notes["draws"] == (1000 if run == 1 else 4000 - left)
    assert "interrupted" in fit.notes


@pytest.mark.parametrize("left", [997, 996])
def test_ctrl_c_before_there_are_four_draws_ends_the_engine(left, monkeypatch):
    played(monkeypatch, stopped=1, left=left)
    with searched_once(STARTS):
        if left == 997:
            with pytest.raises(KeyboardInterrupt):
                gb.nuts(regression, regression_data(), progress=False)
        else:
            assert gb.nuts(regression, regression_data(), progress=False).draws.shape[1] == 4


def test_values_that_the_model_masks_are_held_and_leave_the_rest_alone():
    """Of rows that obs_mask= observes: the posterior is that without them, normals of known moments. Five
    z-scores at 4.5 standard errors: a false-alarm rate of 3e-5.
    """
    y = torch.tensor([0.5, 1.5, 0.0, 0.0])

    def imputed(y, seen):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y, obs_mask=seen)

    seen = torch.tensor([True, True, False, False])
    fit = gb.nuts(imputed, {"y": y, "seen": seen}, **SHORT)
    assert fit.notes["without_density"] == 2
    posterior, size = fit.posterior()["posterior"], fit.notes["ess"]
    assert size > 200
    draws = np.stack([posterior["mean"], *np.moveaxis(posterior["y_unobserved"].values, -1, 0)])
    expected = np.array([[2 / 3, 1 / 3], [0, 1], [0, 1], [2 / 3, 4 / 3], [2 / 3, 4 / 3]])
    z = (draws.mean((1, 2)) - expected[:, 0]) / np.sqrt(expected[:, 1] / size)
    assert np.abs(z).max() < 4.5


def test_a_flat_density_is_refused_with_the_remedy():
    def flat(y):
        pyro.sample("nowhere", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(ModelError, match=r"flat.*Give every latent site a prior"):
        gb.nuts(flat, {"y": torch.tensor(0.3)}, draws=4, tune=10, chains=1, progress=False)
