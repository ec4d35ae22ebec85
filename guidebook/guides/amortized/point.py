"""Deterministic codes: an encoder without noise, and what its codes are good for."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guidebook.errors import DataError, SettingError
from guidebook.guides.amortized.normal import AmortizedPosterior

NUMBERS_AT_ONCE = 10_000_000


class AmortizedDelta(AmortizedPosterior):
    r"""q(z | x) = delta(z - m(x)): each row has one code, the encoder's output of width d.

    The ELBO has no entropy then: it is log p(m(x)) + log p(x | m(x)). With a Gaussian likelihood of
    fixed scale s and a flat prior (`VAE(..., prior_scale=None)`) it is minus squared error up to
    constants, so the pair is the deterministic autoencoder:

    .. math:: \mathrm{ELBO} = -\frac{1}{2 s^2} \sum_i \|x_i - f(m(x_i))\|^2 - \frac{nP}{2} \log 2
        \pi s^2

    With a normal prior the codes are penalised by their squared length besides. A Delta is not a
    density: its ELBO bounds no evidence, and importance weights of its draws mean nothing.

    Arguments: `encoder` maps x (B, ...) to (B, d), any `nn.Module`; the others as
    `guidebook.guides.amortized.normal.AmortizedNormal`.

    Source: Hinton & Salakhutdinov (2006), Reducing the dimensionality of data with neural networks;
    linear case: Baldi & Hornik (1989), Neural networks and principal component analysis.
    """

    kind = "point"

    def __init__(
        self,
        encoder: nn.Module,
        latent_dim: int,
        *,
        site: str = "z",
        observed: str = "x",
        plate: str = "row",
    ) -> None:
        super().__init__(encoder, latent_dim, latent_dim, site=site, observed=observed, plate=plate)

    def posterior(self, x: Tensor) -> dist.TorchDistribution:
        """A point mass at the code: batch shape (B,), event shape (d,)."""
        return dist.Delta(self.outputs(x), event_dim=1)


@torch.no_grad()
def encode(guide: AmortizedPosterior, x: Tensor) -> Tensor:
    """The codes of rows: the posterior means (n, d) of x (n, ...).

    Compression is `encode`, and `model.decode(codes)` takes it back: d numbers for P. The guide is
    used as it stands: put one that corrupts its input in training (`CorruptedEncoder`) into `.eval()`.
    """
    parameter = next(guide.parameters(), None)
    mean: Tensor = guide.posterior(x if parameter is None else x.to(parameter)).mean
    return mean


@torch.no_grad()
def nearest(codes: Tensor, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Retrieval: the k rows of `codes` (n, d) nearest to each of `queries` (m, d).

    Returns distances (m, k), ascending and Euclidean, and the rows' indices (m, k). The distances
    are taken in blocks of queries, so memory stays bounded. A query that is itself in `codes` finds
    itself first.

    Raises SettingError unless 1 <= k <= n, DataError for codes of different widths.
    """
    if codes.dim() != 2 or queries.dim() != 2 or codes.shape[1] != queries.shape[1]:
        raise DataError(
            f"codes {tuple(codes.shape)} and queries {tuple(queries.shape)} must be matrices with the "
            "same number of columns: encode both with the same guide."
        )
    if not 1 <= k <= len(codes):
        raise SettingError(f"k={k} neighbours were asked for among {len(codes)} codes.")
    block = max(1, NUMBERS_AT_ONCE // len(codes))
    found = [torch.cdist(q, codes).topk(k, largest=False) for q in queries.split(block)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
