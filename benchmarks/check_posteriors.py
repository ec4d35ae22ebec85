"""Check the nine models against NumPy versions of their Stan programs and the reference draws.

    python -m benchmarks.check_posteriors

1. At 20 reference draws, the log joint of the Pyro model minus that of a NumPy/SciPy version of
   the Stan program is one constant (Stan drops none of these terms here; half distributions are
   normalised in Pyro and not in Stan, which is the constant).
2. Over the reference draws, Stein's identities: the gradient g of the unconstrained log density
   has mean zero and E[(z - E z) g] = -1; the largest deviation, in standard errors, is printed.
3. The model records under make_fx and runs under torch.func.vmap, with the same numbers.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_law
from scipy.stats import cauchy, norm
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.density import FlatDensity, flat_density
from benchmarks.posteriors import Reference, available, load

Values = Mapping[str, NDArray[np.float64]]


def _ark(z: Values, d: Values) -> float:
    y, k = d["y"], len(z["beta"])
    total = norm.logpdf(z["alpha"], 0, 10) + norm.logpdf(z["beta"], 0, 10).sum()
    total += cauchy.logpdf(z["sigma"], 0, 2.5)
    for t in range(k, len(y)):
        mean = z["alpha"] + sum(z["beta"][j] * y[t - j - 1] for j in range(k))
        total += norm.logpdf(y[t], mean, z["sigma"])
    return float(total)


def _centered(z: Values, d: Values) -> float:
    total = cauchy.logpdf(z["tau"], 0, 5) + norm.logpdf(z["mu"], 0, 5)
    total += norm.logpdf(z["theta"], z["mu"], z["tau"]).sum()
    return float(total + norm.logpdf(d["y"], z["theta"], d["sigma"]).sum())


def _noncentered(z: Values, d: Values) -> float:
    total = cauchy.logpdf(z["tau"], 0, 5) + norm.logpdf(z["mu"], 0, 5)
    total += norm.logpdf(z["theta_trans"]).sum()
    theta = z["theta_trans"] * z["tau"] + z["mu"]
    return float(total + norm.logpdf(d["y"], theta, d["sigma"]).sum())


def _garch(z: Values, d: Values) -> float:
    y, sigma = d["y"], [float(d["sigma1"])]
    for t in range(1, len(y)):
        shock = z["alpha1"] * (y[t - 1] - z["mu"]) ** 2
        sigma.append(float(np.sqrt(z["alpha0"] + shock + z["beta1"] * sigma[-1] ** 2)))
    return float(norm.logpdf(y, z["mu"], sigma).sum())


def _kidiq(z: Values, d: Values) -> float:
    mean = z["beta"][0] + z["beta"][1] * d["mom_iq"]
    likelihood = norm.logpdf(d["kid_score"], mean, z["sigma"]).sum()
    return float(cauchy.logpdf(z["sigma"], 0, 2.5) + likelihood)


def _mixture(z: Values, d: Values) -> float:
    total = norm.logpdf(z["sigma"], 0, 2).sum() + norm.logpdf(z["mu"], 0, 2).sum()
    total += beta_law.logpdf(z["theta"], 5, 5)
    first = z["theta"] * norm.pdf(d["y"], z["mu"][0], z["sigma"][0])
    second = (1 - z["theta"]) * norm.pdf(d["y"], z["mu"][1], z["sigma"][1])
    return float(total + np.log(first + second).sum())


def _flat(z: Values, d: Values) -> float:
    return float(norm.logpdf(d["y"], d["x"] @ z["beta"], z["sigma"]).sum())


def _blr(z: Values, d: Values) -> float:
    prior = norm.logpdf(z["beta"], 0, 10).sum() + norm.logpdf(z["sigma"], 0, 10)
    return float(prior + _flat(z, d))


STAN: dict[str, Callable[[Values, Values], float]] = {
    "arK-arK": _ark,
    "eight_schools-eight_schools_centered": _centered,
    "eight_schools-eight_schools_noncentered": _noncentered,
    "garch-garch11": _garch,
    "kidiq-kidscore_momiq": _kidiq,
    "low_dim_gauss_mix-low_dim_gauss_mix": _mixture,
    "mesquite-mesquite": _flat,
    "nes1980-nes": _flat,
    "sblrc-blr": _blr,
}


def positions(density: FlatDensity, reference: Reference) -> torch.Tensor:
    """The reference draws on the flat unconstrained scale, (draws, dim)."""
    draws = {name: torch.tensor(reference.draws[name]) for name in density.shapes}
    count = len(next(iter(draws.values())))
    rows = [density.unconstrain({n: d[i] for n, d in draws.items()}) for i in range(count)]
    return torch.stack(rows)


def log_joint_gap(name: str, density: FlatDensity, z: torch.Tensor) -> tuple[float, float]:
    """Mean and spread over 20 draws of (Pyro log joint) - (NumPy log joint)."""
    gaps = []
    data = {k: v.numpy() for k, v in density.data.items()}
    for row in z[:: len(z) // 20][:20]:
        values = density.constrain(row)
        stan = STAN[name]({k: v.numpy() for k, v in values.items()}, data)
        gaps.append(float(density.log_joint(row)) - stan)
    return float(np.mean(gaps)), float(np.ptp(gaps))


def recorded(gradient: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """The gradient at every row of ``z``, through make_fx and vmap."""
    rows = torch.func.vmap(gradient)
    result: torch.Tensor = make_fx(lambda x: rows(x))(z)(z)
    return result


def in_standard_errors(x: torch.Tensor) -> torch.Tensor:
    """Column means in units of their standard errors."""
    return x.mean(0) / x.std(0) * len(x) ** 0.5


def main() -> None:
    torch.set_num_threads(1)
    for name in available():
        model, data, reference = load(name)
        density = flat_density(model, data)
        z = positions(density, reference)
        gap, spread = log_joint_gap(name, density, z)
        gradient = torch.func.grad(density.log_prob)
        g = recorded(gradient, z)
        eager = torch.stack([gradient(row) for row in z[:3]])
        difference = float(((g[:3] - eager).abs() / (1 + eager.abs())).max())
        first = in_standard_errors(g)
        second = in_standard_errors((z - z.mean(0)) * g + 1)
        print(
            f"{name:42s} dim {density.dim:2d}  Pyro - Stan {gap:8.4f} (spread {spread:.1e})  "
            f"max |E grad| {float(first.abs().max()):.2f} se  "
            f"max |E z grad + 1| {float(second.abs().max()):.2f} se  "
            f"recorded - eager {difference:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
