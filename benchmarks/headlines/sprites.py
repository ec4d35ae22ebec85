"""Disentanglement on drawn sprites: what more KL weight does to the codes."""

import argparse
import math
import time

import numpy as np
import torch

from benchmarks.headlines.section import Section
from guidebook.datasets.sprites import sprite_factors, sprites
from guidebook.diagnostics.measures.disentanglement import disentanglement
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.inference.objectives.schedules import linear
from guidebook.inference.svi import svi
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters


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
