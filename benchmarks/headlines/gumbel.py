"""Gradients of discrete latents, against the order in Jang, Gu & Poole (2017)."""

import argparse
import math
import time

import numpy as np
import torch
from pyro.infer import Trace_ELBO

from benchmarks.headlines.section import Section
from guidebook.datasets.small import digits
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.inference.objectives.enumerated import EnumeratedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.schedules import exponential
from guidebook.inference.svi import svi
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.networks import mlp
from guidebook.scope import local_parameters

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
