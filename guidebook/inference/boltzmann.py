r"""Learning a Boltzmann machine: correlations in the data minus correlations in the model.

.. math:: \frac{\partial}{\partial W_{ij}} \frac1n \sum_n \log p(v_n) = \beta \left(
    \langle x_i x_j \rangle_{\text{data}} - \langle x_i x_j \rangle_{\text{model}} \right)

Source: Ackley, Hinton & Sejnowski (1985), A learning algorithm for Boltzmann machines; contrastive
divergence: Hinton (2002), Training products of experts by minimizing contrastive divergence;
persistent chains: Younes (1989), Parametric inference for imperfectly observed Gibbsian fields;
Tieleman (2008), Training restricted Boltzmann machines using approximations to the likelihood
gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from guidebook.errors import DataError, ModelError, SettingError
from guidebook.guides.energy.blocks import BlockMeanField
from guidebook.inference.energy.correlations import (
    ENUMERATED_HIDDEN,
    FRESH_CHAINS,
    Correlations,
    few_enough,
    largest,
)
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import Run, opened
from guidebook.inference.fits.running import check_whole
from guidebook.inference.fits.status import Status
from guidebook.models.energy.boltzmann import BoltzmannMachine
from guidebook.models.energy.enumeration import MOST_UNITS

ModelTerm = Literal["auto", "enumeration", "gibbs", "cd", "pcd"]
SETTLED = 1e-3
"""The largest difference between a data and a model correlation at which exact learning is done."""
NEARLY = 0.1
"""The same for learning by chains, beyond four standard errors of the chains that measure it."""
REMEDY = (
    "The model's correlations differ from the data's. Raise steps; if that does not help, the chains "
    "of the model term are biased (cd) or do not mix (pcd): raise sweeps, lower rate, or give "
    "weight_decay."
)


def boltzmann_learning(
    model: BoltzmannMachine,
    data: Mapping[str, Any],
    *,
    model_term: ModelTerm = "auto",
    sweeps: int = 1,
    steps: int = 2000,
    rate: float = 0.05,
    batch_size: int | None = None,
    chains: int = 100,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Fit:
    """A Fit whose model is a trained copy; its guide is q(h | v), exact where that is known.

    Arguments: `data`, {"v": (n, V)} of -1 and +1; `model_term`, where the model's correlations come
    from: "enumeration" (exact: up to 20 units, or 20 in the smaller layer of a restricted machine),
    "gibbs" (`chains` new chains of `sweeps` sweeps at every step), "cd" (`sweeps` sweeps from the
    data: CD-k), "pcd" (`chains` persistent chains, `sweeps` sweeps between steps), "auto"
    (enumeration where it can be, else pcd); `rate`, of gradient ascent (with momentum 0.9 where the
    model term is exact), falling linearly to 0 unless every row and state is seen; `weight_decay`,
    a penalty w |W|^2 / 2 a row.

    Hidden units that start at couplings of exactly 0 never differ from each other: start them from
    small random weights. Units that are always equal in the data have their maximum of likelihood
    at infinite weights: how far they have grown is then a matter of steps, unless weight_decay
    gives them a maximum.

    The status is CONVERGED where the gradient, the largest difference between correlations of data
    and model (notes["gradient"]), is below 0.001 in exact learning, and below 0.1 beyond sampling
    error in learning by chains, measured by enumeration or by chains started afresh.

    `history` is - sum_n log p(v_n) where the model term is exact; else an estimate of the negative
    log pseudo-likelihood, - sum_n sum_i log p(v_ni | the other units), which is not comparable.

    `device`, None for where the machine is. Ctrl-C keeps the weights of the steps taken so far.

    Raises ModelError for another kind of model or a term that cannot be enumerated; DataError for
    values other than -1 and +1; SettingError for settings out of range.
    """
    _check_settings(model, model_term, rate, weight_decay)
    check_whole(sweeps=(sweeps, 1), steps=(steps, 1), chains=(chains, 1))
    place = model.bias.device if device is None else device
    with opened(
        "boltzmann_learning", model, None, data, seed=seed, device=place, check=None
    ) as run:
        machine, v = run.model, _rows(run.model, run.tensors)
        if batch_size is not None and not 1 <= batch_size <= len(v):
            raise SettingError(
                f"batch_size={batch_size} of {len(v)} rows: give 1 to {len(v)}, or None."
            )
        term = _term(machine, model_term)
        plan = _Plan(steps, rate, batch_size, chains, exact=term == "enumeration")
        generator = torch.Generator(device=v.device).manual_seed(seed)
        learner = Correlations(machine, term, sweeps, weight_decay, generator)
        history, gap = _climbed(run, learner, v, plan, progress)
        few = few_enough(machine)
        if not plan.steady:
            gap = learner.distance(v, few)
        machine.given = None  # log Z was that of the weights before
        run.guide = _posterior(machine)
    limit = SETTLED if plan.steady else NEARLY + (0.0 if few else 4 / FRESH_CHAINS**0.5)
    notes = {
        "model_term": term,
        "objective": "log likelihood" if plan.exact else "pseudo-likelihood",
        "gradient": gap,
    }
    if gap < limit:
        return run.fit(Status.CONVERGED, history, notes=notes)
    return run.fit(Status.STILL_MOVING, history, notes=notes | {"remedy": REMEDY})


class _Plan(NamedTuple):
    """How gradient ascent goes: of every row and state (steady), or of samples of them."""

    steps: int
    rate: float
    batch_size: int | None
    chains: int
    exact: bool

    @property
    def steady(self) -> bool:
        return self.exact and self.batch_size is None

    @property
    def momentum(self) -> float:
        """It multiplies the rate by ten, and chains must keep up with the weights."""
        return 0.9 if self.exact else 0.0

    def rate_at(self, step: int) -> float:
        return self.rate if self.steady else self.rate * (1 - step / self.steps)


def _climbed(
    run: Run, learner: Correlations, v: Tensor, plan: _Plan, progress: bool
) -> tuple[list[float], float]:
    """The objective of every step taken, and the largest part of the last gradient.

    Raises ModelError where the objective is not finite.
    """
    state = learner.coin_flips(plan.chains)
    history: list[float] = []
    gap = torch.inf
    velocity = [torch.zeros_like(p) for p in learner.parameters]
    with run.steps(plan.steps, shown=progress) as steps:
        for step in steps:
            batch = v
            if plan.batch_size is not None:
                batch = v[_some(len(v), plan.batch_size, learner.generator)]
            slope, loss, state = learner.gradient(batch, state)
            history.append(loss * len(v) / len(batch))
            if not math.isfinite(history[-1]):
                raise ModelError(
                    f"The objective is {history[-1]} at step {step}: the weights grow without bound. "
                    "Lower the rate, or give weight_decay."
                )
            gap = largest(slope)
            steps.show(objective=history[-1], gradient=gap)
            learner.move(slope, velocity, plan.rate_at(step), plan.momentum)
            if plan.steady and gap < SETTLED / 100:
                break
    return history, gap


# settings and data ------------------------------------------------------------------------------


def _term(machine: BoltzmannMachine, term: str) -> str:
    V, H = machine.visible, machine.hidden
    few = few_enough(machine)
    if term == "auto":
        return "enumeration" if few else "pcd"
    if term == "enumeration" and not few:
        raise ModelError(
            f"{V} visible and {H} hidden units are too many to enumerate (at most {MOST_UNITS}, or in "
            "the smaller layer of a restricted machine): use model_term='pcd'."
        )
    if term == "cd" and H and not machine.restricted:
        raise SettingError(
            "Contrastive divergence starts at h drawn given v, which is known for restricted "
            "machines and those without hidden units: use model_term='pcd'."
        )
    return term


def _check_settings(model: Any, term: str, rate: float, decay: float) -> None:
    if not isinstance(model, BoltzmannMachine):
        raise ModelError(
            f"boltzmann_learning learns a guidebook.models.BoltzmannMachine, not a "
            f"{type(model).__name__}: fit other models with svi or em."
        )
    if model.visible < 1:
        raise ModelError(
            "The machine has no visible unit to compare with data: give hidden fewer than all D units."
        )
    if term not in ("auto", "enumeration", "gibbs", "cd", "pcd"):
        raise SettingError(
            f"There is no model_term {term!r}: give 'auto', 'enumeration', 'gibbs', 'cd' or 'pcd'."
        )
    if not rate > 0:
        raise SettingError(f"rate={rate} is out of range: give a positive number.")
    if not decay >= 0:
        raise SettingError(f"weight_decay={decay} is out of range: give 0 or a positive number.")


def _rows(machine: BoltzmannMachine, tensors: Mapping[str, Any]) -> Tensor:
    v = tensors.get("v")
    if v is None:
        raise DataError(
            "data has no rows 'v' of visible units: give data={'v': rows of -1 and +1}."
        )
    v = v.to(machine.bias.dtype)
    if v.dim() != 2 or v.shape[1] != machine.visible:
        raise DataError(f"v must be rows (n, {machine.visible}), not {tuple(v.shape)}.")
    if not bool((v.abs() == 1).all()):
        raise DataError("v holds values other than -1 and +1: for zeros and ones give 2 * v - 1.")
    return v


def _some(rows: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(rows, generator=generator, device=generator.device)[:batch]


def _posterior(machine: BoltzmannMachine) -> BlockMeanField | None:
    """One block where the hidden units are coupled and few: the exact posterior."""
    if not machine.hidden:
        return None
    whole = not machine.restricted and machine.hidden <= ENUMERATED_HIDDEN
    return BlockMeanField(machine, blocks=machine.hidden if whole else 1)
