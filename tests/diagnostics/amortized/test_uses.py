"""An encoder that is wrong in one way serves some uses and not others; errors at their limits."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import guidebook as gb
from guidebook.diagnostics.amortized.assess import assess_rows
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.uses import CODES, MODEL, ROWS, uses_of
from guidebook.diagnostics.amortized.weights import Weighed
from guidebook.diagnostics.evidence.testimony import Estimate, Testimony
from guidebook.diagnostics.judging.findings import Findings, Judgement, Verdict
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
    findings: Findings, found: Weighed, gap: float = 0.0, se: float = 0.0
) -> dict[str, Judgement]:
    found = replace(found, bound=found.bound + gap)
    numbers = AmortizedNumbers(
        *(np.zeros((N, 1)), found.khat, 0.1, found.elbo, found.bound, np.zeros((N, 1))),
        *(found.mean, found.sd, np.zeros((1, 1)), np.zeros((1, 1, 1)), np.arange(1), None),
    )
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


def test_a_point_has_no_uses() -> None:
    findings, found = weighed(0, 0.0)
    assert used(replace(findings, kind="point"), found) == {}
