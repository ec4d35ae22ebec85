"""NUTS on eight schools: gb.nuts against pyro.infer.NUTS, seconds per effective draw.

    python -m benchmarks.nuts_speed       # about five minutes

Both run one after the other on one core, several times, the non-centred model, and are divided by
the smallest bulk effective sample size over all parameters. Pyro's side is what its users write
(one chain, 500 + 500 iterations); Guidebook's are the defaults of gb.nuts (4 chains of 1,000 + 1,000),
with everything it does before the first draw: recording, the start, compiling.
"""

import statistics
import time

from benchmarks import timing

CORE = timing.one_core()

import numpy as np  # noqa: E402 (after pinning)
import pyro  # noqa: E402
import torch  # noqa: E402
from arviz_stats.base import array_stats  # noqa: E402
from pyro.infer import MCMC, NUTS  # noqa: E402

import guidebook as gb  # noqa: E402
from guidebook.models import eight_schools  # noqa: E402

ITERATIONS = 500


def least_ess(draws: np.ndarray) -> float:
    """Of draws (chain, draw, D)."""
    columns = (draws[..., i] for i in range(draws.shape[-1]))
    return min(float(array_stats.ess(c, chain_axis=0, draw_axis=1, method="bulk")) for c in columns)


def guidebook_side(seed: int) -> tuple[float, float]:
    start = time.perf_counter()
    fit = gb.nuts(eight_schools, gb.datasets.eight_schools(), seed=seed, progress=False)
    return time.perf_counter() - start, float(fit.notes["ess"])


def pyro_side(seed: int, iterations: int) -> tuple[float, float]:
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    start = time.perf_counter()
    mcmc = MCMC(NUTS(eight_schools), iterations, warmup_steps=iterations, disable_progbar=True)
    mcmc.run(**gb.datasets.eight_schools())
    seconds = time.perf_counter() - start
    samples = mcmc.get_samples(group_by_chain=True)
    latents = [samples[n].reshape(1, iterations, -1) for n in ("mu", "tau", "theta_trans")]
    return seconds, least_ess(torch.cat(latents, -1).double().numpy())


def main() -> None:
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    guidebook_side(99)  # imports of both, and the compiler's own start
    per_draw: dict[str, list[float]] = {"gb.nuts": [], "pyro.infer.NUTS": []}
    rows = []
    for seed in range(1 if quick else 3):
        sides = {"gb.nuts": guidebook_side(seed),
                 "pyro.infer.NUTS": pyro_side(seed, 100 if quick else ITERATIONS)}  # fmt: skip
        for name, (seconds, ess) in sides.items():
            per_draw[name].append(seconds / ess)
            rows.append([name, str(seed), timing.shown(seconds), f"{ess:.0f}",
                         timing.shown(seconds / ess)])  # fmt: skip
    timing.table(["sampler", "seed", "time", "least bulk ESS", "per effective draw"], rows)
    medians = {name: statistics.median(values) for name, values in per_draw.items()}
    gain = medians["pyro.infer.NUTS"] / medians["gb.nuts"]
    print(f"\nper effective draw, set-up included: {gain:.0f} times (target 15)")


if __name__ == "__main__":
    main()
