"""Truth by brute force: long NUTS (nutpie), on a density that shares no code with the engines.

It is compiled to C as that of `nuts` is, where it can be (`guidebook.programs.native`, which compares it with
the operations of the density first); through Python it is the same, a hundred times slower.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._inductor
from numpy.typing import NDArray
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.density import FlatDensity, flat_density
from guidebook.programs.native.algebra import CannotLower
from guidebook.programs.native.density import NativeDensity, in_nutpie
from guidebook.programs.native.library import CannotCompile

CACHE = Path(__file__).resolve().parent / ".cache"
Moments = tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]


def long_nuts(
    model: Callable[..., Any],
    data: Mapping[str, torch.Tensor],
    *,
    draws: int = 5_000,
    tune: int = 2_000,
    chains: int = 4,
    seed: int = 20_261,
    target_accept: float = 0.95,
) -> Moments:
    """Means and standard deviations of every site from ``chains * draws`` NUTS draws.

    They are kept in ``benchmarks/.cache`` under a name made from the model's source, the data and
    the settings.

    Raises:
        RuntimeError: R-hat above 1.01, fewer than 1,000 effective draws, or over one divergence in
            a thousand: no truth.
    """
    settings = f"{draws} {tune} {chains} {seed} {target_accept}"
    content = inspect.getsource(model) + settings
    digest = hashlib.sha256(content.encode())
    for name, value in data.items():
        digest.update(name.encode() + value.numpy().tobytes())
    path = CACHE / f"truth-{model.__name__}-{digest.hexdigest()[:12]}.npz"
    if not path.is_file():
        density = flat_density(model, data)
        positions, divergences = _sample(density, draws, tune, chains, seed, target_accept)
        _check(model.__name__, positions, divergences)
        sites = _constrained(density, positions.reshape(-1, density.dim))
        moments = {f"mean/{n}": v.mean(0) for n, v in sites.items()}
        moments |= {f"sd/{n}": v.std(0, ddof=1) for n, v in sites.items()}
        CACHE.mkdir(exist_ok=True)
        partial = path.with_suffix(".tmp.npz")
        np.savez(partial, **moments)
        partial.replace(path)
    with np.load(path) as stored:
        mean = {k.removeprefix("mean/"): stored[k] for k in stored.files if k.startswith("mean/")}
        sd = {k.removeprefix("sd/"): stored[k] for k in stored.files if k.startswith("sd/")}
    return mean, sd


def _gradient(density: FlatDensity) -> torch.fx.GraphModule:
    """The recorded operations of x (D,) -> log density, gradient (D,)."""
    value_and_grad = torch.func.grad_and_value(density.log_prob)

    def turned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        grad, value = value_and_grad(x)
        return value, grad

    return make_fx(turned)(torch.zeros(density.dim, dtype=torch.float64))


def _sample(
    density: FlatDensity, draws: int, tune: int, chains: int, seed: int, target_accept: float
) -> tuple[NDArray[np.float64], int]:
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    graph, start = _gradient(density), torch.zeros(density.dim, dtype=torch.float64)
    try:
        native = NativeDensity(graph, start)
        gradient = native
    except (CannotLower, CannotCompile) as error:
        print(f"through Python: {error}", flush=True)
        native = None
        with torch.no_grad():
            gradient = torch._inductor.compile(graph, [start])

    def logp(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        with torch.no_grad():
            value, grad = gradient(torch.from_numpy(np.array(x)))
        return float(value), grad.numpy()

    model = from_pyfunc(
        density.dim,
        lambda: logp,
        lambda *_: lambda x: {"position": np.array(x)},
        [np.dtype(np.float64)],
        [(density.dim,)],
        ["position"],
        make_initial_point_fn=lambda seed: np.random.default_rng(seed).uniform(-2, 2, density.dim),
    )
    trace = nutpie.sample(
        model if native is None else in_nutpie(model, native),
        draws=draws,
        tune=tune,
        chains=chains,
        cores=1,
        seed=seed,
        progress_bar=False,
        target_accept=target_accept,
    )
    positions = np.asarray(trace.posterior["position"])
    return positions, int(trace.sample_stats["diverging"].sum())


def _check(name: str, positions: NDArray[np.float64], divergences: int) -> None:
    from arviz_stats.base import array_stats

    columns = range(positions.shape[-1])
    rhat = max(float(array_stats.rhat(positions[..., i])) for i in columns)
    ess = min(float(array_stats.ess(positions[..., i])) for i in columns)
    said = f"{name}: R-hat {rhat:.4f}, ESS {ess:.0f}, {divergences} divergences"
    print(said, flush=True)
    if rhat > 1.01 or ess < 1_000 or divergences > positions[..., 0].size / 1_000:
        raise RuntimeError(f"long NUTS is no truth here: {said}")


def _constrained(
    density: FlatDensity, positions: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    rows = torch.func.vmap(density.constrain, chunk_size=200)
    sites = rows(torch.from_numpy(positions))
    return {name: value.numpy() for name, value in sites.items()}
