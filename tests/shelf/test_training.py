"""A decoder trained by its evidence: as good as the best linear one, and known by quadrature."""

import math

import pytest
import torch

from guidebook.guides.exact.quadrature import POINTS, QuadraturePosterior
from guidebook.models.decoders.latent import VAE
from guidebook.shelf.training import ASIDE, EXACT, by_evidence

N = 60
DRAWN = torch.Generator().manual_seed(3)
Z = torch.randn(N, 1, generator=DRAWN).double()
LINE = (Z * torch.tensor([1.0, -0.5, 2.0]) + 0.3 * torch.randn(N, 3, generator=DRAWN)).double()


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of width 0.016: most posteriors here have a standard deviation of 0.1 and more."""
    monkeypatch.setitem(POINTS, 1, 1000)


def decoder(hidden=()) -> VAE:
    torch.manual_seed(0)
    return VAE(3, 1, hidden, "gaussian").double()


def evidence(model, x) -> float:
    with torch.no_grad():
        return float(QuadraturePosterior(model).log_evidence(x).sum())


def test_a_linear_decoder_is_the_factor_analysis_of_scikit_learn() -> None:
    """With as many rounds as it needs it has the likelihood of the maximum, on the rows it learns from."""
    from sklearn.decomposition import FactorAnalysis

    learned = by_evidence(decoder(), {"x": LINE}, {"seed": 0})
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    aside, rest = LINE[order[: N // ASIDE]], LINE[order[N // ASIDE :]]
    oracle = FactorAnalysis(1, tol=1e-8, max_iter=10_000).fit(rest.numpy())
    best = oracle.score(rest.numpy()) * len(rest)
    assert evidence(learned, rest) == pytest.approx(best, abs=3.0)
    assert evidence(learned, rest) < best + 1e-6
    assert evidence(learned, aside) > oracle.score(aside.numpy()) * len(aside) - 1.0


def test_a_flexible_one_ends_where_other_rows_have_most_and_is_known_by_quadrature() -> None:
    start = decoder((16,))
    before = {name: value.clone() for name, value in start.state_dict().items()}
    learned = by_evidence(start, {"x": LINE}, {"seed": 1})
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    with torch.no_grad():
        assert float(QuadraturePosterior(learned).log_evidence_error(LINE).max()) < EXACT
    rate = evidence(learned, LINE) / N
    assert math.isfinite(rate)
    assert rate > evidence(start, LINE) / N + 1
