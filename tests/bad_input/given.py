"""What the lists give: small stories with their data, and shelves of small pairs."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from arviz_base import from_dict
from torch import Tensor

import guidebook as gb
from guidebook.guides import AmortizedNormal
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.corruption import CorruptedEncoder, gaussian
from guidebook.guides.amortized.flow import AmortizedFlow, flow_width
from guidebook.guides.amortized.layers import AmortizedLayers
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.guides.conjugate.mixture_mode import MixtureMode
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.relaxed import RelaxedELBO
from guidebook.inference.objectives.schedules import exponential, linear
from guidebook.inference.objectives.sticking import StickingTheLanding
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.models.decoders.hierarchical_latent import HierarchicalVAE
from guidebook.models.decoders.latent import VAE
from guidebook.models.decoders.likelihoods import GaussianPerDatum, LowRankGaussian
from guidebook.models.decoders.networks import ConvDecoder, ConvEncoder, mlp
from guidebook.models.mixture import GaussianMixture

# a hierarchical model -----------------------------------------------------------------------------

SCHOOLS = {
    "y": torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12]),
    "sigma": torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18]),
}


def hundred(y: Any) -> None:
    """A normal of 100 dimensions."""
    z = pyro.sample("z", dist.Normal(torch.zeros(100), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)


def schools(y: Any = None, sigma: Any = None) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(torch.ones(())))
    with pyro.plate("school", len(sigma)):
        pyro.sample("y", dist.Normal(mu, sigma + tau), obs=y)


def scale() -> Any:
    return pyro.param("s", lambda: torch.tensor(1.0), constraint=dist.constraints.positive)


def without_tau(y: Any = None, sigma: Any = None) -> None:
    pyro.sample("mu", dist.Normal(pyro.param("m", lambda: torch.tensor(0.0)), scale()))


def by_hand(y: Any = None, sigma: Any = None) -> None:
    """A guide that fits, and starts at once."""
    without_tau()
    pyro.sample("tau", dist.LogNormal(torch.zeros(()), scale()))


def by_another_hand(y: Any = None, sigma: Any = None) -> None:
    pyro.sample("mu", dist.Normal(pyro.param("n", lambda: torch.tensor(0.0)), 1.0))
    pyro.sample("tau", dist.LogNormal(torch.zeros(()), scale()))


def one_too_many(y: Any = None, sigma: Any = None) -> None:
    by_hand()
    pyro.sample("omega", dist.Normal(torch.zeros(()), scale()))


def wrong_shape(y: Any = None, sigma: Any = None) -> None:
    pyro.sample("mu", dist.Normal(torch.zeros(3), scale()).to_event(1))
    pyro.sample("tau", dist.LogNormal(torch.zeros(()), scale()))


def wrong_support(y: Any = None, sigma: Any = None) -> None:
    without_tau()
    pyro.sample("tau", dist.Normal(torch.tensor(-50.0), scale()))


def fixed(y: Any = None) -> None:
    """No latent site."""
    pyro.sample("y", dist.Normal(torch.zeros(()), 1.0).expand([8]).to_event(1), obs=y)


def counts(y: Any = None) -> None:
    rate = pyro.sample("rate", dist.Exponential(torch.ones(())))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def coin(y: Any = None) -> None:
    kind = pyro.sample("kind", dist.Bernoulli(torch.tensor(0.5)))
    pyro.sample("y", dist.Normal(kind, 1.0), obs=y)


def with_needed(y: Any, sigma: Any) -> None:
    schools(y, sigma)


def growth(model: Any, y: Any = None) -> None:
    """An argument of Pyro's own name."""
    schools(y, model)


def rivals(guide: Any, y: Any = None) -> None:
    schools(y, guide)


def masking(y: Any) -> None:
    """Scores all that is not NaN."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros(()), 5.0))
    with pyro.plate("row", len(y)), pyro.poutine.mask(mask=~y.isnan()):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.where(y.isnan(), 0.0, y))


def fit(story: Any = schools, guide: Any = None, data: Any = None, **settings: Any) -> gb.Fit:
    """Twenty steps; by a guide that starts at once for the schools, by mean field for others."""
    if guide is None:
        guide = by_hand if story is schools else gb.guides.mean_field(story)
    options = {"steps": 20, "compile": "graph", "progress": False} | settings
    return gb.svi(story, guide, SCHOOLS if data is None else data, **options)


@cache
def one_fit() -> gb.Fit:
    return fit()


@cache
def files() -> dict[str, bytes]:
    """What stands in the folder of a row that asks for one: none of them a sound fit of ours."""
    with TemporaryDirectory() as folder:
        here = Path(folder)
        saved = one_fit().save(here / "saved").read_bytes()
        fit(checkpoint=here / "checkpoint")
        torch.save({"format": "guidebook fit 99"}, here / "newer")
        return {
            "empty": b"",
            "foreign": b"not a file of ours",
            "hdf5": b"\x89HDF\r\n\x1a\n truncated",
            "truncated": saved[:-200],
            "newer": (here / "newer").read_bytes(),
            "checkpoint": (here / "checkpoint").read_bytes(),
        }


def spoilt(name: str, index: int, value: float) -> dict[str, Tensor]:
    copy = {k: v.clone() for k, v in SCHOOLS.items()}
    copy[name][index] = value
    return copy


def logistic() -> tuple[Any, Any, dict[str, Any]]:
    from guidebook.models import logistic_regression

    data = {
        "X": torch.randn(20, 2, generator=torch.Generator().manual_seed(0)),
        "y": torch.ones(20),
    }
    return logistic_regression, gb.guides.mean_field(logistic_regression), data


def tree(value: float = 0.0, observed: Any = None, **sizes: int) -> Any:
    rng = np.random.default_rng(0)
    groups = {"posterior": {n: value + rng.normal(size=(1, 100, s)) for n, s in sizes.items()}}
    return from_dict(groups if observed is None else groups | {"observed_data": observed})


SEEDS = {
    "negative": -1,
    "a float": 1.5,
    "None": None,
    "huge": 2**63,
    "a word": "1",
    "a truth": True,
}
PATHS = {"None": None, "empty": "", "a number": 3, "with a NUL": "a\0b", "bytes": b"page"}


# mixtures -----------------------------------------------------------------------------------------

POINTS = np.random.default_rng(0).normal(size=(24, 2)) + np.repeat([[0.0, 0.0], [5.0, 5.0]], 12, 0)
ENGINES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "em": (gb.em, MixtureMode, {}),
    "cavi": (gb.cavi, MixtureMeanField, {}),
    "natural_svi": (gb.natural_svi, MixtureMeanField, {"steps": 30}),
    "gibbs": (gb.gibbs, MixtureMeanField, {"draws": 20, "tune": 20, "chains": 2}),
}


def mixture_fit(engine: str, x: np.ndarray, K: int = 3, covariance: Any = "full") -> gb.Fit:
    """Under a proper prior: its mode exists, which em asks for."""
    model = GaussianMixture(K, 2, covariance, concentration=2.0, df=5.0, inverse_scale=0.5)
    run, guide, options = ENGINES[engine]
    found: gb.Fit = run(model, guide(model), {"x": x}, progress=False, **options)
    return found


def points_with_nan() -> np.ndarray:
    x = POINTS.copy()
    x[7, 1] = np.nan
    return x


# autoencoders -------------------------------------------------------------------------------------

N, P, D, IMAGE = 24, 16, 2, (1, 4, 4)
X = (torch.rand(N, P, generator=torch.Generator().manual_seed(0)) > 0.5).float()
BYTES = (255 * X).to(torch.uint8)


def images_with_nan() -> Tensor:
    x = X.clone()
    x[3, 7] = torch.nan
    return x


def normal(d: int = D, width: int = 2 * D, inputs: int = P) -> AmortizedNormal:
    return AmortizedNormal(mlp((inputs, 8, width)), d)


def categorical(latents: int = 1, K: int = 3, width: int = 3) -> AmortizedCategorical:
    return AmortizedCategorical(mlp((P, 8, width)), latents, K)


def layers(width: int = 4) -> AmortizedLayers:
    return AmortizedLayers((mlp((P, 8, width)), mlp((2, 8, 2))), (2, 1))


SHELF: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "autoencoder": lambda: (
        VAE(P, D, (), "gaussian", 1.0, prior_scale=None), AmortizedDelta(mlp((P, D)), D), None
    ),
    "denoising": lambda: (
        VAE(P, D, (), "gaussian", 1.0, prior_scale=None),
        AmortizedDelta(CorruptedEncoder(mlp((P, D)), gaussian(0.3)), D),
        None,
    ),
    "vae": lambda: (VAE(P, D, (8,)), normal(), None),
    "convolutional vae": lambda: (
        VAE(P, D, decoder=ConvDecoder(D, IMAGE, (4,))),
        AmortizedNormal(ConvEncoder(IMAGE, 2 * D, (4,)), D),
        None,
    ),
    "gaussian, one scale": lambda: (VAE(P, D, (8,), "gaussian"), normal(), None),
    "gaussian, each its own": lambda: (VAE(P, D, (8,), GaussianPerDatum(0.1)), normal(), None),
    "low rank": lambda: (VAE(P, D, (8,), LowRankGaussian(2, 0.1)), normal(), None),
    "full covariance of q": lambda: (
        VAE(P, D, (8,)), AmortizedNormal(mlp((P, 8, 5)), D, covariance="full"), None
    ),
    "flow": lambda: (
        VAE(P, D, (8,)), AmortizedFlow(mlp((P, 8, flow_width(D))), D), None
    ),
    "two layers": lambda: (HierarchicalVAE(P, (2, 1), (8,)), layers(), None),
    "beta": lambda: (VAE(P, D, (8,)), normal(), BetaELBO(linear(0.0, 4.0, 0.5))),
    "iwae": lambda: (VAE(P, D, (8,)), normal(), ImportanceWeightedELBO(3, "doubly")),
    "landing": lambda: (VAE(P, D, (8,)), normal(), StickingTheLanding()),
    "gumbel-softmax": lambda: (
        DiscreteVAE(P, 1, 3, (8,)), categorical(), RelaxedELBO(exponential(1.0, 0.5))
    ),
}  # fmt: skip
BERNOULLI = ("vae", "convolutional vae", "two layers", "beta", "iwae", "gumbel-softmax")


def shelf_fit(pair: str, x: Any, steps: int = 30, **settings: Any) -> gb.Fit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, guide, objective = SHELF[pair]()
    return gb.svi(
        model, guide, {"x": x}, objective=objective, steps=steps, compile="graph", progress=False,
        **settings,
    )  # fmt: skip


def vae(x: Any = X, model: Any = None, guide: Any = None, **settings: Any) -> gb.Fit:
    return gb.svi(
        model or VAE(P, D, (8,)), guide or normal(), {"x": x}, steps=5, compile="graph",
        progress=False, **settings,
    )  # fmt: skip


def discrete(x: Any = X, guide: Any = None, **settings: Any) -> gb.Fit:
    settings = {"objective": RelaxedELBO(0.5)} | settings
    return vae(x, DiscreteVAE(P, 1, 3, (8,)), guide or categorical(), **settings)
