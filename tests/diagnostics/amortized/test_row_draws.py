"""Draws of guides that sample several sites a row: in a plate of draws, or of rows that are repeated."""

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn

import guidebook as gb
from guidebook.diagnostics.amortized import rows as room
from guidebook.diagnostics.amortized.rows import draw_rows
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.inference.fits.status import Status
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters, random_state

N, P, DRAWS = 7, 3, 40


class Counted(nn.Module):
    """A network that notes how many rows it is given at a time."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.read = inside, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.read.append(x[..., 0].numel())
        found: Tensor = self.inside(x)
        return found


class Whitened(nn.Module):
    """Columns by their mean over the first dimension: it wants rows there, and nothing in front of them."""

    def forward(self, z: Tensor) -> Tensor:
        return z + z.mean(0)


def layers(upper: nn.Module, covariance: str = "full") -> AmortizedLayers:
    torch.manual_seed(0)
    lower = Counted(mlp((P, 5, 5 if covariance == "full" else 4)))
    with local_parameters():
        made = AmortizedLayers((lower, upper), (2, 1), covariance=covariance)  # type: ignore[arg-type]
        return made.double()


def drawn(guide: nn.Module, x: Tensor, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    fit = gb.Fit(None, guide, {"x": x}, np.zeros(1), Status.CONVERGED, 0, 0.0, "svi", ())
    with local_parameters(), random_state(3), torch.no_grad():
        return draw_rows(fit, x, draws)


def repeated(guide: nn.Module, x: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Draws and log q of the rows repeated, by Pyro itself."""
    names = ("z_1", "z_2")
    trace = pyro.poutine.trace(guide).get_trace(x=x.repeat(draws, 1))
    trace.compute_log_prob()
    z = torch.cat([trace.nodes[n]["value"].reshape(draws * len(x), -1) for n in names], -1)
    log_q = sum(trace.nodes[n]["log_prob"] for n in names)
    return z.reshape(draws, len(x), -1), log_q.reshape(draws, len(x))


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_plate_of_draws_gives_those_of_repeated_rows_and_reads_every_row_once(
    covariance: str,
) -> None:
    guide, x = layers(mlp((2, 4, 2)), covariance), torch.randn(N, P).double()
    z, log_q = drawn(guide, x)
    read = guide.lower.encoder.read  # type: ignore[union-attr]
    assert max(read) == N
    with local_parameters(), random_state(3), torch.no_grad():
        same_z, same_log_q = repeated(guide, x, DRAWS)
    torch.testing.assert_close(z, same_z, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_q, same_log_q, rtol=1e-12, atol=1e-12)


def test_a_network_that_reads_a_plate_of_draws_otherwise_is_given_rows_repeated_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guide, x = layers(nn.Sequential(Whitened(), mlp((2, 4, 2)))), torch.randn(N, P).double()
    part = 16
    monkeypatch.setattr(room, "NUMBERS_AT_ONCE", part * N * P)
    z, log_q = drawn(guide, x)
    assert max(guide.lower.encoder.read) == part * N  # type: ignore[union-attr]
    with local_parameters(), random_state(3), torch.no_grad():
        parts = [repeated(guide, x, n) for n in (part, part, DRAWS - 2 * part)]
    assert torch.equal(z, torch.cat([a for a, _ in parts]))
    assert torch.equal(log_q, torch.cat([b for _, b in parts]))
