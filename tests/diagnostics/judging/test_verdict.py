"""The rules of the verdict, and the ways to a wrong trust that must stay closed."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_base import from_dict
from scipy import stats

import guidebook as gb
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony, where
from guidebook.diagnostics.judging.findings import Findings, Verdict
from guidebook.diagnostics.judging.verdict import judge


def estimate(
    shift: float = 0.0, log_ratio: float = 0.0, se: float = 0.01, able: bool = True
) -> Estimate:
    one = np.ones((1, 1))
    return Estimate(shift * one, se * one, log_ratio * one, se * one, able & np.ones((1, 1), bool))


OFF, EDGE, BLIND = estimate(shift=0.3), estimate(shift=0.105), estimate(able=False)


def run(raw: Estimate, weighted: Estimate | None = None) -> Testimony:
    """A Hamiltonian run."""
    return Testimony(
        "Hamiltonian run", role="confirms", estimate=raw, weighted=weighted, far=np.ones(1, bool),
        against=where(raw.bad(), lambda i: "The run says off."),
        against_weighted=where(weighted.bad(), lambda i: "Weighted, off.") if weighted else (),
    )  # fmt: skip


def weights(
    raw: Estimate, khat: float = 0.3, ess: float = 15_000.0, moments: float = 0.4
) -> Testimony:
    usable, few = khat < 0.7, ess < 2_000
    return Testimony(
        "Importance weights", role="sharpens", estimate=raw,
        doubt=np.array([1.0 if usable else math.inf]),
        against=where(raw.bad() & usable, lambda i: "The weights say off."),
        against_weighted=["" if usable and not few else "Unusable."],
        weak_weighted=["" if moments < 0.7 else "No variance."],
        alone=np.array([khat + 0.08 < 0.5]) & raw.within(2.0),
        numbers={"khat": np.array([khat]), "khat_se": np.array([0.08]), "ess": np.array([ess])},
    )  # fmt: skip


def gradients(raw: float = 0.02, weighted: float = 0.01) -> Testimony:
    return Testimony(
        "Stein's identities",
        against=["Stein fails."] if raw > 0.35 else [""],
        against_weighted=["Stein fails."] if weighted > 0.35 else [""],
        supports=np.ones(1, bool), checks=np.ones(1, bool),
    )  # fmt: skip


def reference(raw: Estimate, sound: bool = True) -> Testimony:
    off = raw.bad() | ~raw.within(0.0)
    against = where(off, lambda i: "Against the reference.") if sound else ()
    return Testimony(
        "Reference", role="compares", estimate=raw, against=against, checks=np.array([sound])
    )


def ended(rules_out: str = "", agree: bool | None = None) -> Testimony:
    vouches = None if agree is None else np.array([agree])
    against = ["The chains disagree."] if agree is False else ()
    return Testimony("Convergence", rules_out=rules_out, vouches=vouches, against=against)


def found(*testimonies: Testimony, **facts: Any) -> Findings:
    told = {t.witness: t for t in testimonies}
    given = {"names": ["x"], "family": "mean_field", "engine": "svi", "draws": 20_000}
    return Findings(**{**given, "converged": True, **facts, "testimonies": told})


GOOD = (ended(), weights(estimate()), gradients(), run(estimate(), estimate()))
RUN = run(estimate(), estimate())


def with_(*testimonies: Testimony, **facts: Any) -> Findings:
    """A good approximation, but for these."""
    return found(*GOOD, *testimonies, **facts)


FEW = (ended(), weights(estimate()), gradients())
MENDED = run(OFF, estimate())
RULES = [
    ("everything agrees", found(*GOOD), Verdict.TRUST),
    ("weights unusable, the run confirms", with_(weights(estimate(), khat=0.9)), Verdict.TRUST),
    ("raw off, weights mend", with_(weights(OFF), MENDED), Verdict.REWEIGHT),
    ("raw off, weights unusable", with_(weights(OFF, 0.9), run(OFF, OFF)), Verdict.REJECT),
    ("raw off, few effective draws", with_(weights(OFF, ess=500.0), MENDED), Verdict.REJECT),
    ("raw off, weighted off", with_(run(OFF, OFF)), Verdict.REJECT),
    ("weights say off, run says fine", with_(weights(OFF)), Verdict.REWEIGHT),
    ("nothing can tell", with_(weights(estimate(), 0.9), run(BLIND, BLIND)), Verdict.REJECT),
    ("the run is too noisy alone", with_(run(estimate(se=0.1))), Verdict.TRUST),
    ("too near the limit", with_(weights(estimate(), 0.9), run(estimate(shift=0.09))), Verdict.REJECT),
    ("no variance of squares, but the run", with_(weights(OFF, moments=0.8), MENDED), Verdict.REWEIGHT),
    ("no variance of second moments", with_(weights(OFF, moments=0.8), run(OFF, EDGE)), Verdict.REJECT),
    ("restarts disagree", with_(ended("Restarts disagree.")), Verdict.REJECT),
    ("a mode is missing", with_(Testimony("Modes", rules_out="A mode at 9.")), Verdict.REJECT),
    ("Stein contradicts", with_(gradients(3.0, 3.0)), Verdict.REJECT),
    ("a sound reference contradicts", with_(reference(OFF)), Verdict.REWEIGHT),
    ("a sound one, at the limit", with_(reference(EDGE)), Verdict.REWEIGHT),
    ("an unsound one does not", with_(reference(OFF, sound=False)), Verdict.TRUST),
    ("a point", found(*GOOD, kind="point"), Verdict.REJECT),
    ("weights and gradients alone", found(*FEW), Verdict.TRUST),
    ("weights alone", found(ended(), weights(estimate())), Verdict.REJECT),
    ("not converged", found(*FEW, converged=False), Verdict.REWEIGHT),
    ("with k-hat 0.45", found(*FEW, weights(estimate(), 0.45)), Verdict.REWEIGHT),
    ("chains agree", found(ended(agree=True), gradients(), kind="chains"), Verdict.TRUST),
    ("chains disagree", found(ended(agree=False), gradients(), kind="chains"), Verdict.REJECT),
    ("chains off the density", found(ended(agree=True), gradients(3.0), kind="chains"), Verdict.REJECT),
    ("particles that the run leaves", found(ended(), gradients(), RUN, kind="particles"), Verdict.TRUST),
    ("particles that it moves", found(ended(), gradients(), run(OFF), kind="particles"), Verdict.REJECT),
    ("discrete, weights alone", found(ended(), weights(estimate()), discrete=True), Verdict.REJECT),
    ("no witness at all", Findings(["x"]), Verdict.REJECT),
]  # fmt: skip


@pytest.mark.parametrize(("findings", "verdict"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
def test_rule(findings: Findings, verdict: Verdict) -> None:
    judgement = judge(findings)
    assert judgement.verdict is verdict, judgement.reason
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


def test_moved_draws_are_reweighted_or_not_used() -> None:
    """Whatever confirms them, they are not the draws of the fit: the same checks that make a trust of
    draws as fitted make a reweight of moved ones, and what speaks against weights a reject.
    """
    good = {
        "weights": weights(estimate()), "gradients": gradients(),
        "run": run(estimate(), estimate()),
    }  # fmt: skip
    as_fitted = Findings(names=["x"], draws=20_000, testimonies=good)
    assert judge(as_fitted).verdict is Verdict.TRUST
    moved = Findings(names=["x"], draws=20_000, testimonies=good, fitted="Too narrow. Moved.")
    found = judge(moved)
    assert found.verdict is Verdict.REWEIGHT
    assert found.reason.startswith(
        "Too narrow. Moved. Importance weighting corrects this (k-hat 0.30"
    )
    for changed in (
        {"weights": weights(estimate(), khat=0.71)},
        {"run": run(estimate(), OFF)},
        {"run": run(OFF, OFF)},  # what the moved draws are without weights is not asked
    ):
        worse = Findings(
            names=["x"], draws=20_000, testimonies=good | changed, fitted="Too narrow. Moved."
        )
        assert judge(worse).verdict is Verdict.REJECT
        assert judge(worse).reason in ("Unusable.", "Weighted, off.")
