"""A pair of one's own under EM: random effects; and what EM refuses."""

import math
import signal

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError, SettingError
from guidebook.guides.conjugate.factor import FactorPosterior
from guidebook.inference.em import em
from guidebook.inference.protocols.maximisation import ExpectationMaximization
from guidebook.models.decoders.factor import FactorAnalysis
from tests.inference.em.fitted import IRIS, WINE, both, fitted

# another pair: random effects, written here ------------------------------------------------------


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


# bad input ---------------------------------------------------------------------------------------


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
