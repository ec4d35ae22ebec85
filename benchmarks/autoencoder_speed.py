"""Every autoencoder of the shelf: the captured step against hand-written PyTorch and pyro.infer.SVI.

    python -m benchmarks.autoencoder_speed        # about ten minutes

Batches of 128 rows, float32, one core, Adam with step size 0.001; model, guide and data are the
pair's first of the shelf with a hidden layer. Fetching the batch is part of every side's step:

- captured: the step of `gb.svi(model, guide, ..., objective=..., batch_size=128)`;
- torch: a loop on the same network modules with the same loss, the Kullback-Leibler divergence in
  closed form where there is one, and `torch.optim.Adam(fused=True)`;
- pyro.infer.SVI on the same model, guide and objective.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from benchmarks.captured import captured_block, captured_step
from guidebook.catalogue import PAIRS
from guidebook.inference.gradient.reference import registered
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO

BATCH, RATE, PARTICLES = 128, 1e-3, 5
BETA, TEMPERATURE, FLOOR = 4.0, 0.5, 1e-6
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
Loss = Callable[[nn.Module, nn.Module, Tensor], Tensor]


def encoded(guide: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and scale of q, and a draw."""
    mean, raw = guide(x).chunk(2, -1)
    scale = F.softplus(raw) + FLOOR
    return mean, scale, mean + scale * torch.randn_like(scale)


def divergence(mean: Tensor, scale: Tensor) -> Tensor:
    """KL(N(mean, scale^2) || N(0, I)), summed."""
    return 0.5 * (mean.square() + scale.square() - 1).sum() - scale.log().sum()


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum")


def gaussian(mean: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """Minus the log density, summed."""
    return (0.5 * ((x - mean) / scale).square() + scale.log() + HALF_LOG_2_PI).sum()


def squared_error(scale: float, noise: float) -> Loss:
    def loss(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
        seen = x + noise * torch.randn_like(x) if noise else x
        return (decoder(encoder(seen)) - x).square().sum() / (2 * scale**2)

    return loss


def bernoulli(beta: float) -> Loss:
    def loss(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
        mean, scale, z = encoded(encoder, x)
        return cross_entropy(decoder(z), x) + beta * divergence(mean, scale)

    return loss


def per_datum(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
    mean, scale, z = encoded(encoder, x)
    middle, raw = decoder(z).chunk(2, -1)
    return gaussian(middle, 0.05 + F.softplus(raw), x) + divergence(mean, scale)


def low_rank(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
    mean, scale, z = encoded(encoder, x)
    blocks = decoder(z).unflatten(-1, (6, -1))
    spread = (0.05 + F.softplus(blocks[:, 1])).square()
    p = LowRankMultivariateNormal(
        blocks[:, 0], blocks[:, 2:].mT / 2.0, spread, validate_args=False
    )  # fmt: skip
    return divergence(mean, scale) - p.log_prob(x).sum()


def one_scale(log_scale: Tensor) -> Loss:
    def loss(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
        mean, scale, z = encoded(encoder, x)
        return gaussian(decoder(z), log_scale.exp(), x) + divergence(mean, scale)

    return loss


def two_layers(upper: nn.Module, middle: nn.Module) -> Loss:
    def loss(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
        mean_1, scale_1, z_1 = encoded(encoder, x)
        mean_2, scale_2, z_2 = encoded(upper, z_1)
        ahead, raw = middle(z_2).chunk(2, -1)
        log_q = -gaussian(mean_1, scale_1, z_1)
        log_p = -gaussian(ahead, F.softplus(raw) + FLOOR, z_1)
        return cross_entropy(decoder(z_1), x) + log_q - log_p + divergence(mean_2, scale_2)

    return loss


def importance(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
    mean, raw = encoder(x).chunk(2, -1)
    scale = F.softplus(raw) + FLOOR
    noise = torch.randn(PARTICLES, *scale.shape)
    z = mean + scale * noise
    logits = decoder(z)
    log_w = (x * logits - F.softplus(logits)).sum(-1)
    log_w = log_w + (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)
    return -(log_w.logsumexp(0) - math.log(PARTICLES)).sum()


def relaxed(encoder: Any, decoder: Any, x: Tensor) -> Tensor:
    log_q = encoder(x).unflatten(-1, (2, 10)).log_softmax(-1)
    z = F.gumbel_softmax(log_q, TEMPERATURE)
    kl = (log_q.exp() * (log_q + math.log(10))).sum()
    return cross_entropy(decoder(z.flatten(-2)), x) + kl


CASES: dict[str, tuple[str, Any]] = {
    "autoencoder": ("mlp-code", None),
    "denoising-autoencoder": ("gaussian", None),
    "vae": ("mlp-diagonal", None),
    "gaussian-vae": ("mlp-diagonal", None),
    "full-covariance-vae": ("mlp-diagonal", None),
    "nonlinear-latent": ("mlp-diagonal", None),
    "hierarchical-vae": ("mlp-diagonal", None),
    "beta-vae": ("mlp-diagonal", BetaELBO(BETA)),
    "iwae": ("mlp-diagonal", ImportanceWeightedELBO(PARTICLES)),
    "gumbel-softmax-vae": ("mlp", RelaxedELBO(TEMPERATURE)),
}


def by_hand(pair: str, model: Any, guide: Any) -> tuple[Loss, Any, Any, list[nn.Parameter]]:
    """The loss of the pair, its networks, and all parameters that are trained."""
    encoder = guide.lower.encoder if pair == "hierarchical-vae" else guide.encoder
    encoder = encoder.encoder if pair == "denoising-autoencoder" else encoder
    losses: dict[str, Callable[[], Loss]] = {
        "autoencoder": lambda: squared_error(1.0, 0.0),
        "denoising-autoencoder": lambda: squared_error(0.2, 0.4),
        "vae": lambda: bernoulli(1.0),
        "gaussian-vae": lambda: per_datum,
        "full-covariance-vae": lambda: low_rank,
        "nonlinear-latent": lambda: one_scale(model.likelihood.log_scale),
        "hierarchical-vae": lambda: two_layers(guide.upper.encoder, model.middle),
        "beta-vae": lambda: bernoulli(BETA),
        "iwae": lambda: importance,
        "gumbel-softmax-vae": lambda: relaxed,
    }
    return losses[pair](), encoder, model.decoder, [*model.parameters(), *guide.parameters()]


def plain(network: nn.Module) -> nn.Module:
    """The same layers, free of Pyro's module class, which intercepts attributes."""
    return nn.Sequential(*network) if isinstance(network, nn.Sequential) else network


def torch_step(pair: str, model: Any, guide: Any, x: Tensor) -> Callable[[], object]:
    """One step as a PyTorch user writes it."""
    loss_of, encoder, decoder, parameters = by_hand(pair, model, guide)
    encoder, decoder = plain(encoder), plain(decoder)
    optimiser = torch.optim.Adam(parameters, lr=RATE, fused=True)

    def step() -> Tensor:
        loss = loss_of(encoder, decoder, x[torch.randint(len(x), (BATCH,))])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def pyro_step(model: Any, guide: Any, objective: Any, x: Tensor) -> Callable[[], object]:
    """One step of pyro.infer.SVI."""
    svi = SVI(
        registered("model", model), registered("guide", guide), pyro.optim.Adam({"lr": RATE}),
        objective or Trace_ELBO(),
    )  # fmt: skip
    return lambda: svi.step(x=x[torch.randint(len(x), (BATCH,))])


def compared(name: str, rounds: int) -> list[str]:
    """One row of the table."""
    pair = PAIRS[name]
    guide_name, objective = CASES[name]
    x = pair.data()["x"].float()

    def parts() -> tuple[Any, Any]:
        model = pair.model()
        return model, pair.guides[guide_name](model)

    with pyro.get_param_store().scope(), pyro.validation_enabled(False):
        hand = torch_step(name, *parts(), x)
        stock = pyro_step(*parts(), objective, x)
        ours = captured_step(*parts(), {"x": x}, objective, BATCH, steps=40_000)
        seconds = timing.interleaved(
            {
                "captured": captured_block(ours, 50),
                "torch": timing.steps_block(hand, 50),
                "pyro": timing.steps_block(stock, 20),
            },
            rounds,
        )
    row = [name]
    row += [f"{1e3 * statistics.median(seconds[n]):.3f}" for n in ("captured", "torch", "pyro")]
    return row + [f"{timing.ratio(seconds, n, 'captured'):.2f}" for n in ("torch", "pyro")]


def main() -> None:
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}", flush=True)
    rows = []
    for name in CASES:
        rows.append(compared(name, 5 if quick else 40))
        print("  ".join(rows[-1]), flush=True)  # minutes of compiling lie between them
    print()
    header = ["pair", "captured, ms", "torch, fused Adam, ms", "pyro.infer.SVI, ms"]
    timing.table([*header, "torch / captured", "Pyro / captured"], rows)
    print("\nTargets: torch / captured at least 1, Pyro / captured at least 1.2.")


if __name__ == "__main__":
    main()
