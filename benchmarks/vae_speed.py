"""A VAE of 784-400-50 pixels, units and latents: the captured step against what people write.

    python -m benchmarks.vae_speed        # about five minutes

Bernoulli likelihood, tanh, diagonal normal q(z | x), Adam with step size 0.001, float32, one core,
batches of 16, 128 and 1,024 rows drawn from 8,192 rows of random zeros and ones (the time does not
depend on what they are). Fetching the batch is part of every side's step:

- captured: the step of `gb.svi(VAE, AmortizedNormal, ..., batch_size=...)` at its defaults, on one thread the
  loop in C;
- torch: a hand-written loop with the Kullback-Leibler divergence in closed form and
  `torch.optim.Adam(fused=True)`;
- pyro.infer.SVI on the same model and guide;
- NumPyro, where `benchmarks/.cache/numpyro` holds an environment with it (benchmarks/numpyro_vae.py).
"""

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

from benchmarks.captured import captured_block, captured_step
from benchmarks.numpyro_side import numpyro
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp

PIXELS, HIDDEN, LATENTS, ROWS = 784, 400, 50, 8192
RATE = 1e-3
BATCHES = (16, 128, 1024)


def pixels() -> Tensor:
    """Random zeros and ones, (8192, 784)."""
    return (torch.rand(ROWS, PIXELS, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def networks() -> tuple[VAE, AmortizedNormal]:
    """The shelf's model and guide."""
    torch.manual_seed(0)
    encoder = mlp((PIXELS, HIDDEN, 2 * LATENTS))
    return VAE(PIXELS, LATENTS, (HIDDEN,)), AmortizedNormal(encoder, LATENTS)


def torch_step(x: Tensor, batch: int) -> Callable[[], object]:
    """One step as a PyTorch user writes it."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENTS)
    )  # fmt: skip
    decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=RATE, fused=True)

    def step() -> Tensor:
        rows = x[torch.randint(len(x), (batch,))]
        mean, raw = encoder(rows).chunk(2, -1)
        scale = F.softplus(raw) + 1e-6
        z = mean + scale * torch.randn_like(scale)
        fit = F.binary_cross_entropy_with_logits(decoder(z), rows, reduction="sum")
        divergence = 0.5 * (mean.square() + scale.square() - 1).sum() - scale.log().sum()
        loss = fit + divergence
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def pyro_step(x: Tensor, batch: int) -> Callable[[], object]:
    """One step of pyro.infer.SVI."""
    model, guide = networks()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
    return lambda: svi.step(x[torch.randint(len(x), (batch,))])


def compared(batch: int, rounds: int, theirs: Callable[[str], list[float]] | None) -> list[str]:
    """One row of the table."""
    x = pixels()
    steps = max(5, 400 // batch)
    with pyro.get_param_store().scope():
        stock = pyro_step(x, batch)
        model, guide = networks()
        ours = captured_step(
            model, guide, {"x": x}, batch_size=batch, steps=20_000, compiled="auto"
        )
        blocks: dict[str, Any] = {
            "captured": captured_block(ours, steps),
            "torch": timing.steps_block(torch_step(x, batch), steps),
            "pyro": timing.steps_block(stock, steps),
        }
        if theirs:
            blocks["numpyro"] = lambda: theirs(f"{batch} {steps}")[0]
        seconds = timing.interleaved(blocks, rounds)
    row = [str(batch)]
    row += [timing.shown(statistics.median(seconds[n])) if n in seconds else "-"
            for n in ("captured", "torch", "pyro", "numpyro")]  # fmt: skip
    row += [f"{timing.ratio(seconds, n, 'captured'):.2f}" if n in seconds else "-"
            for n in ("torch", "pyro", "numpyro")]  # fmt: skip
    return row


def main() -> None:
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}")
    with numpyro("numpyro_vae.py") as theirs:
        rows = [compared(batch, 5 if quick else 30, theirs) for batch in BATCHES]
    print()
    header = ["batch", "captured", "torch, fused Adam", "pyro.infer.SVI", "NumPyro"]
    ratios = [f"{name} / captured" for name in ("torch", "Pyro", "NumPyro")]
    timing.table([*header, *ratios], rows)
    print(
        "\nA ratio of at least 1 means that captured is not slower. Target: torch / captured >= 1."
    )


if __name__ == "__main__":
    main()
