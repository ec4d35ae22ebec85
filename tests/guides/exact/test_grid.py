"""The grid of the quadrature: its cells, sums written out, and how its cells are sampled."""

import math
from types import SimpleNamespace
from typing import Any

import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor

from guidebook.errors import GuideError, SettingError
from guidebook.guides.exact import quadrature
from guidebook.guides.exact.quadrature import GridPosterior, QuadraturePosterior

BOTH = pytest.mark.parametrize("d", [1, 2])


class Plain:
    """z ~ N(0, I), x | z ~ N(sum of z, 0.5^2) in every column; no `prior_scale`."""

    def __init__(self, d: int, dtype: torch.dtype = torch.float64) -> None:
        self.latent_dim, self.dtype = d, dtype
        self.sizes: list[int] = []

    def prior(self) -> Any:
        zero = torch.zeros(self.latent_dim, dtype=self.dtype)
        return torch.distributions.Independent(torch.distributions.Normal(zero, 1.0), 1)

    def observation(self, z: Tensor) -> Any:
        self.sizes.append(len(z))
        mean = z.sum(-1, keepdim=True).expand(*z.shape[:-1], 2)
        return torch.distributions.Independent(torch.distributions.Normal(mean, 0.5), 1)


X = torch.tensor([[0.3, -0.4], [1.0, 2.0], [0.0, 0.1]], dtype=torch.float64)


@BOTH
def test_cells_cover_eight_standard_deviations_to_each_side(d: int) -> None:
    guide = QuadraturePosterior(Plain(d), points=10)
    nodes, h = guide.grid()
    assert h == pytest.approx(1.6)
    line = [-7.2, -5.6, -4.0, -2.4, -0.8, 0.8, 2.4, 4.0, 5.6, 7.2]
    assert nodes.dtype is torch.float64 and nodes.shape == (10**d, d)
    assert nodes[:10, -1].tolist() == pytest.approx(line)
    assert nodes[:: 10 ** (d - 1), 0].tolist() == pytest.approx(line)
    wide = Plain(d)
    wide.prior_scale = 2.0  # type: ignore[attr-defined]
    assert QuadraturePosterior(wide, points=10).grid()[1] == pytest.approx(3.2)


def test_how_many_cells_there_are_and_may_be() -> None:
    assert QuadraturePosterior(Plain(1)).points == 2000
    assert QuadraturePosterior(Plain(2)).points == 200
    assert QuadraturePosterior(Plain(1), points=10).points == 10
    for wrong in (8, 11, 9, 0):
        with pytest.raises(SettingError, match=f"points={wrong}"):
            QuadraturePosterior(Plain(1), points=wrong)
    with pytest.raises(GuideError, match="3 latent"):
        QuadraturePosterior(Plain(3))


@BOTH
def test_evidence_and_its_error_are_sums_over_all_cells_and_over_every_other(d: int) -> None:
    model = Plain(d)
    guide = QuadraturePosterior(model, points=12)
    nodes, h = guide.grid()
    log_joint = torch.stack(
        [model.prior().log_prob(z) + model.observation(z).log_prob(X) for z in nodes], 1
    )
    torch.testing.assert_close(guide._table(X, nodes), log_joint)
    fine = (h**d * log_joint.exp().sum(1)).log()
    torch.testing.assert_close(guide.log_evidence(X), fine)
    torch.testing.assert_close(guide.posterior(X).log_evidence, fine)
    even = torch.tensor([all(round((float(c) + 8) / h - 0.5) % 2 == 0 for c in z) for z in nodes])
    coarse = ((2 * h) ** d * log_joint[:, even].exp().sum(1)).log()
    torch.testing.assert_close(guide.log_evidence_error(X), (fine - coarse).abs())
    assert bool((fine < coarse).any()) and bool((fine > coarse).any())


@BOTH
def test_moments_and_densities_are_those_of_the_cells(d: int) -> None:
    model = Plain(d)
    q = QuadraturePosterior(model, points=40).posterior(X)
    assert q.batch_shape == (3,) and q.event_shape == (d,)
    torch.testing.assert_close(q.weights.sum(1), torch.ones(3).double())
    mean = (q.weights.unsqueeze(-1) * q.nodes).sum(1)
    torch.testing.assert_close(q.mean, mean)
    away = (q.nodes - mean.unsqueeze(1)).square()
    torch.testing.assert_close(q.variance, (q.weights.unsqueeze(-1) * away).sum(1))
    z = torch.full((3, d), 0.3).double()
    torch.testing.assert_close(
        q.log_prob(z),
        model.prior().log_prob(z) + model.observation(z).log_prob(X) - q.log_evidence,
    )


def flat(mass: list[list[float]], d: int = 1) -> GridPosterior:
    """Cells of width 0.5 with these masses, centres 0, 1, 2, ... in every coordinate."""
    table = torch.tensor(mass, dtype=torch.float64).log()
    nodes = torch.arange(table.shape[1]).double().unsqueeze(-1).expand(-1, d)
    return GridPosterior(Plain(d), X[: len(table)], nodes, 0.5, table)


def test_proposals_are_uniform_in_cells_drawn_by_their_masses() -> None:
    """4,000 draws: the share of each cell and the place within it at a false alarm of 1e-5 each."""
    pyro.set_rng_seed(0)
    q = flat([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]], d=2)
    z, ratio = q._proposal(torch.Size([4000]), q.weights.cumsum(1))
    assert z.shape == (4000, 2, 2) and ratio.shape == (4000, 2)
    cell = z.round()
    assert torch.equal(cell[..., 0], cell[..., 1]) and bool((cell[:, 1] == 2).all())
    counts = torch.bincount(cell[:, 0, 0].long(), minlength=3).numpy()
    assert stats.chisquare(counts, [800, 2000, 1200]).pvalue > 1e-5
    within = (z - cell) / 0.5 + 0.5
    for j in range(2):
        assert stats.kstest(within[:, 0, j].numpy(), "uniform").pvalue > 1e-5
    level = q.table[torch.arange(2), cell[..., 0].long()]
    torch.testing.assert_close(ratio, q._log_joint(z) - level)


def test_a_row_without_a_density_does_not_stop_the_others() -> None:
    q = flat([[0.2, 0.5, 0.3], [math.nan] * 3])
    assert bool(q.sample((5,))[:, 0].isfinite().all())


def test_a_sample_moves_six_times_by_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proposals 0, 1, ..., 6 with rising log ratios are all taken, with falling ones none is; one that
    is as good as the last is always taken.
    """
    q = flat([[1.0], [1.0]], d=2)
    made: list[float] = []

    def by(sign: float) -> Any:
        def proposal(shape: torch.Size, _: Tensor) -> tuple[Tensor, Tensor]:
            made.append(float(len(made)))
            ratio = torch.tensor([sign * 1000 * made[-1], 0.0]).double().expand(*shape, 2)
            return torch.full((*shape, 2, 2), made[-1]).double(), ratio

        return proposal

    for sign, last in ((1.0, 6.0), (-1.0, 0.0)):
        made.clear()
        monkeypatch.setattr(q, "_proposal", by(sign))
        z = q.sample((4,))
        assert made == [0, 1, 2, 3, 4, 5, 6]
        assert torch.equal(z[:, 0], torch.full((4, 2), last).double())
        assert torch.equal(z[:, 1], torch.full((4, 2), 6.0).double())


def test_moves_are_accepted_at_the_metropolis_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move whose log ratio falls by log 2 every time is taken with probability 1/2: it stays with
    probability 2^-1 2^-2 ... where it falls further. 4,000 draws at 1e-5.
    """
    pyro.set_rng_seed(0)
    q, made = flat([[1.0]]), SimpleNamespace(count=0)

    def proposal(shape: torch.Size, _: Tensor) -> tuple[Tensor, Tensor]:
        ratio = torch.full((*shape, 1), 5 - math.log(2) * made.count).double()
        z = torch.full((*shape, 1, 1), float(made.count)).double()
        made.count += 1
        return z, ratio

    monkeypatch.setattr(q, "_proposal", proposal)
    stays = float((q.sample((4000,)) == 0).double().mean())
    expected = math.prod(1 - 2.0**-k for k in range(1, 7))
    assert stats.binomtest(round(stays * 4000), 4000, expected).pvalue > 1e-5


def test_a_model_in_single_precision_is_sampled_in_it() -> None:
    pyro.set_rng_seed(0)
    q = QuadraturePosterior(Plain(1, torch.float32), points=100).posterior(X.float())
    z = q.sample((7,))
    assert z.dtype is torch.float32 and z.shape == (7, 3, 1)
    assert QuadraturePosterior(Plain(1, torch.float32)).grid()[0].dtype is torch.float32


def test_four_million_numbers_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Plain(1)
    guide = QuadraturePosterior(model, points=100)
    nodes, _ = guide.grid()
    whole = guide._table(X, nodes)
    assert model.sizes == [100]
    for room, sizes in ((180, [30, 30, 30, 10]), (5, [1] * 100)):
        model.sizes.clear()
        monkeypatch.setattr(quadrature, "NUMBERS_AT_ONCE", room)
        torch.testing.assert_close(guide._table(X, nodes), whole)
        assert model.sizes == sizes
    monkeypatch.undo()

    class Narrow(Plain):
        def observation(self, z: Tensor) -> Any:
            self.sizes.append(len(z))
            return SimpleNamespace(log_prob=lambda x: torch.zeros(len(z), len(x)).double())

    narrow = Narrow(1)
    guide = QuadraturePosterior(narrow, points=50)
    guide._table(torch.zeros(1, 100_000).double(), guide.grid()[0])
    assert narrow.sizes == [40, 10]


def test_the_rows_may_have_another_name() -> None:
    guide = QuadraturePosterior(Plain(1), points=20, observed="y", site="u", plate="item")
    trace = pyro.poutine.trace(guide).get_trace(y=X, size=6)
    u = trace.nodes["u"]
    trace.compute_log_prob()
    torch.testing.assert_close(u["log_prob_sum"], 2 * guide.posterior(X).log_prob(u["value"]).sum())
    assert [frame.name for frame in u["cond_indep_stack"]] == ["item"]
    first = pyro.poutine.trace(guide).get_trace(X, y=X[:1])
    assert first.nodes["u"]["value"].shape == (3, 1)
    with pytest.raises(GuideError, match="pass y=tensor"):
        guide(x=None, y=[1.0])


def test_masses_of_single_precision_are_added_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision the sum over 2,000 cells would be off by 1e-7, and the last cells lost."""
    q = QuadraturePosterior(Plain(1, torch.float32)).posterior(X.float())
    seen: list[Tensor] = []

    def proposal(shape: torch.Size, cumulative: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(cumulative)
        return torch.zeros(*shape, 3, 1), torch.zeros(*shape, 3)

    monkeypatch.setattr(q, "_proposal", proposal)
    q.sample((2,))
    assert seen[0].dtype is torch.float64
    torch.testing.assert_close(seen[0][:, -1], torch.ones(3).double(), rtol=0, atol=1e-12)


def test_a_proposal_is_made_of_the_generators_own_numbers() -> None:
    """The cell by a uniform number of double precision times the whole mass, the place by another."""
    q = flat([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], d=2)
    cumulative = 0.9 * q.weights.cumsum(1)  # masses that rounding has left short of 1
    torch.manual_seed(3)
    z, _ = q._proposal(torch.Size([50]), cumulative)
    torch.manual_seed(3)
    u = torch.rand(2, 50, dtype=torch.float64)
    within = torch.rand(50, 2, 2, dtype=torch.float64)
    cell = (u.unsqueeze(-1) > q.weights.cumsum(1).unsqueeze(1)).sum(-1)
    torch.testing.assert_close(z, cell.mT.unsqueeze(-1) + 0.5 * (within - 0.5))
