"""NumPyro's side of benchmarks/nuts_posteriors.py, in an environment of its own (benchmarks/numpyro_side.py).

The nine densities of benchmarks/posteriors.py as NumPyro's users write them, in double precision as on the
other side. A line `density NAME FILE` is answered by log p(x, u) at the positions u in that file, one for
each; `cold NAME FILE CHAIN_METHOD DRAWS` by the seconds of CPU of a call that finds nothing compiled. After
that `nuts NAME FILE SEED CHAIN_METHOD DRAWS` is answered by those of a call that finds on disk what XLA
compiled, those of a further draw of all chains, the divergences and the gradients a draw; its draws are
written beside the file.

Every `MCMC.run` compiles, a second one of the same object too. So a further draw is the difference of two
runs without a warm-up in their number of draws, both with what was compiled on disk.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import potential_energy

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
CHAINS, WARM_UP, MORE = 4, 1000, 4


def flat(support: Any, *event_shape: int) -> Any:
    return dist.ImproperUniform(support, (), event_shape)


def ark(y: Any, order: int = 5) -> None:
    alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    lagged = jnp.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], -1)
    with numpyro.plate("time", len(y) - order):
        numpyro.sample("y", dist.Normal(alpha + lagged @ beta, sigma), obs=y[order:])


def eight_schools_centered(sigma: Any, y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_noncentered(sigma: Any, y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(sigma)):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * theta_trans)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def garch11(y: Any, sigma1: Any) -> None:
    mu = numpyro.sample("mu", flat(constraints.real))
    alpha0 = numpyro.sample("alpha0", flat(constraints.positive))
    alpha1 = numpyro.sample("alpha1", flat(constraints.unit_interval))
    # not flat(constraints.interval(0.0, 1 - alpha1)): numpyro 0.22 returns draws of it on another scale
    beta1 = numpyro.sample("beta1", dist.Uniform(0.0, 1 - alpha1))
    numpyro.factor("flat", jnp.log1p(-alpha1))

    def following(variance: Any, before: Any) -> tuple[Any, Any]:
        variance = alpha0 + alpha1 * jnp.square(before - mu) + beta1 * variance
        return variance, variance

    first = jnp.square(sigma1)
    _, later = jax.lax.scan(following, first, y[:-1])
    with numpyro.plate("time", len(y)):
        scale = jnp.sqrt(jnp.concatenate([first[None], later]))
        numpyro.sample("y", dist.Normal(mu, scale), obs=y)


def kidscore_momiq(mom_iq: Any, kid_score: Any) -> None:
    beta = numpyro.sample("beta", flat(constraints.real_vector, 2))
    sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
    with numpyro.plate("row", len(mom_iq)):
        numpyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=kid_score)


def low_dim_gauss_mix(y: Any) -> None:
    mu = numpyro.sample("mu", flat(constraints.ordered_vector, 2))
    numpyro.factor("mu_prior", dist.Normal(0.0, 2.0).log_prob(mu).sum())
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
    theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
    weights = dist.Categorical(probs=jnp.stack([theta, 1 - theta]))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, dist.Normal(mu, sigma)), obs=y)


def flat_regression(x: Any, y: Any) -> None:
    beta = numpyro.sample("beta", flat(constraints.real_vector, x.shape[-1]))
    sigma = numpyro.sample("sigma", flat(constraints.positive))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def blr(x: Any, y: Any) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([x.shape[-1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


MODELS: dict[str, Callable[..., None]] = {
    "arK-arK": ark,
    "eight_schools-eight_schools_centered": eight_schools_centered,
    "eight_schools-eight_schools_noncentered": eight_schools_noncentered,
    "garch-garch11": garch11,
    "kidiq-kidscore_momiq": kidscore_momiq,
    "low_dim_gauss_mix-low_dim_gauss_mix": low_dim_gauss_mix,
    "mesquite-mesquite": flat_regression,
    "nes1980-nes": flat_regression,
    "sblrc-blr": blr,
}


def read_data(file: str) -> dict[str, Any]:
    return {n: jnp.asarray(v) for n, v in read(file, "data_").items()}


def read(file: str, prefix: str) -> dict[str, Any]:
    """The arrays of a file whose names begin so."""
    with np.load(file) as held:
        return {n.removeprefix(prefix): held[n] for n in held.files if n.startswith(prefix)}


def density(name: str, file: str) -> str:
    """log p(x, u) at the unconstrained values `u_SITE` (positions, ...) of the file."""
    data = read_data(file)
    at = {n: jnp.asarray(v) for n, v in read(file, "u_").items()}
    energy = jax.vmap(lambda u: potential_energy(MODELS[name], (), data, u))(at)
    return " ".join(str(-float(value)) for value in energy)


def run(name: str, data: dict[str, Any], seed: int, method: str, draws: int, after: Any) -> Any:
    """Seconds of a run and its MCMC; without a warm-up after the last state of another."""
    begun = time.process_time()
    mcmc = MCMC(
        NUTS(MODELS[name]), num_warmup=WARM_UP, num_samples=draws, num_chains=CHAINS,
        progress_bar=False, chain_method=method,
    )  # fmt: skip
    mcmc.post_warmup_state = after
    mcmc.run(random.PRNGKey(seed), extra_fields=("num_steps", "diverging"), **data)
    jax.block_until_ready(mcmc.get_samples())
    return time.process_time() - begun, mcmc


def cold(name: str, file: str, method: str, draws: int) -> float:
    """Seconds of a call in a process that has called others, with nothing compiled in memory or on disk."""
    jax.config.update("jax_compilation_cache_dir", f"{file}.{method}")
    reset_cache()
    jax.clear_caches()
    seconds, _ = run(name, read_data(file), 0, method, draws, None)
    return seconds


def nuts(name: str, file: str, seed: int, method: str, draws: int) -> str:
    """After `cold` of the same."""
    data = read_data(file)
    jax.clear_caches()
    whole, mcmc = run(name, data, seed, method, draws, None)
    new = not Path(f"{file}.draws.npz").exists()
    np.savez(f"{file}.draws.npz", **mcmc.get_samples(group_by_chain=True))
    extra, seconds = mcmc.get_extra_fields(), []
    for more in (draws, MORE * draws):
        for _ in range(1 + new):  # the first puts what it compiles on disk
            jax.clear_caches()
            taken, _ = run(name, data, seed + 100, method, more, mcmc.last_state)
        seconds.append(taken)
    a_draw = (seconds[1] - seconds[0]) / ((MORE - 1) * draws)
    steps = float(extra["num_steps"].mean())
    return f"{whole} {a_draw} {int(extra['diverging'].sum())} {steps}"


def main() -> None:
    print(f"numpyro {numpyro.__version__}, jax {jax.__version__}", flush=True)
    for line in sys.stdin:
        kind, name, file, *rest = line.split()
        if kind == "density":
            print(density(name, file), flush=True)
        elif kind == "cold":
            print(cold(name, file, rest[0], int(rest[1])), flush=True)
        else:
            print(nuts(name, file, int(rest[0]), rest[1], int(rest[2])), flush=True)


if __name__ == "__main__":
    main()
