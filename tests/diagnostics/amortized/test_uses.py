"""An encoder that is wrong in one way serves some uses and not others; errors at their limits."""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import guidebook as gb
from guidebook.diagnostics.amortized.annealing import Sandwich
from guidebook.diagnostics.amortized.assess import assess_rows
from guidebook.diagnostics.amortized.gap import GapLedger
from guidebook.diagnostics.amortized.generation import Generation
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.uses import (
    CODES,
    MODEL,
    ROWS,
    _by_gap,
    _distance,
    _raw,
    _unit,
    _weighted,
    uses_of,
)
from guidebook.diagnostics.amortized.weights import Weighed
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
from guidebook.diagnostics.measures import information
from guidebook.diagnostics.witnesses import annealed
from guidebook.guides import LinearGaussianPosterior
from guidebook.models import LinearVAE

TRUST, REWEIGHT, REJECT = Verdict.TRUST, Verdict.REWEIGHT, Verdict.REJECT


# on a model whose row posteriors are known --------------------------------------------------------


class Moved(nn.Module):
    """The exact q(z | x) of a linear model with its means moved and its standard deviations scaled.

    m + shift * sd, or, where `lazy`, (1 - lazy) m: means that follow the data less than they should.
    """

    site, observed = "z", "x"

    def __init__(
        self, model: LinearVAE, shift: float = 0, width: float = 1, lazy: float = 0
    ) -> None:
        super().__init__()
        self.exact = LinearGaussianPosterior(model)
        self.shift, self.width, self.lazy = shift, width, lazy
        self.offset = nn.Parameter(torch.zeros(()))

    def posterior(self, x: Tensor) -> dist.Distribution:
        q = self.exact.posterior(x)
        sd = q.variance.sqrt()
        mean = (1 - self.lazy) * q.mean + self.shift * sd + self.offset
        return dist.MultivariateNormal(mean, scale_tril=self.width * q.scale_tril)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("z", self.posterior(x))


@pytest.fixture(scope="module")
def problem() -> tuple[LinearVAE, Tensor]:
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 6, generator=generator)
    x = torch.randn(30, 2, generator=generator) @ factors
    x = (x + 0.3 * torch.randn(30, 6, generator=generator)).double()
    return LinearVAE.maximum_likelihood(x, 2).double().requires_grad_(False), x


def verdicts(problem: tuple[LinearVAE, Tensor], **wrong: float) -> tuple[Verdict, ...]:
    model, x = problem
    adam = pyro.optim.Adam({"lr": 1e-12})
    fit = gb.svi(
        model, Moved(model, **wrong), {"x": x}, optim=adam, steps=100, compile=False, progress=False
    )
    _, numbers = assess_rows(fit)
    return tuple(numbers.uses[use].verdict for use in (MODEL, CODES, ROWS))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        # KL 2 * 0.5 * 0.3^2 = 0.09 nats a row: the bound is near, intervals are not
        ({"shift": 0.3}, (TRUST, TRUST, REWEIGHT)),
        # KL 2 * (log 1.4 + 0.5 / 1.96 - 0.5) = 0.18 nats; the means are exact
        ({"width": 1.4}, (REWEIGHT, TRUST, REWEIGHT)),
    ],
)
def test_what_an_encoder_can_be_used_for(problem, wrong, expected) -> None:
    assert verdicts(problem, **wrong) == expected


def test_codes_that_follow_the_data_too_little_are_no_codes(problem) -> None:
    """Half of every mean: a squared error of a quarter of the codes' variance, by the weights."""
    model, codes, rows = verdicts(problem, lazy=0.5)
    assert codes is REJECT and rows is REJECT and model is not TRUST


# at the limits -------------------------------------------------------------------------------------

N, D = 400, 2


def weighed(bad: int, error: float, se: float = 0.0, usable: int = N) -> tuple[Findings, Weighed]:
    """Codes of variance 1 on top of posteriors of variance 0.25; the last `bad` rows are off.

    `error`: of each code, in standard deviations of the aggregate posterior, sqrt 1.25.
    """
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((N, D))
    mean = (mean - mean.mean(0)) / mean.std(0)
    shift = np.zeros((N, D))
    shift[N - bad :] = error * np.sqrt(1.25) / 0.5
    zero = np.zeros((N, D))
    estimate = Estimate(shift, zero + se * np.sqrt(1.25) / 0.5, zero, zero + 1e-3, zero == 0)
    doubt = np.where(np.arange(N) < usable, 1.0, np.inf)
    told = Testimony(
        "Importance weights", role="sharpens", estimate=estimate, doubt=doubt,
        numbers={"khat": np.full(N, 0.3), "log_evidence": np.zeros(N),
                 "elbo_se": np.full(N, 0.1), "log_evidence_se": np.full(N, 0.1)},
    )  # fmt: skip
    heard = {told.witness: told}
    names = ["z[0]", "z[1]"]
    found = Weighed(
        np.zeros(N), np.zeros(N), np.full(N, 0.3), np.full(N, 0.1), mean, np.full((N, D), 0.5), 1000,
        heard, list(range(0, N, 20)), names,
    )  # fmt: skip
    findings = Findings(
        names, converged=True, posteriors=N, testimonies=heard, sampled=found.sampled
    )
    return findings, found


def used(
    findings: Findings,
    found: Weighed,
    gap: float = 0.0,
    ledger: GapLedger | None = None,
    made: Generation | None = None,
) -> dict[str, Judgement]:
    found = replace(found, bound=found.bound + gap)
    numbers = AmortizedNumbers(
        *(np.zeros((N, 1)), found.khat, 0.1, found.elbo, found.bound, np.zeros((N, 1))),
        *(found.mean, found.sd, np.zeros((1, 1)), np.zeros((1, 1, 1)), np.arange(1), None),
        ledger=ledger, generation=made,
    )  # fmt: skip
    return dict(uses_of(findings, found, numbers, Judgement(TRUST, "", "")))


@pytest.mark.parametrize(
    ("bad", "error", "verdict"),
    [
        (20, 0.3, TRUST),  # 5 % of the rows
        (21, 0.3, REWEIGHT),  # the weighted means are known without error here
        (N, 0.223, TRUST),  # 0.223^2 = 0.0497
        (N, 0.224, REWEIGHT),  # 0.0502
    ],
)
def test_a_twentieth_of_the_variance_for_95_percent_of_the_rows(bad, error, verdict) -> None:
    assert used(*weighed(bad, error))[CODES].verdict is verdict


def test_an_error_that_is_not_known_is_not_shown_to_be_small() -> None:
    """d^2 has a standard error of about sqrt 2 se^2 / sqrt D where the error itself is nil."""
    assert used(*weighed(0, 0.0, se=0.1))[CODES].verdict is TRUST
    found = used(*weighed(0, 0.0, se=0.3))[CODES]
    assert found.verdict is REJECT and "could not be judged" in found.reason


def test_rows_without_usable_weights_count_by_those_looked_at() -> None:
    findings, found = weighed(0, 0.0, usable=N - 40)
    assert used(findings, found)[CODES].verdict is REJECT  # a tenth of the rows nobody looked at
    zero = np.zeros((N, D))
    able = np.zeros((N, D), bool)
    worst = list(range(N - 8, N))
    able[worst] = True
    for off, verdict in ((0.0, TRUST), (1.0, REJECT)):
        run = Testimony(
            "Run", role="confirms", estimate=Estimate(zero + off, zero, zero, zero, able)
        )
        both = {**findings.testimonies, "Run": run}
        looked = replace(findings, testimonies=both), replace(found, heard=both, worst=worst)
        assert used(*looked)[CODES].verdict is verdict


@pytest.mark.parametrize(("gap", "verdict"), [(0.08, TRUST), (0.09, REWEIGHT), (0.5, REWEIGHT)])
def test_the_gap_of_a_bound_in_nats_a_row(gap, verdict) -> None:
    """The standard error of the mean gap is hypot(0.1, 0.1) / sqrt 400 = 0.0071: twice that is added."""
    assert used(*weighed(0, 0.0), gap=gap)[MODEL].verdict is verdict


def test_a_model_that_still_moves_or_whose_evidence_is_unknown_is_rejected() -> None:
    findings, found = weighed(0, 0.0)
    moving = used(replace(findings, converged=False, status="Not converged"), found)
    assert moving[MODEL].verdict is REJECT and moving[CODES].verdict is TRUST
    assert "still moves" in moving[CODES].reason
    unknown = used(*weighed(0, 0.0, usable=N - 21))[MODEL]
    assert unknown.verdict is REJECT and "95%" in unknown.reason
    noisy = replace(findings.testimonies["Importance weights"])
    noisy = replace(noisy, numbers={**noisy.numbers, "log_evidence_se": np.full(N, 1.1)})
    rough = replace(found, heard={noisy.witness: noisy})
    assert used(findings, rough, gap=1.0)[MODEL].verdict is REJECT  # known to 0.055


def test_the_limits_of_the_evidence_are_a_tenth_of_a_nat_two_errors_included() -> None:
    for gap, se, evidence_se, verdict in (
        (0.06, 0.02, 9.0, TRUST),  # 0.06 + 2 * 0.02
        (0.0601, 0.02, 0.05, REWEIGHT),
        (0.06, 0.0201, 0.05, REWEIGHT),  # 2 * 0.05
        (0.3, 0.0, 0.0501, REJECT),
    ):
        assert _by_gap(gap, se, evidence_se, "rows").verdict is verdict


def ledger_of(gap: float, se: float, unseen: float = 0.0) -> GapLedger:
    """Four rows: ELBO 0 without error, log evidence `gap` with an error of 2 se each, se of their mean."""
    none, all_se = np.zeros(4), np.full(4, 2 * se * np.sqrt(2))
    sandwich = Sandwich(none + gap, all_se, none + gap, all_se, none + 0.8, True)
    return GapLedger(np.arange(4), "", 10, *[none] * 8, sandwich, unseen, "held-out rows")


def test_the_model_is_judged_by_the_annealed_evidence_where_there_is_one() -> None:
    pair = weighed(0, 0.0)
    for gap, se, verdict in ((0.05, 0.02, TRUST), (0.07, 0.02, REWEIGHT), (0.0, 0.06, REJECT)):
        told = used(*pair, gap=9.0, ledger=ledger_of(gap, se))[MODEL]
        assert told.verdict is verdict and f"{gap:.2g} +- {se:.1g}" in told.reason
        assert "held-out rows" in told.reason
    blind = used(*pair, ledger=ledger_of(0.0, 0.0, unseen=0.125))[MODEL]
    assert blind.verdict is REJECT and "12%" in blind.reason


def test_a_bound_that_is_higher_on_training_rows_than_on_rows_kept_apart_overfits() -> None:
    """By more than 0.1 nats and two errors: hypot(2 / sqrt 400, 0.24) = 0.26."""
    findings, found = weighed(0, 0.0)
    spread = replace(found, elbo=found.elbo - 2.0, bound=np.where(np.arange(N) % 2, 2.5, -1.5))
    none = np.zeros((1, 1))

    def reason(excess: float, held_out: bool = True) -> Judgement:
        bound, error = information.Estimate(0.5 - excess, 0.24), information.Estimate(1.0, 0.1)
        made = Generation(held_out, bound, error, none, none, none[0], none[0])
        return used(findings, spread, made=made)[MODEL]

    assert "overfits" not in reason(0.615).reason
    over = reason(0.625)
    assert "overfits: its bound is 0.62 +- 0.3" in over.reason and "weight decay" in over.next
    assert "overfits" not in reason(0.625, held_out=False).reason


def test_where_nothing_was_annealed_95_percent_of_the_rows_need_usable_weights() -> None:
    findings, found = weighed(0, 0.0, usable=N - 20)
    assert used(findings, found)[MODEL].verdict is TRUST
    away = replace(found, elbo=found.elbo + 9.0, bound=found.bound + 9.0)
    assert used(findings, away)[MODEL].verdict is TRUST  # the gap is what counts
    silent = replace(findings.testimonies["Importance weights"], doubt=None)
    told = used(findings, replace(found, heard={silent.witness: silent}))[MODEL]
    assert told.verdict is REJECT and "of 0% of the rows" in told.reason


@pytest.mark.parametrize(("unknown", "verdict"), [(20, REWEIGHT), (21, REJECT)])
def test_weighted_means_must_be_known_for_95_percent_of_the_rows(unknown, verdict) -> None:
    findings, found = weighed(N, 0.3)
    weights = findings.testimonies["Importance weights"]
    assert weights.estimate is not None
    se = np.where(np.arange(N)[:, None] < N - unknown, 0.0, 3.0) + np.zeros((N, D))
    told = replace(weights, estimate=replace(weights.estimate, shift_se=se))
    heard = {told.witness: told}
    said = used(replace(findings, testimonies=heard), replace(found, heard=heard))[CODES]
    assert said.verdict is verdict and "still moves" not in said.reason
    assert verdict is REJECT or "weighted draws are for 95%" in said.reason


def test_the_distance_of_codes_is_what_errors_leave_of_the_mean_square() -> None:
    """E mean_j (e_j^2 - s_j^2) of e_j ~ N(d_j, s_j^2) is mean_j d_j^2, with variance
    sum_j (4 d_j^2 s_j^2 + 2 s_j^4) / D^2: against 200,000 draws, five standard errors.
    """
    rng = np.random.default_rng(0)
    truth, s = np.array([0.5, -0.2, 0.1]), np.array([0.1, 0.3, 0.2])
    drawn = truth + s * rng.standard_normal((200_000, 3))
    log_ratio, unit = np.log([1.5, 0.8, 1.0]), np.array([2.0, 0.5, 1.0])
    to = np.exp(log_ratio) / unit  # errors in the posterior's standard deviations
    every = np.ones_like(drawn)
    estimate = Estimate(drawn * to, every * s * to, every * log_ratio, 0 * every, every > 0)
    far, _, able = _distance(Testimony("T"), estimate, every * unit)
    assert able.all()
    variance = (4 * truth**2 * s**2 + 2 * s**4).sum() / 9
    assert far.mean() == pytest.approx((truth**2).mean(), abs=5 * np.sqrt(variance / 200_000))
    assert far.var() == pytest.approx(variance, rel=0.03)
    one = Estimate(*((truth * to)[None], (s * to)[None], log_ratio[None], 0 * s[None], s[None] > 0))
    far, se, _ = _distance(Testimony("T"), one, unit[None])
    assert se == pytest.approx(np.sqrt(variance)) and far == pytest.approx((truth**2 - s**2).mean())
    assert _distance(Testimony("T"), one, unit[None], noise=0.0)[0] == pytest.approx(
        (truth**2).mean()
    )
    wider = _distance(Testimony("T", doubt=np.array([2.0])), one, unit[None])
    assert wider[0] == pytest.approx((truth**2 - 4 * s**2).mean())
    for one_, doubt in (
        (replace(one, able=np.array([[True, False, True]])), 1.0),
        (one, np.inf),
        (replace(one, shift=np.array([[np.nan, 0.0, 0.0]])), 1.0),
        (replace(one, shift_se=np.array([[1e200, 0.0, 0.0]])), 1.0),
    ):
        far, se, able = _distance(Testimony("T", doubt=np.array([doubt])), one_, unit[None])
        assert (far[0], se[0], able[0]) == (0.0, 0.0, False)


def test_codes_differ_by_means_and_variances_of_the_aggregate_posterior() -> None:
    f, found = weighed(0, 0.0)
    found = replace(found, mean=found.mean * 3, sd=np.where(np.arange(N)[:, None] % 2, 1.0, 2.0))
    expected = found.sd / np.sqrt(9 + 0.5 * (1 + 4))
    np.testing.assert_allclose(_unit(f, found), np.broadcast_to(expected, (N, D)))
    small = replace(found, mean=found.mean / 100, sd=found.sd / 100)
    np.testing.assert_allclose(_unit(f, small), _unit(f, found))
    nothing = replace(found, mean=0 * found.mean, sd=0 * found.sd)
    assert np.isfinite(_unit(f, nothing)).all()


@pytest.mark.parametrize("factor", [1.5, 0.5])
def test_a_q_that_spreads_its_codes_too_far_does_not_give_the_units(factor: float) -> None:
    """Row posteriors of mean m / factor and the same widths: the units are theirs where they are smaller."""
    f, found = weighed(0, 0.0)
    found = replace(found, mean=found.mean * 3, sd=np.full((N, D), 1.0))
    nil, error = np.zeros((N, D)), np.full((N, D), 0.01)
    shift = found.mean * (1 - 1 / factor)
    known = Estimate(shift, error, nil, error, np.ones((N, D), bool))
    f = replace(f, testimonies={annealed.NAME: Testimony(annealed.NAME, estimate=known)})
    least = min(1.0, math.sqrt((9 / factor**2 + 1) / 10))
    np.testing.assert_allclose(_unit(f, found), 1 / (math.sqrt(10) * least))


def one_row(witness: str, error: float, se: float = 0.0, role: str = "confirms") -> Testimony:
    """An error of one code in units of the aggregate posterior, which is that of the row here."""
    one = Estimate(*(np.array([[x]]) for x in (error, se, 0.0, 0.0)), np.ones((1, 1), bool))
    return Testimony(witness, role=role, estimate=one)  # type: ignore[arg-type]


def test_a_row_is_good_where_a_witness_that_may_confirm_shows_it_and_none_contradicts() -> None:
    unit = np.ones((1, 1))
    fine, off = 0.2, 0.3  # squares 0.04 and 0.09
    for told, good, bad in (
        ([one_row("A", fine)], True, False),
        ([one_row("A", fine, role="sharpens")], True, False),
        ([one_row("A", fine, role="contradicts")], False, False),
        ([one_row("A", off, role="contradicts")], False, True),
        ([one_row("A", fine), one_row("B", off, role="compares")], False, True),
        ([one_row("A", fine), one_row("B", 2.0, 2.0)], True, False),  # B cannot say
        ([one_row("A", 0.2, 0.02)], False, False),  # 0.04 + 2 * 0.008
        ([one_row("A", 0.2, 0.01)], True, False),  # 0.04 + 2 * 0.004
        ([one_row("A", 0.25, 0.01)], False, True),  # 0.0625 - 2 * 0.005
        ([one_row("A", 0.25, 0.02)], False, False),  # 0.0625 - 2 * 0.01
        ([one_row("B", off, role="compares"), one_row("A", fine)], False, True),
        ([Testimony("None"), one_row("A", fine)], True, False),
        ([], False, False),
    ):
        found = _raw(Findings(["z"], testimonies={t.witness: t for t in told}), unit)
        assert (found[0][0], found[1][0]) == (good, bad)


def test_weighted_means_are_used_where_twice_their_error_is_small_and_none_contradicts() -> None:
    unit = np.ones((1, 1))

    def said(
        se: float, role: str, weighted: float | None = None, weighted_se: float = 0.0
    ) -> Testimony:
        told = one_row(f"{se} {role} {weighted}", 5.0, se, role)
        if weighted is None:
            return told
        return replace(told, weighted=one_row("W", weighted, weighted_se).estimate)

    for told, good in (
        ([said(0.111, "sharpens")], True),  # 4 * 0.0123
        ([said(0.112, "sharpens")], False),  # 4 * 0.0125
        ([said(0.01, "confirms")], False),
        ([said(0.01, "sharpens", 0.3)], False),
        ([said(0.01, "sharpens", 0.2)], True),
        ([said(0.01, "sharpens", 0.2, 0.02)], True),  # 0.04 - 2 * 0.008
        ([said(0.01, "sharpens", 0.25, 0.01)], False),  # 0.0625 - 2 * 0.005
        ([said(0.01, "sharpens"), said(0.2, "sharpens")], True),
        ([said(0.01, "sharpens", 0.3), said(0.02, "confirms", 0.1)], False),
    ):
        findings = Findings(["z"], testimonies={t.witness: t for t in told})
        assert _weighted(findings, unit)[0] == good


def test_rows_whose_other_explanations_are_left_out_have_no_code() -> None:
    """Of 21 rows that were cut one is among the twenty looked at; of 20 none need be."""
    findings, found = weighed(0, 0.0)
    for rows, verdict in ((list(range(1, 21)), TRUST), (list(range(21)), REJECT)):
        elsewhere = np.zeros(N)
        elsewhere[rows] = 0.3
        told = used(findings, replace(found, elsewhere=elsewhere))[CODES]
        assert told.verdict is verdict
    assert "In 10% of the rows looked at closely the encoder picked one" in told.reason
    assert "could not be judged" not in told.reason
    # means of weighted draws are means of one explanation too
    findings, found = weighed(21, 0.3)
    elsewhere = np.where(np.arange(N) < 21, 0.3, 0.0)
    both = used(findings, replace(found, elsewhere=elsewhere))[CODES]
    assert both.verdict is REJECT and "for 5% it is shown to be larger" in both.reason


def test_the_row_that_is_most_off_is_named_and_what_a_witness_says_to_do() -> None:
    findings, found = weighed(N, 0.5, se=0.12)
    weights = findings.testimonies["Importance weights"]
    assert weights.estimate is not None
    shift, shift_se = weights.estimate.shift.copy(), weights.estimate.shift_se.copy()
    shift[7] *= 2  # an error of 1 in units of the aggregate posterior, less 0.0144
    shift[0], shift[3], shift_se[3] = 0.0, 4 * shift[3], 8 * shift_se[3]  # not known to be off
    told = replace(weights, estimate=replace(weights.estimate, shift=shift, shift_se=shift_se))
    zero = np.zeros((N, D))
    nothing = Estimate(
        zero + 9.0, zero + 9.0, zero, zero, zero == 0
    )  # of errors as large as it says
    run = Testimony("Run", estimate=nothing, remedy="Widen the encoder.")
    heard = {told.witness: told, "Run": run}
    said = used(replace(findings, testimonies=heard), replace(found, heard=heard))[CODES]
    assert said.verdict is REJECT and "row 7: 99%" in said.reason
    assert said.next == "Widen the encoder."
    assert "for 100% it is shown" in said.reason  # 398 of 400
    assert used(*weighed(N, 0.5, se=0.12))[CODES].next.startswith("Try a larger encoder")


@pytest.mark.parametrize("by_chance", [False, True])
@pytest.mark.parametrize(
    ("unusable", "looked", "judged", "share"),
    [(40, 7, 7, "92%"), (40, 8, 8, "100%"), (80, 16, 8, "90%")],
)
def test_eight_rows_looked_at_stand_for_those_like_them(
    unusable: int, looked: int, judged: int, share: str, by_chance: bool
) -> None:
    """0.9 + 7 / 400; 0.9 + 8 / 400 + 32 / 400; and 0.8 + 8 / 400 + 64 / 400 * 8 / 16."""
    findings, found = weighed(0, 0.0, usable=N - unusable)
    zero, able = np.zeros((N, D)), np.zeros((N, D), bool)
    closely = list(range(N - looked, N))
    able[closely[:judged]] = True
    run = Testimony("Run", role="confirms", estimate=Estimate(zero, zero, zero, zero, able))
    both = {**findings.testimonies, "Run": run}
    random = list(range(0, 320, 20))  # whose weights can judge them
    findings = replace(findings, testimonies=both, sampled=closely if by_chance else random)
    worst = () if by_chance else closely
    told = used(findings, replace(found, heard=both, worst=worst))[CODES]
    assert f"for {share} of the rows" in told.reason


def test_a_point_has_no_uses() -> None:
    findings, found = weighed(0, 0.0)
    assert used(replace(findings, kind="point"), found) == {}
