"""Numbers of papers, obtained here: `--part mnist`, `--part sprites`, `--part gumbel`.

    python -m benchmarks.headlines --part mnist --data FOLDER     # FOLDER holds MNIST's IDX files
    python -m benchmarks.headlines --part sprites
    python -m benchmarks.headlines --part gumbel

Each fit is written to benchmarks/HEADLINES.md as it comes, beside what the source reports, with its
seconds. `--time` measures a step of each fit of MNIST and says how long all would take.

MNIST is binarised anew at every step: the objective draws Bernoulli pixels from the grey ones before
model and guide see them (`Binarised`), inside the recorded step. Test images are binarised once.
Source: Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, table 1, one
stochastic layer: 784-200-200-50, trained for 3,280 epochs there.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

from benchmarks import timing

CORE = timing.one_core()

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from benchmarks.captured import captured_block, captured_step
from guidebook.datasets.idx import mnist
from guidebook.datasets.small import digits
from guidebook.datasets.sprites import sprite_factors, sprites
from guidebook.diagnostics.measures.disentanglement import disentanglement
from guidebook.errors import FileError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.enumerated import EnumeratedELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.inference.svi import svi
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.owned import copied
from guidebook.scope import local_parameters

RESULTS = Path(__file__).with_name("HEADLINES.md")
TITLE = """# Headlines: numbers of papers, obtained here

Written by `python -m benchmarks.headlines`, a row after each fit.
"""


class Section:
    """A table of HEADLINES.md; a row of the same first cells is replaced, the rest is kept."""

    def __init__(self, title: str, words: str, header: list[str], keys: int) -> None:
        self.title, self.keys = title, keys
        self.top = [words, "", f"Machine: {timing.machine()}.", ""]
        self.head = [_line(header), _line(["---"] * len(header))]
        self.rows: dict[tuple[str, ...], str] = {}
        for line in self._sections().get(title, "").splitlines():
            if line.startswith("| ") and line not in self.head:
                self.rows[self._key(line)] = line

    def add(self, cells: list[str]) -> None:
        line = _line(cells)
        print(line, flush=True)
        self.rows[self._key(line)] = line
        sections = self._sections()
        sections[self.title] = "\n".join([*self.top, *self.head, *self.rows.values()])
        body = [f"## {title}\n\n{text.strip()}\n" for title, text in sections.items()]
        RESULTS.write_text("\n".join([TITLE, *body]), encoding="utf-8")

    def _key(self, line: str) -> tuple[str, ...]:
        return tuple(cell.strip() for cell in line.split("|")[1 : 1 + self.keys])

    @staticmethod
    def _sections() -> dict[str, str]:
        if not RESULTS.exists():
            return {}
        pieces = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]
        return {p.split("\n", 1)[0].strip(): p.split("\n", 1)[1].strip() for p in pieces}


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


# MNIST --------------------------------------------------------------------------------------------

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


# sprites ------------------------------------------------------------------------------------------


def part_sprites(options: argparse.Namespace) -> None:
    x, factors = sprites()["x"], sprite_factors().numpy()
    section = Section(
        "Disentanglement on drawn sprites",
        f"{len(x):,} sprites of 16 x 16 (3 shapes, 4 scales, 4 orientations, 8 x 8 places), "
        "256-256-128-6 Bernoulli VAE, batch 128, KL weight warmed up over the first fifth; scores of "
        "the posterior means, mean and standard deviation over seeds. Higgins et al. (2017), beta-VAE, "
        "report that beta > 1 disentangles better on sprites of another drawing and another score: "
        "there is no number to compare with. Command: `python -m benchmarks.headlines --part sprites`.",
        ["beta", "steps", "seeds", "MIG", "SAP", "FactorVAE", "DCI", "-ELBO (beta = 1)", "seconds"],
        keys=3,
    )
    for beta in (1.0, 4.0, 8.0):
        started = time.perf_counter()
        scores: list[dict[str, float]] = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = VAE(256, 6, (128, 256))
            guide = AmortizedNormal(mlp((256, 256, 128, 12)), 6)
            fit = svi(
                model, guide, {"x": x}, objective=BetaELBO(linear(0.0, beta, 0.2)),
                steps=options.steps, batch_size=128, seed=seed, progress=False,
            )  # fmt: skip
            with torch.no_grad(), local_parameters():
                torch.manual_seed(0)
                codes = fit.guide.posterior(x).mean.numpy()
                elbo = float(row_log_weights(fit.model, fit.guide, {"x": x}, 4).mean())
            scores.append({**disentanglement(codes, factors), "-ELBO": -elbo})
            print(f"  beta {beta:g} seed {seed}: {scores[-1]}", flush=True)
        cells = [
            f"{np.mean(v):.3g} +- {np.std(v, ddof=1) if len(v) > 1 else math.nan:.2g}"
            for v in ([s[name] for s in scores] for name in scores[0])
        ]
        taken = time.perf_counter() - started
        section.add([f"{beta:g}", str(options.steps), str(options.seeds), *cells, f"{taken:.0f}"])


# Gumbel-softmax -----------------------------------------------------------------------------------

ESTIMATORS = {
    "exact gradient (enumerated)": EnumeratedELBO,
    "Gumbel-softmax": lambda: RelaxedELBO(exponential(1.0, 0.5, 0.5)),
    "straight-through Gumbel-softmax": lambda: RelaxedELBO(
        exponential(1.0, 0.5, 0.5), straight_through=True
    ),
    "score function": Trace_ELBO,
}


def part_gumbel(options: argparse.Namespace) -> None:
    train, test = digits("train", binary=True)["x"], digits("test", binary=True)["x"]
    section = Section(
        "Categorical latents on 8 x 8 digits",
        "2 latents of 10 values, 64-128-20 and back, batch 128; all 100 states are enumerated, so that "
        "evidence and ELBO of the test rows are exact (nats a row, mean and standard deviation over "
        "seeds). Order in Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-softmax, "
        "categorical VAE on MNIST, best first: Gumbel-softmax, straight-through Gumbel-softmax, score "
        "function. Command: "
        "`python -m benchmarks.headlines --part gumbel`.",
        ["estimator", "steps", "seeds", "-ELBO, test", "-log evidence, test", "seconds"],
        keys=3,
    )
    for name, make in ESTIMATORS.items():
        started = time.perf_counter()
        found = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model = DiscreteVAE(64, 2, 10, (128,))
            guide = AmortizedCategorical(mlp((64, 128, 20)), 2, 10)
            fit = svi(
                model, guide, {"x": train}, objective=make(), steps=options.steps,
                batch_size=128, seed=seed, progress=False, optim=None,
            )  # fmt: skip
            with torch.no_grad(), local_parameters():
                loss = EnumeratedELBO().loss(fit.model, fit.guide, x=test) / len(test)
                found.append((loss, -float(fit.model.log_evidence(test).mean())))
            print(f"  {name}, seed {seed}: {found[-1]}", flush=True)
        values = np.array(found)
        spread = values.std(0, ddof=1) if len(values) > 1 else np.full(2, math.nan)
        cells = [f"{m:.2f} +- {s:.2f}" for m, s in zip(values.mean(0), spread, strict=True)]
        taken = time.perf_counter() - started
        section.add([name, str(options.steps), str(options.seeds), *cells, f"{taken:.0f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["mnist", "sprites", "gumbel"], required=True)
    parser.add_argument("--data", type=Path, default=Path("mnist"), help="MNIST's folder")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--fits", nargs="*", help="of MNIST: 'VAEk=1' 'IWAEk=50' ...; all if none")
    parser.add_argument("--time", action="store_true", help="of MNIST: how long it would take")
    parser.add_argument("--steps", type=int, default=4000, help="of the other parts")
    parser.add_argument("--seeds", type=int, default=5, help="of the other parts")
    parser.add_argument("--seed", type=int, default=0, help="of MNIST")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}")
    {"mnist": part_mnist, "sprites": part_sprites, "gumbel": part_gumbel}[options.part](options)


if __name__ == "__main__":
    main()
