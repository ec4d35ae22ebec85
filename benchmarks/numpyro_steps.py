"""NumPyro's side of benchmarks/native.py, in an environment of its own (benchmarks/numpyro_side.py).

A line `CASE NUMBER` is answered by the seconds a step of SVI, so many of them inside one `lax.scan`. Models
and guides are those of benchmarks/speed.py; NumPyro's Adam; double precision, as on the other side.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.contrib.funsor import config_enumerate
from numpyro.handlers import block
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.optim import Adam

jax.config.update("jax_enable_x64", True)
Y = jnp.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = jnp.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools() -> None:
    """posteriordb's priors, not centred."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        theta = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * theta, SIGMA), obs=Y)


def rows() -> Any:
    rng = np.random.default_rng(0)
    return jnp.array(rng.normal(size=(500, 2)) + 3 * (rng.random((500, 1)) > 0.5))


@config_enumerate
def mixture(x: Any) -> None:
    """Three components in the plane, the component of every row summed out."""
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("component", 3):
        mean = numpyro.sample("mean", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(x)):
        c = numpyro.sample("c", dist.Categorical(weights))
        numpyro.sample("x", dist.Normal(mean[c], 1.0).to_event(1), obs=x)


CASES: dict[str, Callable[[], Any]] = {
    "mean-field": lambda: (SVI(schools, AutoNormal(schools), Adam(0.01), Trace_ELBO()), ()),
    "particles": lambda: (SVI(schools, AutoNormal(schools), Adam(0.01), Trace_ELBO(16)), ()),
    "full-rank": lambda: (
        SVI(schools, AutoMultivariateNormal(schools), Adam(0.01), Trace_ELBO()), ()
    ),
    "mixture": lambda: (
        SVI(mixture, AutoNormal(block(mixture, hide=["c"])), Adam(0.01), TraceEnum_ELBO()), (rows(),)
    ),
}  # fmt: skip


def stepper(case: str) -> Callable[[int], float]:
    """A function that runs so many steps and returns the seconds a step."""
    svi, given = CASES[case]()
    state = svi.init(random.PRNGKey(0), *given)
    runs: dict[int, Any] = {}

    def block_of(steps: int) -> float:
        nonlocal state
        if steps not in runs:
            runs[steps] = jax.jit(
                lambda s: jax.lax.scan(lambda s, _: svi.update(s, *given), s, None, length=steps)
            )
            jax.block_until_ready(runs[steps](state))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(runs[steps](state))
        return (time.perf_counter() - start) / steps

    return block_of


def main() -> None:
    steppers: dict[str, Callable[[int], float]] = {}
    print(f"numpyro {numpyro.__version__}, jax {jax.__version__}", flush=True)
    for line in sys.stdin:
        case, number = line.split()
        if case not in steppers:
            steppers[case] = stepper(case)
        print(steppers[case](int(number)), flush=True)


if __name__ == "__main__":
    main()
