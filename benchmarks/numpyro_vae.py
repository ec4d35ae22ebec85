"""NumPyro's side of benchmarks/vae_speed.py, in an environment of its own (benchmarks/numpyro_side.py).

It is asked for blocks of steps over its standard input: a line
`BATCH STEPS`, answered by the seconds a step. The model is the one of guidebook.models.decoders.latent.VAE;
the steps of a block run inside one `lax.scan` with the batches gathered there, as in NumPyro's own
VAE example; NumPyro's Adam, float32.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.optim import Adam

PIXELS, HIDDEN, LATENTS, ROWS = 784, 400, 50, 8192


def layer(name: str, x: Any, inputs: int, outputs: int) -> Any:
    """An affine map with torch's initial scale."""
    bound = inputs**-0.5
    key = random.PRNGKey(sum(name.encode()))
    weight = random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound)
    return x @ numpyro.param(f"{name}.w", weight) + numpyro.param(f"{name}.b", jnp.zeros(outputs))


def model(x: Any) -> None:
    """z ~ N(0, I), x ~ Bernoulli(decoder(z))."""
    with numpyro.plate("row", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENTS), 1.0).to_event(1))
        hidden = jnp.tanh(layer("decoder.0", z, LATENTS, HIDDEN))
        logits = layer("decoder.1", hidden, HIDDEN, PIXELS)
        numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


def guide(x: Any) -> None:
    """q(z | x) diagonal normal."""
    hidden = jnp.tanh(layer("encoder.0", x, PIXELS, HIDDEN))
    output = layer("encoder.1", hidden, HIDDEN, 2 * LATENTS)
    scale = jax.nn.softplus(output[:, LATENTS:]) + 1e-6
    with numpyro.plate("row", len(x)):
        numpyro.sample("z", dist.Normal(output[:, :LATENTS], scale).to_event(1))


def stepper(x: Any, batch: int) -> Callable[[int], float]:
    """A function that runs so many steps and returns the seconds a step."""
    svi = SVI(model, guide, Adam(1e-3), Trace_ELBO())
    state = svi.init(random.PRNGKey(0), x[:batch])

    @jax.jit
    def run(state: Any, places: Any) -> Any:
        return jax.lax.scan(lambda s, place: svi.update(s, x[place]), state, places)

    def block(steps: int) -> float:
        nonlocal state
        places = random.randint(random.PRNGKey(steps), (steps, batch), 0, len(x))
        places.block_until_ready()
        start = time.perf_counter()
        state, losses = run(state, places)
        losses.block_until_ready()
        return (time.perf_counter() - start) / steps

    return block


def main() -> None:
    x = (random.uniform(random.PRNGKey(1), (ROWS, PIXELS)) > 0.5).astype(jnp.float32)
    blocks: dict[int, Callable[[int], float]] = {}
    print(f"numpyro {numpyro.__version__}, jax {jax.__version__}", flush=True)
    for line in sys.stdin:
        batch, steps = map(int, line.split())
        if batch not in blocks:
            blocks[batch] = stepper(x, batch)
        print(blocks[batch](steps), flush=True)


if __name__ == "__main__":
    main()
