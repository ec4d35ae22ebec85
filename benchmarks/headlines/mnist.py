"""Bounds of MNIST, against Burda, Grosse & Salakhutdinov (2016).

MNIST is binarised anew at every step: the objective draws Bernoulli pixels from the grey ones before
model and guide see them (`Binarised`), inside the recorded step. Test images are binarised once.
Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, table 1, one
stochastic layer: 784-200-200-50, trained for 3,280 epochs there.
"""

import argparse
import math
import time
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from benchmarks import timing
from benchmarks.captured import captured_block, captured_step
from benchmarks.headlines.section import Section
from guidebook.datasets.idx import mnist
from guidebook.errors import FileError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.inference.svi import svi
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.owned import copied
from guidebook.scope import local_parameters

PIXELS, WIDTH, LATENTS = 784, 200, 50
SAMPLES, SAMPLES_AT_ONCE, ROWS_AT_ONCE = 5000, 250, 20
REFERENCE = {
    "VAE k = 1": 86.76,
    "VAE k = 5": 86.47,
    "VAE k = 50": 86.35,
    "IWAE k = 5": 85.54,
    "IWAE k = 50": 84.78,
}


class Binarised:
    """The objective on fresh Bernoulli pixels at every step, the same for model and guide."""

    def __init__(self, objective: Any) -> None:
        self.objective = objective

    def differentiable_loss(self, model: Any, guide: Any, x: Tensor, **data: Any) -> Tensor:
        loss: Tensor = self.objective.differentiable_loss(
            model, guide, x=torch.bernoulli(x), **data
        )
        return loss


def mnist_objective(name: str) -> Any:
    kind, _, _, k = name.split()
    if kind == "IWAE":
        return Binarised(ImportanceWeightedELBO(int(k)))
    several = int(k) > 1
    return Binarised(Trace_ELBO(int(k), vectorize_particles=several, max_plate_nesting=1))


def mnist_pair(x: Tensor, seed: int) -> tuple[VAE, AmortizedNormal]:
    """784-200-200-50 and back, tanh; the last bias starts at the log odds of the mean picture."""
    torch.manual_seed(seed)
    model = VAE(PIXELS, LATENTS, (WIDTH, WIDTH))
    mean = x.mean(0).clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        model.decoder[-1].bias.copy_(mean.logit())
    encoder = mlp((PIXELS, WIDTH, WIDTH, 2 * LATENTS))
    return model, AmortizedNormal(encoder, LATENTS)


def negative_log_likelihood(model: Any, guide: Any, x: Tensor, samples: int) -> np.ndarray:
    """-log (1/k) sum w of every row, (n,), k weights by chunks: memory does not grow with k."""
    found = []
    with torch.no_grad(), local_parameters(), pyro.validation_enabled(False):
        for rows in x.split(ROWS_AT_ONCE):
            total = torch.full((len(rows),), -math.inf, dtype=torch.float64)
            left = samples
            while left:
                now = min(left, SAMPLES_AT_ONCE)
                log_w = row_log_weights(model, guide, {"x": rows}, now).double()
                total, left = torch.logaddexp(total, log_w.logsumexp(0)), left - now
            found.append(math.log(samples) - total)
    return torch.cat(found).numpy()


def part_mnist(options: argparse.Namespace) -> None:
    try:
        x, held_out = mnist(options.data, "train")["x"], mnist(options.data, "test")["x"]
    except FileError as error:
        print(f"skipped: {error}")
        return
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(held_out), generator=generator)[: options.test_rows]
    test = torch.bernoulli(held_out[chosen], generator=generator)
    steps = options.epochs * (len(x) // options.batch)
    names = [n for n in REFERENCE if not options.fits or n.replace(" ", "") in options.fits]
    if options.time:
        time_mnist(names, x, test, steps, options.batch)
        return
    section = Section(
        "MNIST, dynamically binarised, 784-200-200-50",
        f"Test negative log likelihood in nats a row (k = {SAMPLES:,}; +- one standard error over test "
        "rows, for differences paired by row). Reference: Burda, Grosse & Salakhutdinov "
        "(2016), Importance weighted autoencoders, table 1, 3,280 epochs. Command: `python -m "
        "benchmarks.headlines --part mnist --data FOLDER`.",
        ["fit", "epochs", "batch", "test rows", "obtained", "reference", "less than VAE k = 1",
         "reference", "bound", "seconds"],
        keys=4,
    )  # fmt: skip
    first = np.array([])
    for name in names:
        model, guide = mnist_pair(x, options.seed)
        started = time.perf_counter()
        fit = svi(
            model, guide, {"x": x}, objective=mnist_objective(name), steps=steps,
            batch_size=options.batch, seed=options.seed, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        nll = negative_log_likelihood(fit.model, fit.guide, test, SAMPLES)
        bound = -fit.history[-len(x) // options.batch :].mean() / len(x)
        first = nll if name == "VAE k = 1" else first
        gain = f"{_mean(first - nll)}" if len(first) and first is not nll else ""
        section.add([
            name, str(options.epochs), str(options.batch), str(len(test)), _mean(nll),
            f"{REFERENCE[name]:.2f}", gain, f"{REFERENCE['VAE k = 1'] - REFERENCE[name]:.2f}",
            f"{bound:.2f}", f"{seconds:.0f}",
        ])  # fmt: skip


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.2f} +- {values.std() / math.sqrt(len(values)):.2f}"


def time_mnist(names: list[str], x: Tensor, test: Tensor, steps: int, batch: int) -> None:
    total = 0.0
    for name in names:
        model, guide = mnist_pair(x, 0)
        step = captured_step(model, guide, {"x": x}, mnist_objective(name), batch, steps)
        block = captured_block(step, 10)
        seconds = min(block() for _ in range(3))
        total += seconds * steps
        print(f"{name}: {timing.shown(seconds)} a step, {seconds * steps / 60:.1f} minutes")
    started = time.perf_counter()
    negative_log_likelihood(*copied(model, guide), test[:ROWS_AT_ONCE], SAMPLES)
    judged = (time.perf_counter() - started) * len(test) / ROWS_AT_ONCE
    print(f"a test of {len(test)} rows: {judged / 60:.1f} minutes")
    print(f"all: {(total + judged * len(names)) / 60:.0f} minutes")
