"""Arguments of every kind reach the model as pyro.infer.SVI passes them, step for step."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import guidebook as gb
from guidebook.scope import local_parameters, precision

Y = torch.tensor([0.1, -0.7, 1.3, 0.4, 2.2], dtype=torch.float64)
STEPS = 6


def guide(**data):
    loc = pyro.param("loc", lambda: torch.tensor(0.3))
    pyro.sample("m", dist.Normal(loc, 0.5))


def observe(name, value, scale=1.0):
    m = pyro.sample("m", dist.Normal(0.0, 5.0)) if name == "y" else 0.0
    pyro.sample(name, dist.Normal(m, scale).expand(value.shape).to_event(value.dim()), obs=value)
    return m


def of_a_shape(shape, y):
    assert type(shape) is tuple
    observe("y", y + torch.zeros(shape))


def of_a_ragged_list(ys):
    m = observe("y", ys[0])
    pyro.sample("rest", dist.Normal(m, 1.0).expand(ys[1].shape).to_event(1), obs=ys[1])


def of_packed(y):
    assert type(y) is PackedSequence and y.batch_sizes.dtype is torch.int64
    observe("y", y.data)


def of_a_dict(given):
    assert given["kind"] == "normal" and given["hidden"] == [3, 4]
    observe("y", given["y"], given["scale"])


def of_a_function(link, y, offset):
    assert offset is None
    observe("y", link(y))


def of_nothing_to_regress_on(covariates, y):
    observe("y", y - covariates.sum(-1))


PROGRAMS = {
    "a tuple": (of_a_shape, {"shape": (2, 5), "y": Y}),
    "a ragged list": (of_a_ragged_list, {"ys": [Y, Y[:3]]}),
    "a packed sequence": (of_packed, {"y": pack_sequence([Y, Y[:3]])}),
    "a dict": (of_a_dict, {"given": {"y": Y, "scale": 2.0, "kind": "normal", "hidden": [3, 4]}}),
    "a function and None": (of_a_function, {"link": torch.sin, "y": Y, "offset": None}),
    "no columns": (of_nothing_to_regress_on, {"covariates": torch.zeros(5, 0).double(), "y": Y}),
}


def by_pyro(model, data, given=guide):
    """The losses of pyro.infer.SVI, whose step gets the arguments untouched."""
    with local_parameters(), precision(torch.float64), torch.random.fork_rng():
        torch.manual_seed(0)
        svi = SVI(model, given, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        return [svi.step(**data) for _ in range(STEPS)]


def by_guidebook(model, data, **settings):
    return gb.svi(
        model, guide, data, optim=pyro.optim.Adam({"lr": 0.05}), steps=STEPS, progress=False,
        **({"compile": "graph"} | settings),
    )  # fmt: skip


@pytest.mark.parametrize("case", PROGRAMS)
def test_the_recorded_steps_are_those_of_pyro(case):
    model, data = PROGRAMS[case]
    fit = by_guidebook(model, data)
    assert fit.notes["path"] == "captured"
    np.testing.assert_allclose(fit.history, by_pyro(model, data), rtol=1e-12)


def of_columns(x, y):
    observe("y", y - x)


X = torch.arange(5.0, dtype=torch.float64)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y), (X.tolist(), Y.tolist()), pd.DataFrame({"x": X.long().numpy(), "y": Y.numpy()}),
        {"x": X.numpy().astype(">f8"), "y": pd.Series(Y.numpy())},
        {"y": Y.numpy().astype(object), "x": X.bfloat16()},
    ],
    ids=["positional", "positional lists", "a table", "big-endian and a column", "objects"],
)  # fmt: skip
def test_the_same_numbers_are_the_same_fit(data):
    """Whatever holds them; bfloat16 holds whole numbers below 257 exactly."""
    found = by_guidebook(of_columns, data).history
    np.testing.assert_allclose(found, by_pyro(of_columns, {"x": X, "y": Y}), rtol=1e-12)


def test_tensors_inside_of_what_changes_with_the_batch_are_read_anew():
    """A recorded step would take those of the first batch for constants: the steps are Pyro's own."""

    def story(ys, size):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
        with pyro.plate("row", size, subsample=ys[0]):
            pyro.sample("y", dist.Normal(m, 1.0), obs=ys[0])

    def batch_of(data):
        return {"ys": [Y[:2] + data], "size": 4}

    losses = []
    with local_parameters(), precision(torch.float64), torch.random.fork_rng():
        torch.manual_seed(0)
        svi = SVI(story, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step(**batch_of(100.0 * (step % 2))) for step in range(STEPS)]
    batches = [{"ys": [Y[:2] + shift]} for shift in (0.0, 100.0)]
    with pytest.warns(UserWarning, match="tensors inside of something, in .'ys'.: give tensors"):
        fit = by_guidebook(story, batches, size=4)
    np.testing.assert_allclose(fit.history, losses, rtol=1e-12)
