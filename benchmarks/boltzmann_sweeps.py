"""Gibbs sweeps of a Boltzmann machine of 1,000 units: chains together against NumPy loops.

    python -m benchmarks.boltzmann_sweeps       # about two minutes

A sweep draws every unit once from p(x_i = +1) = 1 / (1 + exp(-2 beta a_i)), in order, in float32,
for a random machine at beta = 1 with normal weights of standard deviation 1 / sqrt(1000). The sides
take turns on one core:

- guidebook: `gibbs_sweep`, all chains at once, the fields of 64 units from one matrix product;
- NumPy, a chain: the loop over units that one writes first, one chain at a time;
- NumPy, all chains: the same loop with a vector of chains, a unit's fields from one product.

Counted are sweeps of one chain a second. Before that the three are held against each other: given
the same uniforms they draw the same states.
"""

import numpy as np

from benchmarks import timing

CORE = timing.one_core()

import torch

from guidebook.guides.energy.spin_gibbs import gibbs_sweep

UNITS = 1000
CHAINS = (1, 10, 100, 1000)
Array = np.ndarray


def machine(seed: int = 0) -> tuple[Array, Array]:
    """Weights and bias of a spin glass at the edge of its cold phase."""
    rng = np.random.default_rng(seed)
    low = np.tril(rng.normal(size=(UNITS, UNITS)) / np.sqrt(UNITS), -1)
    return (low + low.T).astype(np.float32), (0.1 * rng.normal(size=UNITS)).astype(np.float32)


def one_chain(x: Array, W: Array, b: Array, uniforms: Array) -> None:
    """The plain loop: x (D,) in place."""
    for i in range(len(x)):
        p = 1.0 / (1.0 + np.exp(-2.0 * (W[i] @ x + b[i])))
        x[i] = 1.0 if uniforms[i] < p else -1.0


def all_chains(x: Array, W: Array, b: Array, uniforms: Array) -> None:
    """The plain loop over units, x (D, C) in place."""
    for i in range(len(x)):
        p = 1.0 / (1.0 + np.exp(-2.0 * (W[i] @ x + b[i])))
        x[i] = np.where(uniforms[i] < p, 1.0, -1.0)


def check(W: Array, b: Array) -> float:
    """The share of units that the sides draw alike from the same uniforms; raises below 99.99 %.

    They round differently, so one unit in many thousands, whose uniform lies at its probability,
    may differ, and others after it.
    """
    x = torch.where(
        torch.rand(UNITS, 20, generator=torch.Generator().manual_seed(1)) < 0.5, 1.0, -1.0
    )
    uniforms = torch.rand(UNITS, 20, generator=torch.Generator().manual_seed(2)).numpy()
    ours = gibbs_sweep(
        x, torch.from_numpy(W), torch.from_numpy(b), 1.0, torch.Generator().manual_seed(2)
    ).numpy()
    many, one = x.numpy().copy(), x.numpy()[:, 0].copy()
    all_chains(many, W, b, uniforms)
    one_chain(one, W, b, uniforms[:, 0])
    # a > logit(u) is u < p
    same = min(float((ours == many).mean()), float((one == many[:, 0]).mean()))
    if same < 0.9999:
        raise SystemExit(f"The sides draw different states: only {same:.2%} of the units agree.")
    return same


def blocks_for(chains: int, W: Array, b: Array, quick: bool) -> dict[str, timing.Block]:
    """Each side as a block that returns seconds a sweep of one chain."""
    rng = np.random.default_rng(3)
    start = np.where(rng.random((UNITS, chains)) < 0.5, 1.0, -1.0).astype(np.float32)
    ours = {"x": torch.from_numpy(start.copy())}
    many, one = start.copy(), start[:, 0].copy()
    weights, bias = torch.from_numpy(W), torch.from_numpy(b)
    generator = torch.Generator().manual_seed(4)

    def guidebook_sweep() -> None:
        ours["x"] = gibbs_sweep(ours["x"], weights, bias, 1.0, generator)

    def many_sweep() -> None:
        all_chains(many, W, b, rng.random((UNITS, chains), dtype=np.float32))

    def one_sweep() -> None:
        one_chain(one, W, b, rng.random(UNITS, dtype=np.float32))

    def per_chain(block: timing.Block, count: int) -> timing.Block:
        return lambda: block() / count

    times = 1 if quick or chains > 100 else 5
    return {
        "guidebook": per_chain(timing.steps_block(guidebook_sweep, times), chains),
        "NumPy, all chains": per_chain(timing.steps_block(many_sweep, times), chains),
        "NumPy, a chain": timing.steps_block(one_sweep, 5 * times),
    }


def main() -> None:
    quick = timing.arguments(__doc__).quick
    torch.set_num_threads(1)
    print(f"{timing.machine()}; pinned to core {CORE}\n", flush=True)
    W, b = machine()
    print(f"from the same uniforms {check(W, b):.2%} of the units are drawn alike\n")
    rows = []
    for chains in CHAINS:
        seconds = timing.interleaved(blocks_for(chains, W, b, quick), 2 if quick else 9)
        rate = {name: f"{1 / float(np.median(s)):,.0f}" for name, s in seconds.items()}
        gains = [
            f"{timing.ratio(seconds, side, 'guidebook'):.1f}"
            for side in ("NumPy, a chain", "NumPy, all chains")
        ]
        rows.append([f"{chains:,}", *rate.values(), *gains])
    header = [
        "chains", "guidebook (sweeps/s)", "NumPy, all chains", "NumPy, a chain",
        "over a chain (times)", "over all chains (times)",
    ]  # fmt: skip
    timing.table(header, rows)


if __name__ == "__main__":
    main()
