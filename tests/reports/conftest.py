"""Comparisons made of synthetic draws: the reports are tested without fitting anything."""

from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from arviz_base import from_dict

SCHOOLS = [
    "Choate",
    "Deerfield",
    "Phillips Andover",
    "Phillips Exeter",
    "Hotchkiss",
    "Lawrenceville",
    "St. Paul's",
    "Mt. Hermon",
]
Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
DRAWS = 1000


class Verdict(Enum):
    """The values of guidebook's own."""

    TRUST = "trust"
    REWEIGHT = "reweight"
    REJECT = "reject"


def schools(sigma: torch.Tensor, y: torch.Tensor | None = None) -> None:
    """Eight schools, non-centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        theta_trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * theta_trans)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def _tree(rng: np.random.Generator, narrow: float, shift: float, seed: int, n: int = DRAWS) -> Any:
    """Draws like the posterior's, `narrow` times as wide, and `shift` off in mu."""
    tau = np.abs(rng.standard_t(4, n)) * 3.6 * narrow
    mu = rng.normal(4.4 + shift, 3.3, n)
    theta_trans = rng.normal(0.3, 0.95 * narrow, (n, 8)) + 0.02 * (Y - 8)
    theta = mu[:, None] + tau[:, None] * theta_trans
    replicated = rng.normal(theta, SIGMA)
    posterior = {"mu": mu, "tau": tau, "theta_trans": theta_trans}
    tree = from_dict(
        {
            "posterior": {name: draws[None] for name, draws in posterior.items()},
            "posterior_predictive": {"y": replicated[None]},
            "observed_data": {"y": Y},
            "constant_data": {"sigma": SIGMA},
        },
        coords={"school": SCHOOLS},
        dims={"theta_trans": ["school"], "y": ["school"], "sigma": ["school"]},
    )
    tree["posterior"].attrs["seed"] = seed
    return tree


def _row(verdict: str, reason: str, remedy: str, **numbers: float) -> dict[str, Any]:
    columns = [
        "elbo",
        "elbo_se",
        "log_evidence",
        "log_evidence_se",
        "khat",
        "khat_se",
        "ess",
        "stein",
        "mean_error",
        "sd_ratio_min",
        "sd_ratio_max",
        "wasserstein",
        "seconds",
    ]
    return {"verdict": verdict, "reason": reason, "next": remedy, "engine": "svi"} | {
        column: numbers.get(column, np.nan) for column in columns
    }


def _history(rng: np.random.Generator, end: float, steps: int) -> np.ndarray:
    t = np.arange(steps)
    return end + 900 * np.exp(-t / 60) + 3 * np.exp(-t / 900) + rng.normal(0, 0.6, steps) ** 2


def make_comparison(names: dict[str, str] | None = None) -> SimpleNamespace:
    """A comparison of four approximations with NUTS; `names` renames them."""
    rng = np.random.default_rng(1)
    posteriors = {
        "mean-field": _tree(rng, 0.85, 0.0, 0),
        "centered mean-field": _tree(rng, 0.4, 2.0, 0),
        "full-rank": _tree(rng, 0.97, 0.1, 0),
        "flow": _tree(rng, 1.0, 0.0, 0),
        "NUTS": _tree(rng, 1.0, 0.0, 1),
    }
    weights: dict[str, Any] = {}
    for name, scale in (
        ("mean-field", 0.6),
        ("centered mean-field", 2.5),
        ("full-rank", 0.2),
        ("flow", 0.1),
    ):
        w = np.exp(rng.normal(0, scale, DRAWS))
        weights[name] = w / w.sum()
    weights["NUTS"] = None
    verdicts = {
        "mean-field": Verdict.REWEIGHT,
        "centered mean-field": Verdict.REJECT,
        "full-rank": Verdict.TRUST,
        "flow": Verdict.TRUST,
    }
    rows = {
        "mean-field": _row(
            "reweight",
            "The guide is too narrow: the standard deviation of tau is 0.85 times the "
            "reference's. The importance weights are usable (k-hat 0.52 ± 0.05 below 0.67) "
            "and repair it.",
            "Use the importance-weighted draws, or try full_rank.",
            elbo=-31.62,
            elbo_se=0.03,
            log_evidence=-31.31,
            log_evidence_se=0.02,
            khat=0.52,
            khat_se=0.05,
            ess=612.0,
            stein=0.31,
            mean_error=0.04,
            sd_ratio_min=0.71,
            sd_ratio_max=0.99,
            wasserstein=0.13,
            seconds=1.31,
        ),
        "centered mean-field": _row(
            "reject",
            "k-hat 0.98 ± 0.06 is beyond 0.67: the importance weights cannot be used; the "
            "guide is far too narrow in tau and 0.61 standard deviations off in mu.",
            "Try the non-centred model (eight-schools), or flow.",
            elbo=-33.9,
            elbo_se=0.11,
            log_evidence=-32.2,
            log_evidence_se=0.4,
            khat=0.98,
            khat_se=0.06,
            ess=31.0,
            stein=2.4,
            mean_error=0.61,
            sd_ratio_min=0.38,
            sd_ratio_max=0.98,
            wasserstein=0.7,
            seconds=1.22,
        ),
        "full-rank": _row(
            "trust",
            "Means within 0.06 and standard deviations within 8 % of the reference; "
            "k-hat and Stein's identities agree.",
            "Nothing to do.",
            elbo=-31.5,
            elbo_se=0.03,
            log_evidence=-31.32,
            log_evidence_se=0.02,
            khat=0.41,
            khat_se=0.05,
            ess=804.0,
            stein=0.06,
            mean_error=0.06,
            sd_ratio_min=0.92,
            sd_ratio_max=1.03,
            wasserstein=0.05,
            seconds=1.9,
        ),
        "flow": _row(
            "trust",
            "Means within 0.03 and standard deviations within 3 % of the reference.",
            "Nothing to do.",
            elbo=-31.36,
            elbo_se=0.02,
            log_evidence=-31.31,
            log_evidence_se=0.01,
            khat=0.2,
            khat_se=0.05,
            ess=952.0,
            stein=0.03,
            mean_error=0.03,
            sd_ratio_min=0.97,
            sd_ratio_max=1.02,
            wasserstein=0.03,
            seconds=14.2,
        ),
        "NUTS": _row(
            "",
            "",
            "",
            mean_error=0.0,
            sd_ratio_min=1.0,
            sd_ratio_max=1.0,
            wasserstein=0.0,
            seconds=8.05,
        ),
    }
    histories = {
        "mean-field": _history(rng, 31.6, 4000),
        "centered mean-field": _history(rng, 33.9, 4000),
        "full-rank": _history(rng, 31.5, 6000),
        "flow": _history(rng, 31.36, 3000),
        "NUTS": np.array([]),
    }
    khat = {"mean-field": 0.3, "centered mean-field": 0.8, "full-rank": 0.2, "flow": 0.1}
    khat_sites = {
        name: {"mu": (k - 0.1, 0.05), "tau": (k + 0.15, 0.06), "theta_trans": (k, 0.05)}
        for name, k in khat.items()
    }
    witnesses = {
        name: [
            f"k-hat of the joint weights: {row['khat']:.2f} ± {row['khat_se']:.2f} from {DRAWS}.",
            f"Stein's identities: the largest error is {row['stein']:.2f} sd, in tau.",
            "The objective was level over the last fifth of the steps.",
            "The reference has no divergences and an R-hat of 1.00.",
        ]
        for name, row in rows.items()
        if name != "NUTS"
    }
    rename = names or {}

    def renamed(mapping: dict[str, Any]) -> dict[str, Any]:
        return {rename.get(name, name): value for name, value in mapping.items()}

    return SimpleNamespace(
        bounds={},
        table=pd.DataFrame.from_dict(renamed(rows), orient="index"),
        verdicts=renamed(verdicts),
        reference=rename.get("NUTS", "NUTS"),
        posteriors=renamed(posteriors),
        weights=renamed(weights),
        histories=renamed(histories),
        khat_sites=renamed(khat_sites),
        witnesses=renamed(witnesses),
        model=schools,
        data={"sigma": torch.tensor(SIGMA), "y": torch.tensor(Y)},
        amortized={},
    )


def make_amortized(
    image_shape: tuple[int, ...] | None = (8, 8), labels: bool = True
) -> SimpleNamespace:
    """Numbers like those of a small autoencoder on images of digits: blobs that move with two
    latents.
    """
    rng = np.random.default_rng(2)
    n, d, side = 300, 5, 8
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), -1).reshape(-1, 2)

    def decode(z: np.ndarray) -> np.ndarray:
        centre = 3.5 + 1.4 * z[..., None, :2]
        width = 1.2 + 0.3 * np.tanh(z[..., None, 2])
        return 16 * np.exp(-((grid - centre) ** 2).sum(-1) / (2 * width**2))

    kind = rng.integers(0, 4, n)
    z = rng.normal(0, 0.5, (n, d)) + np.pad(
        np.stack([(kind % 2) * 2 - 1, (kind // 2) * 2 - 1], 1), ((0, 0), (0, 3))
    )
    z[:, 3:] *= 0.02
    reconstruction = decode(z)
    khat = rng.normal(0.3, 0.2, n)
    elbo = rng.normal(-90, 6, n)
    traversals = np.stack(
        [decode(np.eye(d)[i] * np.linspace(-2.5, 2.5, 9)[:, None]) for i in range(d)]
    )
    return SimpleNamespace(
        bounds={},
        data=np.clip(reconstruction + rng.normal(0, 1, reconstruction.shape), 0, 16),
        khat=khat,
        khat_se=0.09,
        elbo=elbo,
        bound=elbo + rng.gamma(2, 0.4, n),
        reconstruction=reconstruction,
        latent_mean=z,
        latent_sd=np.where(np.arange(d) < 3, 0.3, 1.0) * np.ones((n, 1)),
        prior_samples=decode(rng.normal(0, 1, (24, d))),
        traversals=traversals,
        worst=np.argsort(-khat)[:10],
        image_shape=image_shape,
        labels=kind if labels else None,
    )


@pytest.fixture(scope="session")
def comparison() -> SimpleNamespace:
    """Eight-schools like: one approximation of each kind."""
    return make_comparison()


@pytest.fixture(scope="session")
def amortized_comparison() -> SimpleNamespace:
    """The same with a section datum by datum."""
    value = make_comparison()
    value.amortized = {"full-rank": make_amortized()}
    return value
