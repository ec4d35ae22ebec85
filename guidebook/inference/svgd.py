r"""Stein variational gradient descent: particles that move together towards the posterior.

On the unconstrained scale, in coordinates w that the start of the fit whitens, P particles follow

.. math:: \phi(w_i) = \frac1P \sum_j \Big[ k(w_j, w_i) \nabla_{w_j} \log p(x, w_j)
    + \nabla_{w_j} k(w_j, w_i) \Big], \qquad k(w, w') = \exp(-|w - w'|^2 / h),

the direction in which KL(q || p) falls fastest among those of a unit ball of the kernel's space. The
first term draws them to where the density is high, the second keeps them apart. The bandwidth is
h = med^2 / log P, med the median distance between particles (the median heuristic). Here phi is
divided by the mean of k(w_j, w_i) over j, so that particles move at one speed whatever the dimension:

.. math:: v_i = \sum_j \kappa_{ij} \nabla \log p(x, w_j)
    + \tfrac2h \Big(w_i - \sum_j \kappa_{ij} w_j\Big), \qquad
    \kappa_{ij} = k(w_j, w_i) \Big/ \sum_l k(w_l, w_i),

which is zero where phi is. Particles at rest have E[phi] = 0 under p for the functions of the kernel:
few of them in many dimensions are too narrow (Ba et al. 2022), which Stein's identities then show.

Sources: Liu and Wang 2016, "Stein variational gradient descent: a general purpose Bayesian inference
algorithm"; Ba, Erdogdu, Ghassemi, Sun, Suzuki, Wu and Zhang 2022, "Understanding the variance
collapse of SVGD in high dimensions".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from guidebook.errors import SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, model_runs, opened
from guidebook.inference.fits.running import check_whole, said
from guidebook.inference.fits.status import Status
from guidebook.programs.potential import Potential
from guidebook.programs.start.gaussian import Start
from guidebook.programs.start.mode import find_start

FIRST_RATE, LARGEST_RATE = 0.1, 1.0
FASTER, SLOWER = 1.05, 0.5
"""The step grows while the particles go on in their direction and shrinks where they turn back."""
FARTHEST = 1.0
"""The longest move of a particle in a step: standard deviations of the start, a coordinate."""
MOST_PARTICLES = 20_000


def svgd(
    model: Callable[..., Any],
    data: Mapping[str, Any],
    *,
    particles: int = 200,
    steps: int = 2000,
    tolerance: float = 0.005,
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Fit:
    """Particles of the posterior, (1, particles), by steps along v until they are at rest.

    They start as draws of the Gaussian that `svi` starts from. notes: `particles`; `steps` taken;
    `residual`, the root mean square of v over particles and coordinates at the end, in standard
    deviations of the start; `bandwidth`, h; `outside`, particles where the density is zero or not a
    number. Ctrl-C keeps the particles where they are.

    The model's own parameters (pyro.param, networks) stay at their values: those of their statements,
    or those of a trained model, `svi(model, guide, data).model`; notes['held_parameters'] names them.

    Arguments:
        particles: P, at least 4 and at most 20,000. Work and memory of a step grow as P^2.
        steps: at most so many.
        tolerance: CONVERGED once the residual is at most this, which says that the particles rest
            and not that they are enough.
        seed: decides the start, and by it the result.

    Raises:
        ModelError: a discrete latent site that is not enumerated, or a density that is zero
            everywhere tried.
        DataError, SettingError: as `svi`.
    """
    check_whole(particles=(particles, 4), steps=(steps, 1))
    if particles > MOST_PARTICLES:
        raise SettingError(
            f"particles={particles} is out of range: a step holds the distance between any two of them, "
            f"{8 * particles**2 / 1e9:,.0f} GB. Give at most {MOST_PARTICLES:,}; nuts gives more draws."
        )
    if not 0 < tolerance < math.inf:
        raise SettingError(f"tolerance={tolerance!r} is out of range: give a positive number.")
    with opened("svgd", model, None, data, seed=seed, device=device, check=model_runs) as run:
        run.hold_parameters()
        sites = run.latent_sites()
        potential = Potential(run.model, run.tensors, sites)
        with said("svgd: finding where to start", shown=progress):
            start = find_start(potential)
        noise = torch.randn(
            particles, potential.dimension, dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        w, notes = _moved(run, potential, start, noise.to(start.center), steps, tolerance, progress)
    status = Status.CONVERGED if notes["residual"] <= tolerance else Status.STILL_MOVING
    u = _position(start, w)
    return run.fit(status, sites=sites, draws=u[None], draws_are="particles", notes=notes)


def _moved(
    run: Run, potential: Potential, start: Start, w: Tensor, total: int, tolerance: float,
    progress: bool,
) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
    """The particles where they rest, or after all steps, and the numbers of the last step."""
    rate, before, taken = FIRST_RATE, torch.zeros_like(w), 0
    velocity, h, outside = _velocity(potential, start, w)
    with run.steps(total, shown=progress) as steps:
        for _ in steps:
            residual = _residual(velocity, outside)
            steps.show(residual=residual)
            if residual <= tolerance:
                break
            turned = float((velocity * before).sum()) < 0
            rate = rate * SLOWER if turned else min(LARGEST_RATE, rate * FASTER)
            move = rate * velocity
            length = move.square().mean(1, keepdim=True).sqrt()
            w = w + move * (FARTHEST / length.clamp(min=FARTHEST))
            before, taken = velocity, taken + 1
            velocity, h, outside = _velocity(potential, start, w)
    return w, {
        "particles": len(w), "steps": taken, "residual": _residual(velocity, outside),
        "bandwidth": h, "outside": outside,
    }  # fmt: skip


def _residual(velocity: Tensor, outside: int) -> float:
    """The root mean square of v; infinite while a particle is where the posterior is not."""
    return math.inf if outside else float(velocity.square().mean().sqrt())


def _velocity(potential: Potential, start: Start, w: Tensor) -> tuple[Tensor, float, int]:
    """v (P, D) at w (P, D), the bandwidth, and how many particles have no density.

    Those draw no other, and are led back to the centre of the start.
    """
    value, grad = potential.value_and_grad(_position(start, w))
    inside = (value.isfinite() & grad.isfinite().all(-1)).unsqueeze(-1)
    slope = grad * start.factor if start.factor.dim() == 1 else grad @ start.factor
    slope = torch.where(inside, slope, -w)
    distance = torch.nn.functional.pdist(w)
    h = float(distance.median().square()) / math.log(len(w))
    kernel = (-torch.cdist(w, w, compute_mode="donot_use_mm_for_euclid_dist").square() / h).exp()
    share = kernel * inside.mT  # of a particle without density only its own slope is taken
    share = share + torch.diag_embed((~inside).squeeze(-1).to(share))
    share = share / share.sum(1, keepdim=True)
    velocity = share @ slope + (2 / h) * (w - share @ w)
    return velocity, h, int((~inside).sum())


def _position(start: Start, w: Tensor) -> Tensor:
    """u = centre + factor w, (P, D)."""
    flat = start.factor.dim() == 1
    return start.center + (w * start.factor if flat else w @ start.factor.mT)
