"""Random numbers that are not torch's: no graph draws them, so the steps are those of pyro.infer.SVI."""

import itertools
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

import guidebook as gb
from guidebook.scope import precision, random_state

STEPS, SEED, RATE = 12, 3, 0.05
Y = np.array([0.3, 1.0, 2.0])


def pair(of_model: Callable[[], Any], of_guide: Callable[[], Any] = lambda: 0.0) -> tuple[Any, Any]:
    """A normal mean, whose rows and whose guide are moved by numbers from elsewhere."""

    def model(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean + of_model(), 1.0), obs=y)

    def guide(y: Tensor) -> None:
        loc = pyro.param("loc", torch.tensor(0.5).double())
        pyro.sample("mean", dist.Normal(loc + of_guide(), 0.7))

    return model, guide


def fitted(model: Any, guide: Any) -> tuple[gb.Fit, str]:
    """The steps by svi, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = gb.svi(
            model, guide, {"y": Y}, objective=Trace_ELBO(), optim=pyro.optim.Adam({"lr": RATE}),
            steps=STEPS, seed=SEED, progress=False,
        )  # fmt: skip
    return fit, " ".join(str(one.message) for one in caught)


def by_pyro(model: Any, guide: Any) -> list[float]:
    with pyro.get_param_store().scope(), random_state(0), precision(torch.float64):
        pyro.set_rng_seed(SEED)
        steps = SVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
        return [steps.step(torch.as_tensor(Y)) for _ in range(STEPS)]


@pytest.mark.parametrize(
    "drawn",
    [
        pytest.param((lambda: 0.3 * np.random.randn(),), id="NumPy's, in the model"),
        pytest.param((lambda: random.random(),), id="Python's, in the model"),
        pytest.param((lambda: 0.0, lambda: 0.1 * np.random.rand()), id="NumPy's, in the guide"),
        pytest.param((lambda: float(np.random.rand() < 1e-12),), id="without a difference"),
    ],
)
def test_the_steps_are_those_of_pyro_and_the_states_are_the_users(drawn: Any) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()
    model, guide = pair(*drawn)
    fit, told = fitted(model, guide)
    assert fit.notes["path"] == "reference" and "of NumPy (np.random) or of Python" in told
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    np.testing.assert_allclose(fit.history, by_pyro(model, guide), rtol=1e-12)


@pytest.mark.parametrize("generator", ["NumPy's", "Python's", "a count"])
def test_a_generator_of_its_own_takes_the_reference_path(generator: str) -> None:
    """And so does what a program keeps from run to run."""
    draw: dict[str, Callable[[], float]] = {
        "NumPy's": np.random.default_rng(0).normal,
        "Python's": random.Random(0).random,
        "a count": itertools.count().__next__,
    }
    fit, told = fitted(*pair(draw[generator]))
    assert fit.notes["path"] == "reference"
    assert "in one run of the program and" in told and "np.random.default_rng" in told


def test_numbers_that_are_the_same_in_every_run_are_recorded() -> None:
    """Of a generator that the program makes anew, and of a seed that it sets."""

    def seeded() -> float:
        np.random.seed(4)
        return float(np.random.randn())

    for draw in (lambda: np.random.default_rng(4).normal(), seeded):
        fit, told = fitted(*pair(draw))
        assert fit.notes["path"] == "captured" and not told
