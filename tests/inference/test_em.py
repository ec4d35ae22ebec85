"""EM against closed forms, scikit-learn and its own laws: monotone, chunks add up, gradient zero."""

import math
import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as SklearnFactorAnalysis

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.inference.em import em
from guidebook.inference.protocols.maximisation import ExpectationMaximization
from guidebook.models.decoders.factor import FactorAnalysis
from guidebook.models.decoders.latent import LinearVAE

IRIS = load_iris().data
WINE = (load_wine().data - load_wine().data.mean(0)) / load_wine().data.std(0)
DIGITS = load_digits().data[:, load_digits().data.std(0) > 0.3]
both = pytest.mark.parametrize("kind", [FactorAnalysis, LinearVAE])


def fitted(kind, x, d, alpha=0.0, **settings):
    torch.manual_seed(0)
    model = kind(x.shape[1], d).double()
    return em(model, FactorPosterior(model, alpha=alpha), {"x": x}, progress=False, **settings)


def noise_of(fit):
    return (2 * fit.model.log_scale).exp().detach().numpy()


def assert_monotone(fit):
    falls = np.diff(fit.history)
    assert falls.max(initial=0) <= 1e-9 * max(1, abs(fit.history[-1]))


# maxima that are known --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "d"), [(IRIS, 2), (WINE, 3), (DIGITS, 5)], ids=["iris", "wine", "digits"]
)
def test_probabilistic_pca_reaches_its_closed_form_and_scikit_learn(x, d):
    fit = fitted(LinearVAE, x, d, tolerance=1e-12, iterations=3000)
    assert fit.status is Status.CONVERGED
    assert_monotone(fit)
    best = LinearVAE.maximum_likelihood(torch.from_numpy(x), d)
    with torch.no_grad():
        evidence = FactorPosterior(best).log_evidence(torch.from_numpy(x)).sum().item()
        products = [m.weight @ m.weight.T for m in (fit.model, best)]  # W up to a rotation
    assert fit.notes["log_likelihood"] == pytest.approx(evidence, rel=1e-9)
    np.testing.assert_allclose(products[0], products[1], rtol=0, atol=1e-4 * products[1].max())
    np.testing.assert_allclose(fit.model.bias.detach(), x.mean(0), rtol=0, atol=1e-6)
    # scikit-learn divides the covariance by n - 1, and its score is at that estimate
    pca = PCA(d).fit(x)
    n = len(x)
    assert noise_of(fit) == pytest.approx(pca.noise_variance_ * (n - 1) / n, rel=1e-5)
    values, vectors = np.linalg.eigh(products[0].numpy())
    explained = values[::-1][:d] + noise_of(fit)
    np.testing.assert_allclose(explained, pca.explained_variance_ * (n - 1) / n, rtol=1e-4)
    overlap = np.abs(np.sum(vectors[:, ::-1][:, :d].T * pca.components_, axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    assert pca.score(x) * n <= fit.notes["log_likelihood"] < pca.score(x) * n + 1


@pytest.mark.parametrize(
    ("x", "d"), [(WINE, 1), (WINE, 2), (DIGITS, 5)], ids=["wine1", "wine2", "digits"]
)
def test_factor_analysis_reaches_scikit_learn(x, d):
    fit = fitted(FactorAnalysis, x, d, tolerance=1e-12, iterations=3000)
    assert fit.status is Status.CONVERGED
    assert_monotone(fit)
    known = SklearnFactorAnalysis(d, tol=1e-10, max_iter=5000, svd_method="lapack").fit(x)
    assert fit.notes["log_likelihood"] == pytest.approx(known.score(x) * len(x), rel=1e-8)
    np.testing.assert_allclose(noise_of(fit), known.noise_variance_, rtol=1e-3)


def test_units_of_the_columns_do_not_matter_to_factor_analysis():
    raw = load_wine().data  # columns with standard deviations from 0.1 to 315
    fits = [fitted(FactorAnalysis, x, 2, tolerance=1e-11) for x in (WINE, raw)]
    jacobian = len(raw) * np.log(raw.std(0)).sum()
    found = [fit.notes["log_likelihood"] for fit in fits]
    assert found[1] == pytest.approx(found[0] - jacobian, rel=1e-9)


@both
@pytest.mark.parametrize("alpha", [0.0, 40.0])
def test_the_gradient_of_the_objective_is_zero_at_the_end(kind, alpha):
    # The one oracle that knows nothing of EM: autodiff of log N(x; b, W W' + Psi) + log p(W).
    x = torch.from_numpy(WINE)
    fit = fitted(kind, WINE, 2, alpha=alpha, tolerance=1e-14, iterations=3000)
    model = fit.model
    covariance = model.weight @ model.weight.T + (2 * model.log_scale).exp().expand(13).diag()
    objective = dist.MultivariateNormal(model.bias, covariance).log_prob(x).sum()
    if alpha:
        objective = objective + dist.Normal(0.0, alpha**-0.5).log_prob(model.weight).sum()
    assert -objective.item() == pytest.approx(fit.history[-1], rel=1e-9)
    for gradient in torch.autograd.grad(objective, list(model.parameters())):
        assert gradient.abs().max() < 1e-3  # curvatures are of order n = 178
    assert_monotone(fit)
    assert (fit.notes["log_prior"] != 0) == bool(alpha)


def test_a_prior_shrinks_the_weights_towards_zero():
    norms = [
        float(fitted(FactorAnalysis, WINE, 2, alpha=a).model.weight.detach().norm())
        for a in (0.0, 10.0, 100.0)
    ]
    assert norms[0] > 1.05 * norms[1] > 1.05 * norms[2]


@both
def test_the_guide_is_the_posterior_and_the_evidence_that_of_exact(kind):
    fit = fitted(kind, IRIS, 1)
    exact = gb.exact(fit.model, fit.guide, {"x": IRIS})
    assert exact.notes["log_evidence"] == pytest.approx(fit.notes["log_likelihood"], abs=1e-8)
    assert -fit.history[-1] == pytest.approx(fit.notes["log_likelihood"], abs=1e-10)


@both
def test_partial_m_steps_reach_the_same_maximum(kind):
    complete = fitted(kind, WINE, 1, tolerance=1e-12)
    partial = fitted(kind, WINE, 1, tolerance=1e-11, partial=3, iterations=3000)
    assert_monotone(partial)
    assert partial.history[0] == complete.history[0]
    assert partial.history[1] > complete.history[1]  # a part of the complete step
    assert partial.history[-1] == pytest.approx(complete.history[-1], abs=1e-4)
    np.testing.assert_allclose(noise_of(partial), noise_of(complete), rtol=1e-2)


# how it ends ------------------------------------------------------------------------------------


def test_what_remains_is_estimated():
    fit = fitted(LinearVAE, IRIS, 2, tolerance=1e-7)
    best = LinearVAE.maximum_likelihood(torch.from_numpy(IRIS), 2)
    with torch.no_grad():
        top = FactorPosterior(best).log_evidence(torch.from_numpy(IRIS)).sum().item()
    missing = top - fit.notes["log_likelihood"]
    assert fit.status is Status.CONVERGED and missing < 0.005
    assert fit.notes["remaining"] == pytest.approx(missing, rel=0.1)


def test_small_steps_far_from_the_maximum_are_not_called_converged():
    # Columns of very different spread: probabilistic PCA's EM crawls, tens of nats below the top.
    x = load_wine().data
    fit = fitted(LinearVAE, x, 3, tolerance=1e-5, iterations=1000)
    best = LinearVAE.maximum_likelihood(torch.from_numpy(x), 3)
    with torch.no_grad():
        top = FactorPosterior(best).log_evidence(torch.from_numpy(x)).sum().item()
    assert top - fit.notes["log_likelihood"] > 1
    assert -np.diff(fit.history)[-1] < 1e-5 * abs(fit.history[-1])
    assert fit.status is Status.STILL_MOVING
    assert len(fit.history) == 1001 and fit.notes["iterations"] == 1000


def test_duplicated_rows_change_nothing_but_the_height():
    once = fitted(FactorAnalysis, WINE, 2, tolerance=1e-12)
    twice = fitted(FactorAnalysis, np.concatenate([WINE, WINE]), 2, tolerance=1e-12)
    found = twice.notes["log_likelihood"], 2 * once.notes["log_likelihood"]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    np.testing.assert_allclose(noise_of(twice), noise_of(once), rtol=1e-3)


def test_identical_columns_end_at_the_noise_bound():
    x = np.c_[IRIS, IRIS[:, 0]]  # the likelihood has no maximum but the bound's
    fit = fitted(FactorAnalysis, x, 1)
    assert fit.status is Status.CONVERGED and np.isfinite(fit.history).all()
    assert_monotone(fit)
    np.testing.assert_allclose(noise_of(fit)[[0, 4]] / IRIS[:, 0].var(), 1e-9, rtol=1e-4)


# rows, seeds, precision -------------------------------------------------------------------------


@both
def test_chunks_of_rows_give_what_all_rows_give(kind):
    fits = [fitted(kind, DIGITS, 3, iterations=15, chunk=c) for c in (100, 5000)]
    np.testing.assert_allclose(fits[0].history, fits[1].history, rtol=1e-12)
    for one, other in zip(fits[0].model.parameters(), fits[1].model.parameters(), strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=0, atol=1e-10)


def test_a_read_only_memory_map_streams(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, DIGITS.astype(np.float32))  # whole numbers: nothing is rounded
    mapped = np.load(path, mmap_mode="r")
    settings = {"iterations": 10, "chunk": 256, "progress": False}
    torch.manual_seed(0)
    model = FactorAnalysis(DIGITS.shape[1], 3).double()
    fit = em(model, FactorPosterior(model), {"x": mapped}, **settings)
    np.testing.assert_allclose(
        fit.history, fitted(FactorAnalysis, DIGITS, 3, iterations=10).history, rtol=1e-12
    )
    assert fit.posterior(2)["posterior"]["z"].shape == (1, 2, *DIGITS.shape[:1], 3)


def test_more_rows_than_the_start_takes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120_000, 1)) * [1.0, 2.0, 3.0] + rng.normal(size=(120_000, 3)) + 5
    fit = fitted(FactorAnalysis, x, 1, iterations=500)
    # factor analysis of three columns with one factor fits the covariance: S = W W' + Psi
    W = fit.model.weight.detach().numpy()
    found, S = W @ W.T + np.diag(noise_of(fit)), np.cov(x.T, ddof=0)
    assert fit.status is Status.CONVERGED
    np.testing.assert_allclose(found, S, rtol=0, atol=5e-3 * S.max())
    np.testing.assert_allclose(fit.model.bias.detach(), x.mean(0), rtol=0, atol=1e-3)


def test_the_seed_alone_decides_and_nothing_given_is_changed():
    torch.manual_seed(3)
    model = FactorAnalysis(13, 2)
    guide = FactorPosterior(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    state = torch.get_rng_state()
    first = em(model, guide, {"x": WINE}, seed=4, iterations=20, progress=False)
    torch.manual_seed(99)
    again = em(model, guide, {"x": WINE}, seed=4, iterations=20, progress=False)
    other = em(model, guide, {"x": WINE}, seed=5, iterations=20, progress=False)
    np.testing.assert_array_equal(first.history, again.history)
    assert first.history[0] != other.history[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    torch.manual_seed(3)
    FactorAnalysis(13, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_best_of_several_starts_is_kept():
    fit = fitted(FactorAnalysis, IRIS, 1, restarts=4, iterations=5)
    objectives = fit.notes["restarts_objective"]
    assert len(objectives) == fit.notes["restarts"] == 4 and len(set(objectives)) == 4
    assert fit.history[-1] == min(objectives)
    assert objectives[0] == fitted(FactorAnalysis, IRIS, 1, iterations=5).history[-1]


def test_a_single_precision_model_stays_one_and_em_does_not():
    torch.manual_seed(0)
    model = LinearVAE(4, 2)
    fit = em(model, FactorPosterior(model), {"x": IRIS}, tolerance=1e-12, progress=False)
    assert fit.model.weight.dtype is torch.float32
    double = fitted(LinearVAE, IRIS, 2, tolerance=1e-12)
    assert fit.notes["log_likelihood"] == pytest.approx(double.notes["log_likelihood"], abs=1e-8)
    exact = gb.exact(fit.model, fit.guide, {"x": IRIS})
    assert exact.notes["log_evidence"] == pytest.approx(fit.notes["log_likelihood"], rel=1e-5)


def test_a_fit_gives_draws_and_loads_again(tmp_path):
    fit = fitted(FactorAnalysis, IRIS, 1, iterations=30)
    tree = fit.posterior(50, seed=1)
    assert tree["posterior"]["z"].shape == (1, 50, 150, 1)
    weights = (tree["sample_stats"]["lp"] - tree["sample_stats"]["log_q"]).values
    np.testing.assert_allclose(weights, -fit.history[-1], rtol=1e-9)  # exact: no variance
    assert len(tree["vi_fit"]["objective"]) == 31
    model = FactorAnalysis(4, 1).double()
    path = fit.save(tmp_path / "fit")
    again = gb.load(path, model=model, guide=FactorPosterior(model), data={"x": IRIS})
    assert again.notes == fit.notes and again.engine == "em"


# another pair: random effects, written here -----------------------------------------------------


def effects(y=None, m=0.0, s=1.0):
    """z_i ~ N(m, s^2), y_i ~ N(z_i, 1): at the maximum m = mean(y), s^2 = var(y) - 1."""
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(torch.as_tensor(m), s))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


class Effects:
    """The E- and M-step of `effects`, and ways to break them."""

    def __init__(self, wrong=None):
        self.wrong, self.calls = wrong, 0

    def __call__(self, y=None):
        with pyro.plate("row", len(y)):
            pyro.sample("z", dist.Normal(y, 1.0))

    def start(self, data, seed):
        one = torch.ones((), dtype=torch.float64)
        return {"m": 0 * one, "v": one}

    def e_step(self, rows, parameters):
        self.calls += 1
        if self.wrong == "interrupt" and self.calls == 4:
            signal.raise_signal(signal.SIGINT)
        if self.wrong == "singular" and self.calls == 4:
            torch.linalg.cholesky(-torch.eye(2))
        y, m, v = rows["y"], parameters["m"], parameters["v"]
        mean, variance = m + v / (v + 1) * (y - m), v / (v + 1)
        statistics = {"n": len(y) * torch.ones(()), "z": mean.sum(),
                      "zz": (mean**2 + variance).sum()}  # fmt: skip
        evidence = dist.Normal(m, (v + 1).sqrt()).log_prob(y).sum()
        from_call = {"nan": 4, "never": 1}.get(self.wrong, math.inf)
        return statistics, evidence * (math.nan if self.calls >= from_call else 1)

    def m_step(self, statistics, parameters):
        m = statistics["z"] / statistics["n"] * (-1 if self.wrong == "m_step" else 1)
        return {"m": m, "v": statistics["zz"] / statistics["n"] - m**2}

    def log_prior(self, parameters):
        return torch.zeros(())

    def finished(self, model, parameters):
        m, v = float(parameters["m"]), float(parameters["v"])

        def story(y=None):
            return effects(y, m, v**0.5)

        def posterior(y=None):
            with pyro.plate("row", len(y)):
                pyro.sample("z", dist.Normal(m + v / (v + 1) * (y - m), (v / (v + 1)) ** 0.5))

        return story, posterior


def effects_data():
    return {"y": 3 + 2 * np.random.default_rng(0).normal(size=400)}


def effects_fit(wrong=None, **settings):
    return em(effects, Effects(wrong), effects_data(), progress=False, **settings)


def test_a_pair_of_functions_reaches_its_closed_form():
    y = effects_data()["y"]
    fit = effects_fit(tolerance=1e-15)
    assert isinstance(Effects(), ExpectationMaximization)
    variance = y.var()
    best = -0.5 * len(y) * (math.log(2 * math.pi * variance) + 1)
    assert fit.notes["log_likelihood"] == pytest.approx(best, abs=1e-9)
    exact = gb.exact(fit.model, fit.guide, {"y": y})
    assert exact.notes["log_evidence"] == pytest.approx(best, abs=1e-9)
    assert fit.status is Status.CONVERGED


@pytest.mark.parametrize("restarts", [1, 3])
def test_ctrl_c_keeps_what_was_there(restarts):
    before = signal.getsignal(signal.SIGINT)  # ignored where the suite runs in the background
    fit = effects_fit("interrupt", restarts=restarts)
    assert fit.status is Status.INTERRUPTED
    # The signal comes in the fourth E-step, which is completed; the fifth is not begun.
    np.testing.assert_array_equal(fit.history, effects_fit(iterations=3).history)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("wrong", "said"), [("nan", "objective was nan"), ("singular", "cholesky")]
)
def test_the_first_objective_that_is_not_finite_stops_the_fit(wrong, said):
    fit = effects_fit(wrong)
    assert fit.status is Status.STOPPED_BY_NAN
    assert said in fit.notes["nan"] and "iteration 3" in fit.notes["nan"]
    np.testing.assert_array_equal(fit.history, effects_fit(iterations=2).history)


def test_steps_that_do_not_belong_together_are_found_out():
    with pytest.raises(GuideError, match=r"fell from .* in iteration 1.*m_step of Effects"):
        effects_fit("m_step")
    with pytest.raises(GuideError, match=r"nan at the start of Effects"):
        effects_fit("never")


# bad input --------------------------------------------------------------------------------------


def test_a_guide_without_the_steps_is_told_what_it_lacks():
    guide = gb.guides.mean_field(effects)
    with pytest.raises(GuideError, match=r"lacks start, e_step, m_step, log_prior, finished.*svi"):
        em(effects, guide, effects_data(), progress=False)
    with pytest.raises(GuideError, match=r"lacks expected_log_joint. Leave partial=None"):
        effects_fit(partial=2)


@both
def test_bad_data(kind):
    missing, constant = WINE.copy(), WINE.copy()
    missing[7, 3] = np.nan
    constant[:, 5] = 1.5
    with pytest.raises(DataError, match=r"'x' holds NaN at index \(7, 3\)"):
        fitted(kind, missing, 2)
    with pytest.raises(DataError, match="Column 5 of x is constant"):
        fitted(kind, constant, 2)
    with pytest.raises(DataError, match="13 columns, and 13 latents"):
        fitted(kind, WINE, 13)
    with pytest.raises(DataError, match="one row"):
        fitted(kind, WINE[:1], 2)
    with pytest.raises(DataError, match="3 rows of x lie in 2 dimensions"):
        fitted(kind, WINE[:3], 2)
    with pytest.raises(DataError, match="no rows"):
        em(kind(4, 1), FactorPosterior(kind(4, 1)), {}, progress=False)


@pytest.mark.parametrize(
    "setting",
    [{"iterations": 0}, {"restarts": 0}, {"seed": -1}, {"chunk": 0}, {"partial": 0},
     {"tolerance": -1e-9}, {"tolerance": math.nan}, {"iterations": True}, {"chunk": 2.5}],
)  # fmt: skip
def test_settings_out_of_range(setting):
    with pytest.raises(SettingError, match=f"{next(iter(setting))}=.*out of range"):
        fitted(FactorAnalysis, IRIS, 1, **setting)
