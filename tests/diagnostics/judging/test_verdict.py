"""The rules of the verdict, and the ways to a wrong trust that must stay closed."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_base import from_dict
from scipy import stats

import guidebook as gb
from guidebook.diagnostics.judging.findings import Findings, Verdict
from guidebook.diagnostics.judging.verdict import judge
from guidebook.diagnostics.witnesses.testimony import Estimate


def estimate(
    shift: float = 0.0, log_ratio: float = 0.0, se: float = 0.01, able: bool = True
) -> Estimate:
    one = np.ones(1)
    return Estimate(shift * one, se * one, log_ratio * one, se * one, np.array([able]))


GOOD = Findings(
    names=["x"], family="mean_field", engine="svi", draws=20_000, converged=True, khat=0.3,
    khat_se=0.08, khat_moments=0.4, ess=15_000, importance=estimate(), stein=0.02,
    stein_weighted=0.01, transport=estimate(), weighted_transport=estimate(),
)  # fmt: skip
OFF = estimate(shift=0.3)
EDGE = estimate(shift=0.105)

RULES = [
    ("everything agrees", GOOD, Verdict.TRUST),
    ("weights unusable, the run confirms", replace(GOOD, khat=0.9), Verdict.TRUST),
    ("raw off, weights mend", replace(GOOD, transport=OFF, importance=OFF), Verdict.REWEIGHT),
    ("raw off, weights unusable", replace(GOOD, transport=OFF, khat=0.9), Verdict.REJECT),
    ("raw off, few effective draws", replace(GOOD, transport=OFF, ess=500.0), Verdict.REJECT),
    ("raw off, weighted off", replace(GOOD, transport=OFF, weighted_transport=OFF), Verdict.REJECT),
    ("weights say off, run says fine", replace(GOOD, importance=OFF), Verdict.REWEIGHT),
    ("nothing can tell", replace(GOOD, transport=estimate(able=False), khat=0.9), Verdict.REJECT),
    ("too near the limit", replace(GOOD, transport=estimate(shift=0.09), khat=0.9), Verdict.REJECT),
    ("restarts disagree", replace(GOOD, vetoed="Restarts disagree."), Verdict.REJECT),
    ("a mode is missing", replace(GOOD, missing_mode="a mode at 9"), Verdict.REJECT),
    ("Stein contradicts", replace(GOOD, stein=3.0, stein_weighted=3.0), Verdict.REJECT),
    ("a sound reference contradicts", replace(GOOD, reference=OFF, reference_sound=True), Verdict.REWEIGHT),
    ("a sound one, at the limit", replace(GOOD, reference=EDGE, reference_sound=True), Verdict.REWEIGHT),
    ("an unsound one does not", replace(GOOD, reference=OFF), Verdict.TRUST),
    ("a point", replace(GOOD, point=True), Verdict.REJECT),
    ("chains agree", Findings(["x"], sampler=True, converged=True, stein=0.02), Verdict.TRUST),
    ("chains disagree", Findings(["x"], sampler=True, converged=False), Verdict.REJECT),
    ("no witness at all", Findings(["x"]), Verdict.REJECT),
]  # fmt: skip


@pytest.mark.parametrize(("findings", "verdict"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_rule(findings: Findings, verdict: Verdict) -> None:
    judgement = judge(findings)
    assert judgement.verdict is verdict
    assert judgement.reason and judgement.next


def tree_of(z: np.ndarray, lp: np.ndarray | None = None, log_q: np.ndarray | None = None) -> object:
    groups: dict[str, dict[str, np.ndarray]] = {"posterior": {"x": z[None]}}
    if lp is not None:
        groups["sample_stats"] = {"lp": lp[None]}
        if log_q is not None:
            groups["sample_stats"]["log_q"] = log_q[None]
    return from_dict(groups)


def file_verdict(q_mean: float, q_sd: float, dimension: int = 4) -> Verdict:
    """Of a file with lp and log_q, p = N(0, I), q = N(q_mean, q_sd^2)."""
    z = np.random.default_rng(0).normal(q_mean, q_sd, (20_000, dimension))
    lp = stats.norm.logpdf(z).sum(1)
    log_q = stats.norm.logpdf(z, q_mean, q_sd).sum(1)
    return gb.compare({"q": tree_of(z, lp, log_q)}).verdicts["q"]


def test_files_without_gradients() -> None:
    assert file_verdict(0.0, 1.0) is Verdict.TRUST
    assert file_verdict(0.3, 1.1) is Verdict.REWEIGHT
    assert file_verdict(0.0, 0.3) is Verdict.REJECT


@pytest.mark.parametrize("sd", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("mean", [0.0, 3.0, 50.0])
def test_a_needle_in_a_file_is_never_trusted(mean: float, sd: float) -> None:
    assert file_verdict(mean, sd) is not Verdict.TRUST


def test_a_file_with_draws_alone_names_what_is_missing() -> None:
    z = np.random.default_rng(0).normal(size=(1000, 2))
    found = gb.compare({"q": tree_of(z)})
    assert found.verdicts["q"] is Verdict.REJECT
    assert any("no lp" in one and "no log_q" in one for one in found.witnesses["q"])


def test_a_reference_lets_such_a_file_be_trusted() -> None:
    rng = np.random.default_rng(0)
    good, reference = (tree_of(rng.normal(size=(20_000, 2))) for _ in range(2))
    off = tree_of(rng.normal(0.5, 1.0, size=(20_000, 2)))
    found = gb.compare({"good": good, "off": off}, reference=reference)
    assert found.verdicts["good"] is Verdict.TRUST and found.verdicts["off"] is Verdict.REJECT
    assert found.table.loc["off", "mean_error"] == pytest.approx(0.5, abs=0.05)


def needle_regression(X: torch.Tensor, y: torch.Tensor | None = None) -> None:
    flat = dist.ImproperUniform(dist.constraints.real_vector, (), (X.shape[1],))
    beta = pyro.sample("beta", flat)
    pyro.sample("y", dist.Normal(X @ beta, 100.0).to_event(1), obs=y)


def test_stock_svi_stuck_on_a_flat_ridge_is_rejected() -> None:
    """The trap of facts.md: an intercept with a posterior sd of 10^4, a guide that never moves."""
    from pyro.infer.autoguide import AutoNormal
    from pyro.infer.autoguide.initialization import init_to_value

    generator = torch.Generator().manual_seed(0)
    X = torch.ones(40, 2)
    X[:, 1] = 1000 + torch.randn(40, generator=generator)
    y = 3e5 + 100 * torch.randn(40, generator=generator)
    data = {"X": X, "y": y}
    init = init_to_value(values={"beta": torch.zeros(2)})
    guide = AutoNormal(needle_regression, init_loc_fn=init)
    stuck = gb.svi(needle_regression, guide, data, steps=300, compile="graph", progress=False)
    ours = gb.svi(
        needle_regression, gb.guides.full_rank(needle_regression), data, steps=300,
        compile="graph", progress=False,
    )  # fmt: skip
    found = gb.compare({"stuck": stuck, "full-rank": ours})
    assert found.verdicts == {"stuck": Verdict.REJECT, "full-rank": Verdict.TRUST}
    assert math.isfinite(found.table.loc["full-rank", "elbo"])
