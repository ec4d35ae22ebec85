"""Draws moved before a reject: a normal posterior in closed form, and posteriors that cannot be saved."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import guidebook as gb
from guidebook.diagnostics import rescue
from guidebook.diagnostics.assess import assess
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.judging.assessment import Assessment
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.numerics.drift import Transport
from guidebook.guides.autoguides.mixture import NormalMixture
from guidebook.inference.fits.opening import opened
from guidebook.inference.fits.status import Status

rng = np.random.default_rng(0)
X = 0.95 * rng.normal(size=(60, 1)) + 0.3 * rng.normal(size=(60, 3))
Y = X.sum(1) + rng.normal(size=60)
PRECISION = np.eye(3) / 25 + X.T @ X
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ X.T @ Y


def regression(X: torch.Tensor, y: torch.Tensor | None = None) -> None:
    """Columns that are much alike, so that the coefficients' posterior is correlated."""
    b = pyro.sample("b", dist.Normal(torch.zeros(X.shape[1]), 5.0).to_event(1))
    with pyro.plate("row", len(X)):
        pyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def two_modes(distance: torch.Tensor) -> None:
    """u ~ 0.6 N(0, 1) + 0.4 N(distance, 1); its prior is N(0, 10^2), taken out again."""
    prior = dist.Normal(torch.zeros(2), 10.0).to_event(1)
    u = pyro.sample("u", prior)
    far = torch.stack([distance, torch.zeros_like(distance)])
    parts = torch.stack([-0.5 * u.square().sum(), -0.5 * (u - far).square().sum()])
    density = (parts + torch.tensor([0.6, 0.4]).log()).logsumexp(0)
    pyro.factor("density", density - prior.log_prob(u))


def shelf(width: torch.Tensor) -> None:
    """u: half of its mass a peak of standard deviation 0.02, half a normal of `width`."""
    prior = dist.Normal(torch.zeros(2), 10.0).to_event(1)
    u = pyro.sample("u", prior)
    heights = [dist.Normal(0.0, s).log_prob(u).sum() for s in (width.new_tensor(0.02), width)]
    pyro.factor("density", torch.stack(heights).logsumexp(0) - prior.log_prob(u))


def placed(model: Callable[..., None], data: dict[str, Any], mean: Any, sd: Any) -> gb.Fit:
    """A fit whose approximation is a normal with these means and standard deviations."""
    mean, sd = (torch.as_tensor(a, dtype=torch.float64) for a in (mean, sd))
    with opened("placed", model, NormalMixture(model, 1), data, seed=0, device=None) as run:
        run.guide.place(torch.zeros(1), mean[None], torch.diag(sd)[None])
    fit: gb.Fit = run.fit(Status.CONVERGED, sites=run.guide.sites)
    return fit


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of the usual draws and chains."""
    monkeypatch.setattr("guidebook.diagnostics.inputs.MOST_DRAWS", 4000)
    monkeypatch.setattr("guidebook.diagnostics.witnesses.transport.CHAINS", 1000)


def test_a_peak_above_a_wide_shelf_is_not_trusted() -> None:
    """Half of the mass is 150 times as wide as the other half, which q fits: its weights are equal."""
    data = {"width": torch.tensor(3.0, dtype=torch.float64)}
    found = gb.compare({"peak": placed(shelf, data, [0.0, 0.0], [0.02, 0.02])})
    assert found.verdicts["peak"] is Verdict.REJECT
    reason = found.table.loc["peak", "reason"]
    assert "beyond all draws" in reason and "wide shelf" in found.table.loc["peak", "next"]


def groups(y: torch.Tensor) -> None:
    """Six means, their scale with a prior that is nearly flat on the logarithm: 3 % of it near nil."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    log_s = pyro.sample("log_s", dist.Normal(0.0, 10.0))
    with pyro.plate("group", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + log_s.exp() * z, 0.8), obs=y)


def test_a_shelf_along_one_coordinate_is_found_by_a_gibbs_step() -> None:
    data = {"y": 1.4 * torch.tensor([2.1, -0.4, 0.9, 1.8, -1.1, 0.2])}
    fit = placed(
        groups, data, [0.8, 0.4, 1.2, -1.0, 0.3, 0.9, -1.3, -0.3],
        [0.6, 0.3, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6],
    )  # fmt: skip
    found = gb.compare({"peak": fit})
    assert found.verdicts["peak"] is Verdict.REJECT
    reason = found.table.loc["peak", "reason"]
    assert "of log_s given the others" in reason and "beyond the farthest draw" in reason


@pytest.fixture(scope="module")
def factorised() -> gb.Fit:
    """The mean-field optimum: the mean, and the conditional standard deviations."""
    data = {"X": torch.tensor(X), "y": torch.tensor(Y)}
    return placed(regression, data, MEAN, 1 / np.sqrt(np.diagonal(PRECISION)))


def test_a_factorised_normal_of_a_correlated_posterior_is_reweighted(
    factorised: gb.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without moment matching it is rejected. The weighted draws have the posterior's means, variances
    and correlations within 4.5 standard errors of 4,000 draws: nine numbers, one alarm in 16,000.
    """
    asked: list[Assessment] = []

    def listening(found: Assessment, *given: Any) -> Assessment:
        asked.append(found)
        return rescue.rescued(found, *given)

    monkeypatch.setattr("guidebook.diagnostics.compare.rescued", listening)
    after = gb.compare({"q": factorised})
    (before,) = asked
    assert before.judgement.verdict is Verdict.REJECT and before.matched is None
    row = after.table.loc["q"]
    assert after.verdicts["q"] is Verdict.REWEIGHT
    assert row["khat"] < 0.7 < before.numbers["khat"] and row["ess"] > 2000
    assert before.judgement.reason in row["reason"]
    assert "Moment matching (mean and covariance" in row["reason"]
    assert f"k-hat {before.numbers['khat']:.2f} before" in row["reason"]
    for name in ("elbo", "stein", "mean_error", "sd_ratio_min"):  # of the draws as fitted
        assert row[name] == before.numbers[name]
    as_fitted = after.posteriors["q"]["posterior"]["b"].values[0]
    assert np.abs(as_fitted.std(0) * np.sqrt(np.diagonal(PRECISION)) - 1).max() < 0.1
    drawn = after.weighted("q")["posterior"]["b"].values[0]
    z = np.linalg.solve(np.linalg.cholesky(COVARIANCE), (drawn - MEAN).T).T
    products = np.einsum("si,sj->sij", z, z) - np.eye(3)
    for each in (z, products.reshape(len(z), -1)):
        assert (np.abs(each.mean(0)) < 4.5 * each.std(0) / math.sqrt(len(z))).all()
    stats = after.matched["q"]["sample_stats"]
    assert after.weights["q"] is not None
    log_w = (stats["lp"] - stats["log_q"]).values[0]
    assert np.corrcoef(log_w, np.log(after.weights["q"]))[0, 1] > 0.99


def test_only_rejects_of_fits_are_tried(factorised: gb.Fit) -> None:
    """Draws of a file come without the density at fresh positions."""
    tree = factorised.posterior(1000)
    found = assess(tree)
    assert found.judgement.verdict is Verdict.REJECT
    assert rescue.rescued(found, tree, None) is found
    for verdict in (Verdict.TRUST, Verdict.REWEIGHT):
        usable = replace(found, judgement=Judgement(verdict, "", ""))
        assert rescue.rescued(usable, tree, factorised) is usable
    weights = replace(
        found.findings.testimonies["Importance weights"], against_weighted=[""], weak_weighted=[""]
    )
    told = dict(found.findings.testimonies) | {"Importance weights": weights}
    blind = replace(found, findings=replace(found.findings, testimonies=told))
    assert rescue.rescued(blind, tree, factorised) is blind
    ruled_out = replace(found.findings.testimonies["Modes"], rules_out="A mode is missing.")
    findings = replace(found.findings, testimonies={"Modes": ruled_out})
    hopeless = replace(found, findings=findings)
    assert rescue.rescued(hopeless, tree, factorised) is hopeless


@pytest.mark.parametrize(("sd", "said"), [(1.0, ""), (0.5, "x is too narrow (sd ratio 0.5")])
def test_moved_draws_agree_with_the_run_from_the_draws_as_fitted(sd: float, said: str) -> None:
    """That run says mean 0 and standard deviation 1; 2,000 moved draws of both widths."""
    one = np.ones((1, 1))
    ran = Transport(0 * one, one, 0 * one, 0.01 * one, one, 0.01 * one, one > 0, np.ones(1))
    x = np.random.default_rng(0).normal(0, sd, (1, 2000))
    moved = xr.DataTree.from_dict({"/posterior": xr.Dataset({"x": (("chain", "draw"), x)})})
    weights = np.full(2000, 1 / 2000)
    findings = Findings(names=["x"], testimonies={"HMC check": Testimony("HMC check", detail=ran)})
    judgement = Judgement(Verdict.REJECT, "", "")
    given = Assessment(judgement, {}, "svi", 1.0, weights, {}, [], findings)
    found = rescue._contradicted(given, given, moved)
    assert (said in found) if said else found == ""
    nothing = replace(given, findings=Findings(names=["x"]))
    assert rescue._contradicted(nothing, given, moved) == ""


def test_a_missing_mode_stays_rejected() -> None:
    """Two modes eight standard deviations apart, of which the draws visit one."""
    data = {"distance": torch.tensor(8.0).double()}
    found = gb.compare({"q": placed(two_modes, data, [0.0, 0.0], [0.3, 0.3])})
    assert found.verdicts["q"] is Verdict.REJECT and found.matched == {}


def test_what_no_map_mends_stays_rejected() -> None:
    """A peak that holds half of the mass on a floor 150 times as wide: its draws see no floor."""
    data = {"width": torch.tensor(3.0).double()}
    found = gb.compare({"q": placed(shelf, data, [0.0, 0.0], [0.05, 0.05])})
    assert found.verdicts["q"] is Verdict.REJECT and found.matched == {}
