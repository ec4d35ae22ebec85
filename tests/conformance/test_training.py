"""Laws of fitting: gradients, the recorded step against Pyro's own, repetition, status."""

from typing import Any

import numpy as np
import torch

import guidebook as gb
from guidebook.programs.data import as_tensors
from guidebook.programs.owned import Joined, copied, dtype_of, parameters_of
from guidebook.scope import local_parameters, precision

GOOD = (
    gb.Status.CONVERGED, gb.Status.STILL_MOVING, gb.Status.CHAINS_DISAGREE, gb.Status.EXACT
)  # fmt: skip


def test_every_guide_parameter_has_a_finite_gradient(row: Any, trained: gb.Fit) -> None:
    model, family = copied(trained.model, trained.guide)
    dtype = dtype_of(model, family)
    data = as_tensors(row.data, dtype, torch.device("cpu"))
    joined = Joined(model, family)
    with local_parameters(), precision(dtype):
        loss = joined(row.objective.differentiable_loss, data)
        free = [(n, p) for n, p in joined.named_parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, [p for _, p in free], allow_unused=True)
    for (parameter, _), gradient in zip(free, gradients, strict=True):
        assert gradient is not None, f"{parameter} does not reach the objective"
        assert bool(gradient.isfinite().all()), parameter


def test_the_recorded_step_is_that_of_pyro(row: Any, trained: gb.Fit) -> None:
    """Objective and update of the first steps, under the same random numbers."""
    reference = row.fitted(steps=3, compile=False)
    assert [fit.notes["path"] for fit in (trained, reference)] == ["captured", "reference"]
    single = dtype_of(trained.model, trained.guide) is torch.float32
    np.testing.assert_allclose(
        trained.history[:3], reference.history, rtol=1e-4 if single else 1e-9
    )


def test_same_seed_same_result(row: Any, fit: gb.Fit) -> None:
    """Every step of the objective, and every parameter or draw, to the bit."""
    again = row.fitted()
    np.testing.assert_array_equal(again.history, fit.history)
    if row.engine == "svi":
        parts = (parameters_of(f.model, f.guide) for f in (fit, again))
        ours, theirs = ([p.detach().numpy() for p in found] for found in parts)
    else:
        trees = (f.posterior(5, seed=3)["posterior"] for f in (fit, again))
        ours, theirs = ([v.values for v in tree.data_vars.values()] for tree in trees)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_fit_says_how_it_ended(row: Any, fit: gb.Fit) -> None:
    """Engines with a rule for stopping arrive; 60 steps of svi need not, and none meets a NaN."""
    if row.engine == "svi":
        assert fit.status in GOOD and np.isfinite(fit.history).all()
    elif row.engine == "exact":
        assert fit.status is gb.Status.EXACT and np.isfinite(fit.notes["log_evidence"])
    else:
        assert fit.status in (gb.Status.CONVERGED, gb.Status.CHAINS_DISAGREE)


def test_engines_arrive_on_all_rows(cut: gb.Fit) -> None:
    assert cut.status in (gb.Status.CONVERGED, gb.Status.CHAINS_DISAGREE)


def test_coordinate_ascent_never_descends(ascended: gb.Fit) -> None:
    """EM and CAVI: each pass lowers -ELBO, up to the rounding of its sum."""
    eps = torch.finfo(ascended.potential.dtype).eps
    room = 1e4 * eps * max(1.0, float(np.abs(ascended.history).max()))
    assert len(ascended.history) > 1 and np.diff(ascended.history).max() <= room
