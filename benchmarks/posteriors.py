"""Nine reference posteriors of posteriordb as Pyro models, with their reference draws.

Each model states the same density as its Stan program (up to the constants that Stan drops):
same parameters, supports and priors, Stan's parameter names as site names. ``load(name)`` gives
``(model, data, reference)``. The data and draws are read from the folder named by the environment
variable ``GUIDEBOOK_REFERENCE``, or from ``../shared/reference`` beside the repository.

Source: Magnusson, Buerkner and Vehtari, posteriordb: a set of posteriors for Bayesian inference
and probabilistic programming (BSD 3-Clause).
"""

import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

Model = Callable[..., None]
Arrays = dict[str, np.ndarray]


class ReferenceMissing(FileNotFoundError):
    """The reference posteriors are not where they are looked for."""


@dataclass(frozen=True)
class Reference:
    """Reference draws of one posterior, on the constrained scale.

    ``mean`` and ``sd`` hold a number per flattened site name (``beta[1]``, counted from one as in
    Stan), from all 10,000 draws where posteriordb has the parameter, else from the draws kept here.
    ``draws`` holds one array ``(draws, *site shape)`` per site.
    """

    mean: dict[str, float]
    sd: dict[str, float]
    draws: Arrays


# The models ---------------------------------------------------------------------------------------


def number(like: Tensor, value: float) -> Tensor:
    return like.new_full((), value)


def flat(support: constraints.Constraint, *event_shape: int) -> dist.ImproperUniform:
    return dist.ImproperUniform(support, torch.Size(), torch.Size(event_shape))


def ark(y: Tensor, order: int = 5) -> None:
    """Autoregression: y_t ~ N(alpha + sum_k beta_k y_{t-k}, sigma), t = order + 1, ..., T.

    alpha ~ N(0, 10), beta_k ~ N(0, 10), sigma ~ HalfCauchy(2.5). ``y`` is (T,).
    """
    zero, ten = number(y, 0.0), number(y, 10.0)
    alpha = pyro.sample("alpha", dist.Normal(zero, ten))
    beta = pyro.sample("beta", dist.Normal(zero, ten).expand([order]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(number(y, 2.5)))
    lagged = y.unfold(0, order, 1)[:-1].flip(-1)
    mean = alpha + (lagged * beta).sum(-1)
    with pyro.plate("time", len(y) - order):
        pyro.sample("y", dist.Normal(mean, sigma), obs=y[order:])


def eight_schools_centered(sigma: Tensor, y: Tensor | None = None) -> None:
    """y_j ~ N(theta_j, sigma_j), theta_j ~ N(mu, tau), mu ~ N(0, 5), tau ~ HalfCauchy(5)."""
    mu = pyro.sample("mu", dist.Normal(number(sigma, 0.0), number(sigma, 5.0)))
    tau = pyro.sample("tau", dist.HalfCauchy(number(sigma, 5.0)))
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(sigma: Tensor, y: Tensor | None = None) -> None:
    """The same posterior with theta_j = mu + tau theta_trans_j, theta_trans_j ~ N(0, 1)."""
    zero = number(sigma, 0.0)
    mu = pyro.sample("mu", dist.Normal(zero, number(sigma, 5.0)))
    tau = pyro.sample("tau", dist.HalfCauchy(number(sigma, 5.0)))
    with pyro.plate("school", len(sigma)):
        theta_trans = pyro.sample("theta_trans", dist.Normal(zero, number(sigma, 1.0)))
        theta = pyro.deterministic("theta", mu + tau * theta_trans)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def garch11(y: Tensor, sigma1: Tensor) -> None:
    """y_t ~ N(mu, s_t), s_t^2 = alpha0 + alpha1 (y_{t-1} - mu)^2 + beta1 s_{t-1}^2, s_1 = sigma1.

    Flat priors on mu, alpha0 > 0, 0 < alpha1 < 1 and 0 < beta1 < 1 - alpha1: the support of beta1
    depends on alpha1. ``y`` is (T,), ``sigma1`` a number.
    """
    mu = pyro.sample("mu", flat(constraints.real))
    alpha0 = pyro.sample("alpha0", flat(constraints.positive))
    alpha1 = pyro.sample("alpha1", flat(constraints.unit_interval))
    below = constraints.interval(number(y, 0.0), 1 - alpha1)
    beta1 = pyro.sample("beta1", dist.ImproperUniform(below, alpha1.shape, torch.Size()))
    shock = alpha0 + alpha1 * (y[:-1] - mu).square()
    first = sigma1.square().expand((*shock.shape[:-1], 1))
    variance = _geometric_sum(torch.cat([first, shock], -1), beta1)
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()), obs=y)


def _geometric_sum(x: Tensor, ratio: Tensor) -> Tensor:
    """v_t = x_t + ratio v_{t-1} along the last dimension, in log2(T) doublings.

    With the shift L, 1 / (1 - r L) = (1 + r L)(1 + r^2 L^2)(1 + r^4 L^4)...
    """
    shift, length = 1, x.shape[-1]
    while shift < length:
        x = x + ratio * torch.nn.functional.pad(x[..., :-shift], (shift, 0))
        ratio, shift = ratio.square(), 2 * shift
    return x


def kidscore_momiq(mom_iq: Tensor, kid_score: Tensor | None = None) -> None:
    """kid_score ~ N(beta_1 + beta_2 mom_iq, sigma), beta flat, sigma ~ HalfCauchy(2.5)."""
    beta = pyro.sample("beta", flat(constraints.real_vector, 2))
    sigma = pyro.sample("sigma", dist.HalfCauchy(number(mom_iq, 2.5)))
    with pyro.plate("row", len(mom_iq)):
        mean = beta[..., 0] + beta[..., 1] * mom_iq
        pyro.sample("kid_score", dist.Normal(mean, sigma), obs=kid_score)


def low_dim_gauss_mix(y: Tensor) -> None:
    """y ~ theta N(mu_1, sigma_1) + (1 - theta) N(mu_2, sigma_2), mu_1 < mu_2.

    mu_k ~ N(0, 2) on the ordered pairs, sigma_k ~ N+(0, 2), theta ~ Beta(5, 5). ``y`` is (N,).
    """
    zero, two, five = number(y, 0.0), number(y, 2.0), number(y, 5.0)
    mu = pyro.sample("mu", flat(constraints.ordered_vector, 2))
    pyro.factor("mu_prior", dist.Normal(zero, two).log_prob(mu).sum(-1))
    sigma = pyro.sample("sigma", dist.HalfNormal(two).expand([2]).to_event(1))
    theta = pyro.sample("theta", dist.Beta(five, five))
    weights = dist.Categorical(logits=torch.stack([theta.log(), (-theta).log1p()], -1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def flat_regression(x: Tensor, y: Tensor | None = None) -> None:
    """y ~ N(x beta, sigma), beta and sigma > 0 flat. ``x`` is (N, D) with its column of ones."""
    beta = pyro.sample("beta", flat(constraints.real_vector, x.shape[-1]))
    sigma = pyro.sample("sigma", flat(constraints.positive))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1), sigma), obs=y)


def blr(x: Tensor, y: Tensor | None = None) -> None:
    """y ~ N(x beta, sigma), beta_d ~ N(0, 10), sigma ~ N+(0, 10). ``x`` is (N, D)."""
    ten = number(x, 10.0)
    prior = dist.Normal(number(x, 0.0), ten).expand([x.shape[-1]]).to_event(1)
    beta = pyro.sample("beta", prior)
    sigma = pyro.sample("sigma", dist.HalfNormal(ten))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal((x * beta).sum(-1), sigma), obs=y)


# Data: from Stan's dictionary to the model's keyword arguments ------------------------------------


def _keep(*names: str) -> Callable[[Mapping[str, Any]], Arrays]:
    return lambda stan: {name: np.asarray(stan[name], float) for name in names}


def _mesquite_data(stan: Mapping[str, Any]) -> Arrays:
    columns = ["diam1", "diam2", "canopy_height", "total_height", "density", "group"]
    x = np.column_stack([np.ones(stan["N"]), *(stan[name] for name in columns)])
    return {"x": x, "y": np.asarray(stan["weight"], float)}


def _nes_data(stan: Mapping[str, Any]) -> Arrays:
    age = np.asarray(stan["age_discrete"])
    before = [np.ones(stan["N"]), stan["real_ideo"], stan["race_adj"]]
    ages = [age == 2, age == 3, age == 4]
    x = np.column_stack([*before, *ages, stan["educ1"], stan["gender"], stan["income"]])
    return {"x": x.astype(float), "y": np.asarray(stan["partyid7"], float)}


def _blr_data(stan: Mapping[str, Any]) -> Arrays:
    return {"x": np.asarray(stan["X"], float), "y": np.asarray(stan["y"], float)}


@dataclass(frozen=True)
class Posterior:
    """A Pyro model and how to make its data from Stan's."""

    model: Model
    data: Callable[[Mapping[str, Any]], Arrays]


POSTERIORS: dict[str, Posterior] = {
    "arK-arK": Posterior(ark, _keep("y")),
    "eight_schools-eight_schools_centered": Posterior(eight_schools_centered, _keep("sigma", "y")),
    "eight_schools-eight_schools_noncentered": Posterior(
        eight_schools_noncentered, _keep("sigma", "y")
    ),
    "garch-garch11": Posterior(garch11, _keep("y", "sigma1")),
    "kidiq-kidscore_momiq": Posterior(kidscore_momiq, _keep("mom_iq", "kid_score")),
    "low_dim_gauss_mix-low_dim_gauss_mix": Posterior(low_dim_gauss_mix, _keep("y")),
    "mesquite-mesquite": Posterior(flat_regression, _mesquite_data),
    "nes1980-nes": Posterior(flat_regression, _nes_data),
    "sblrc-blr": Posterior(blr, _blr_data),
}


# Reading ------------------------------------------------------------------------------------------


def reference_folder() -> Path | None:
    """Where the reference posteriors lie, or None."""
    named = os.environ.get("GUIDEBOOK_REFERENCE")
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(named) if named else beside
    return folder if folder.is_dir() else None


def available() -> list[str]:
    """Names of the posteriors whose data and draws are there; says so when there are none."""
    folder = reference_folder()
    if folder is None:
        print(
            "No reference posteriors: set GUIDEBOOK_REFERENCE to the folder that holds them "
            "(or put it at ../shared/reference beside the repository). Skipped."
        )
        return []
    return [name for name in POSTERIORS if (folder / name / "reference.npz").is_file()]


def load(
    name: str, dtype: torch.dtype = torch.float64
) -> tuple[Model, dict[str, Tensor], Reference]:
    """Return the Pyro model, its data as tensors, and the reference draws of one posterior.

    Raises:
        KeyError: there is no posterior of this name.
        ReferenceMissing: its files are not there.
    """
    posterior = POSTERIORS[name]
    folder = reference_folder()
    if folder is None or not (folder / name / "reference.npz").is_file():
        raise ReferenceMissing(
            f"no reference files for {name!r}: set GUIDEBOOK_REFERENCE to the folder that holds "
            "one folder a posterior, with data.json.zip and reference.npz"
        )
    with zipfile.ZipFile(folder / name / "data.json.zip") as archive:
        stan = json.loads(archive.read("data.json"))
    with np.load(folder / name / "reference.npz") as archive:
        reference = _reference(name, {key: archive[key] for key in archive.files})
    data = {key: torch.tensor(value, dtype=dtype) for key, value in posterior.data(stan).items()}
    return posterior.model, data, reference


def _reference(name: str, stored: Mapping[str, np.ndarray]) -> Reference:
    names = [str(n) for n in stored["names"]]
    mean = {n: float(value) for n, value in zip(names, stored["mean"], strict=True)}
    sd = {n: float(value) for n, value in zip(names, stored["sd"], strict=True)}
    draws = unflatten(names, stored["draws"].astype(float))
    if name == "eight_schools-eight_schools_noncentered":
        # posteriordb keeps theta; the parameter that Stan (and the guide) sees is theta_trans.
        theta, mu, tau = draws["theta"], draws["mu"][:, None], draws["tau"][:, None]
        draws["theta_trans"] = (theta - mu) / tau
        mean |= flatten({"theta_trans": draws["theta_trans"].mean(0)})
        sd |= flatten({"theta_trans": draws["theta_trans"].std(0, ddof=1)})
    return Reference(mean, sd, draws)


def unflatten(names: list[str], draws: np.ndarray) -> Arrays:
    """Gather the columns of ``draws`` (S, D), named ``beta[1]`` or ``mu``, by site."""
    columns: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        columns.setdefault(re.sub(r"\[.*", "", name), []).append(i)
    return {
        site: draws[:, index[0]] if names[index[0]] == site else draws[:, index]
        for site, index in columns.items()
    }


def flatten(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """A number per flattened name: ``beta`` (3,) becomes ``beta[1]``, ``beta[2]``, ``beta[3]``."""
    flat: dict[str, float] = {}
    for site, array in values.items():
        for index, value in np.ndenumerate(np.asarray(array)):
            label = ",".join(str(i + 1) for i in index)
            flat[f"{site}[{label}]" if index else site] = float(value)
    return flat
