"""Rows with two explanations of which the encoder keeps one: every local check agrees with it."""

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import guidebook as gb
from guidebook.diagnostics.amortized.rows import some_rows
from guidebook.diagnostics.amortized.weights import OTHERS, SAMPLED, weigh
from guidebook.diagnostics.judging.findings import Verdict

ROWS, NOISE = 30, 0.3


def even(x: Tensor, size: int | None = None) -> None:
    """z ~ N(0, 1), x | z ~ N((z^2, z^2 / 2 + 1), 0.3^2): only |z| is seen."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        mean = torch.cat([z**2, 0.5 * z**2 + 1.0], -1)
        pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)


def data() -> Tensor:
    rng = np.random.default_rng(0)
    z = rng.choice([-1, 1], ROWS) * rng.uniform(1.1, 2.3, ROWS)
    x = np.stack([z**2, 0.5 * z**2 + 1.0], 1) + NOISE * rng.standard_normal((ROWS, 2))
    return torch.as_tensor(x)


class Branches(nn.Module):
    """q(z | x) of each row: the normals with the exact moments of its branches, by quadrature.

    `shares`: of the branch above zero and of the one below. `width` multiplies standard deviations.
    """

    site, observed = "z", "x"

    def __init__(self, shares: tuple[float, float], width: float = 1.0) -> None:
        super().__init__()
        self.shares, self.width = shares, width
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def posterior(self, x: Tensor) -> dist.Distribution:
        line = torch.linspace(0, 4, 801, dtype=x.dtype)
        mean = torch.stack([line**2, 0.5 * line**2 + 1.0], -1)
        log_p = -0.5 * line**2 - 0.5 * ((x[..., None, :] - mean) / NOISE).square().sum(-1)
        p = log_p.softmax(-1)
        center = p @ line
        sd = self.width * ((p @ line.square()) - center.square()).clamp(min=1e-8).sqrt()
        if self.shares[1] == 0:
            return dist.Normal(center[..., None] + self.offset, sd[..., None]).to_event(1)
        both = torch.stack([center, -center], -1) + self.offset
        shares = torch.tensor(self.shares, dtype=x.dtype).expand(both.shape)
        parts = dist.Normal(both[..., None], sd[..., None, None]).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(shares), parts)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("z", self.posterior(x))


def log_evidence() -> np.ndarray:
    """log p(x_i) by quadrature (n,)."""
    x = data()
    line = torch.linspace(-5, 5, 4001, dtype=x.dtype)
    mean = torch.stack([line**2, 0.5 * line**2 + 1.0], -1)
    log_p = dist.Normal(0.0, 1.0).log_prob(line)
    log_p = log_p + dist.Normal(mean, NOISE).log_prob(x[:, None]).sum(-1)
    found: np.ndarray = (log_p.logsumexp(-1) + math.log(line[1] - line[0])).numpy()
    return found


class SomeOfOneBranch(Branches):
    """Both branches of rows with x_1 < 5.5, the one above zero of the others."""

    def posterior(self, x: Tensor) -> dist.Distribution:
        both = super().posterior(x)
        share = 0.5 + (0.5 - 1e-9) * (x[:, 0] > 5.5).to(x.dtype)
        shares = torch.stack([share, 1 - share], -1)
        return dist.MixtureSameFamily(dist.Categorical(shares), both.component_distribution)


def compared(
    shares: tuple[float, float], width: float = 1.0, effort: Any = "full"
) -> gb.Comparison:
    adam = pyro.optim.Adam({"lr": 1e-9})
    fit = gb.svi(
        even, Branches(shares, width), {"x": data()}, steps=100, optim=adam, compile=False,
        progress=False,
    )  # fmt: skip
    return gb.compare({"q": fit}, effort=effort)


@pytest.mark.filterwarnings("ignore:svi runs by:UserWarning")
@pytest.mark.parametrize("width", [1.0, 1.12])
def test_an_encoder_that_keeps_one_branch_is_rejected(width: float) -> None:
    """Within its branch it is right, its weights are even: nothing at the draws speaks against it."""
    found = compared((1.0, 0.0), width)
    row = found.table.loc["q"]
    assert found.verdicts["q"] is Verdict.REJECT
    assert "one of several explanations" in row["reason"] and "AmortizedFlow" in row["next"]
    numbers = found.amortized["q"]
    ledger = numbers.ledger
    assert ledger is not None and ledger.known is not None and ledger.known.all()
    off = np.abs(ledger.evidence - log_evidence()[ledger.rows])
    assert (off < 5 * ledger.sandwich.error).all() and ledger.sandwich.error.max() < 0.05
    # the bound misses one of two even branches: log 2 a row and what the width costs
    gap = ledger.terms()["gap"]
    assert gap.value > math.log(2) - 5 * gap.se
    assert numbers.uses["model"].verdict is Verdict.REWEIGHT
    # the posterior mean lies between the branches
    assert numbers.uses["codes"].verdict is Verdict.REJECT
    left = numbers.left_out
    assert len(left) == 3
    assert all(abs(one.share - 0.5) < 0.1 for one in left)  # of a thousand effective draws at least
    assert all((one.draws > 0).all() and one.weights @ (one.ends[:, 0] < 0) > 0.2 for one in left)


@pytest.mark.filterwarnings("ignore:svi runs by:UserWarning")
def test_it_is_rejected_in_a_quick_comparison_too() -> None:
    """Without chains annealed from the prior it would be reweighted."""
    found = compared((1.0, 0.0), effort="quick")
    assert found.verdicts["q"] is Verdict.REJECT
    assert "one of several explanations" in found.table.loc["q", "reason"]


def test_one_that_holds_both_branches_leaves_nothing_out() -> None:
    """Nor is it called collapsed, though its mean is nil for every row."""
    found = compared((0.5, 0.5))
    assert "explanations" not in found.table.loc["q", "reason"]
    assert not any("one of several explanations" in said for said in found.witnesses["q"])
    assert found.amortized["q"].collapse is None or not found.amortized["q"].collapse.collapsed
    ledger = found.amortized["q"].ledger
    assert ledger is None or ledger.unseen == 0.0


def test_one_that_holds_them_in_wrong_shares_is_not_trusted() -> None:
    """85 : 15 for 50 : 50: every mean is off by 0.7 standard deviations."""
    found = compared((0.85, 0.15))
    assert found.verdicts["q"] is not Verdict.TRUST


@pytest.mark.filterwarnings("ignore:svi runs by:UserWarning")
def test_a_tenth_of_the_rows_with_one_branch_is_seen_though_none_of_them_is_in_the_sample() -> None:
    """Their own weights are even, and the costly witnesses look at 24 rows."""
    rng = np.random.default_rng(0)
    z = rng.choice([-1, 1], 2 * ROWS) * rng.uniform(1.3, 2.0, 2 * ROWS)
    cut = np.setdiff1d(np.arange(2 * ROWS), some_rows(2 * ROWS, SAMPLED, 0))[:6]
    z[cut] = 2.6
    x = np.stack([z**2, 0.5 * z**2 + 1.0], 1) + NOISE * rng.standard_normal((2 * ROWS, 2))
    fit = gb.svi(
        even, SomeOfOneBranch((0.5, 0.5)), {"x": torch.as_tensor(x)}, steps=100,
        optim=pyro.optim.Adam({"lr": 1e-9}), compile=False, progress=False,
    )  # fmt: skip
    found = weigh(fit, torch.as_tensor(x), 0)
    assert found.elsewhere is not None and np.flatnonzero(found.elsewhere).tolist() == cut.tolist()
    against = found.heard[OTHERS].against
    assert [i for i, words in enumerate(against) if words] == cut.tolist()
    assert all("one of several explanations" in against[i] for i in cut)
