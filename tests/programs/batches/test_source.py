"""A fit on an iterable of batches, or on rows that are read, is the fit on the arrays themselves."""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader

import guidebook as gb
from guidebook.errors import DataError, SettingError
from guidebook.programs.batches.source import admitted
from guidebook.programs.plate import rows as row_plate

QUIET = {"progress": False, "compile": "graph"}
N, B = 40, 8


def normal_mean(y=None, size=None):
    """mu ~ N(0, 10^2), y_i ~ N(mu, 1)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with row_plate(B if y is None else len(y), size, torch.device("cpu")):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def without_size(y=None):
    normal_mean(y)


def data():
    return {"y": 2.0 + np.random.default_rng(0).normal(size=N)}


def batches_of_arrays(steps, seed=0):
    """The batches that `batch_size=B` takes for these steps, as a list."""
    source = admitted(normal_mean, data(), batch_size=B, size=None)
    found = source.batches(normal_mean, seed, torch.float64, torch.device("cpu"))
    return [{"y": found.batch(step)["y"]} for step in range(steps)]


class Passes:
    """Pass k of a list of passes at the k-th iteration."""

    def __init__(self, given, per_pass):
        self.passes = [given[i : i + per_pass] for i in range(0, len(given), per_pass)]
        self.times = -1

    def __iter__(self):
        self.times += 1
        return iter(self.passes[self.times])


@pytest.mark.parametrize("path", ["graph", False])
def test_the_same_batches_give_the_same_fit(path):
    """A DataLoader with the batches of batch_size=B in their order: the same bits."""
    steps = 3 * N // B
    arrays = gb.svi(normal_mean, AutoNormal(normal_mean), data(), batch_size=B, steps=steps,
                    progress=False, compile=path)  # fmt: skip
    given = batches_of_arrays(steps)
    loader = DataLoader(given, batch_size=None, num_workers=0)
    loaded = gb.svi(normal_mean, AutoNormal(normal_mean), loader, size=steps * B, steps=steps,
                    progress=False, compile=path)  # fmt: skip
    assert not np.array_equal(loaded.history, arrays.history)  # another N
    passes = Passes(given, N // B)
    streamed = gb.svi(normal_mean, AutoNormal(normal_mean), passes, size=N, steps=steps,
                      progress=False, compile=path)  # fmt: skip
    np.testing.assert_array_equal(streamed.history, arrays.history)
    for ours, theirs in zip(streamed.guide.parameters(), arrays.guide.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert passes.times == 2


class Table:
    names = ("y",)

    def __len__(self):
        return N

    def take(self, index):
        return {"y": torch.from_numpy(data()["y"][index])}


def test_rows_that_are_read_give_the_fit_of_tensors():
    tensors = {"y": torch.from_numpy(data()["y"])}
    a = gb.svi(
        normal_mean, gb.guides.mean_field(normal_mean), tensors, batch_size=B, steps=20, **QUIET
    )
    b = gb.svi(
        normal_mean, gb.guides.mean_field(normal_mean), Table(), batch_size=B, steps=20, **QUIET
    )
    np.testing.assert_array_equal(a.history, b.history)
    assert b.data is None


def test_the_elbo_of_the_batches_of_a_pass_is_that_of_all_rows():
    """At one guide the mean of the scaled ELBO over a pass is the ELBO of all rows, exactly."""

    def at_two(**_):
        pyro.sample("mu", dist.Delta(torch.tensor(2.0)))

    elbo = Trace_ELBO()
    found = admitted(normal_mean, DataLoader(torch.from_numpy(data()["y"]), batch_size=B,
                     collate_fn=lambda y: {"y": torch.stack(y)}), batch_size=None, size=N)  # fmt: skip
    batches = found.batches(normal_mean, 0, torch.float64, torch.device("cpu"))
    scaled = [elbo.loss(normal_mean, at_two, **batches.batch(step)) for step in range(N // B)]
    full = elbo.loss(normal_mean, at_two, y=torch.from_numpy(data()["y"]))
    assert np.mean(scaled) == pytest.approx(full, rel=1e-12)
    assert np.std(scaled) > 0.1


def test_a_fit_on_a_loader_finds_the_posterior():
    """The conjugate posterior; the start is at the mode of all rows, which the first batches are."""
    y = data()["y"]
    precision = N + 1 / 100
    loader = DataLoader([{"y": value} for value in y], batch_size=B, shuffle=True)
    fit = gb.svi(
        normal_mean, gb.guides.mean_field(normal_mean), loader, size=N, steps=2000, **QUIET
    )
    with torch.no_grad():
        q = fit.guide.get_posterior()
    sd = precision**-0.5
    assert float(q.mean) == pytest.approx(y.sum() / precision, abs=0.1 * sd)
    assert float(q.stddev) == pytest.approx(sd, rel=0.1)
    assert fit.notes["size"] == N


def test_the_density_of_all_rows_needs_the_data():
    loader = DataLoader([{"y": value} for value in data()["y"]], batch_size=B)
    fit = gb.svi(normal_mean, gb.guides.mean_field(normal_mean), loader, size=N, steps=10, **QUIET)
    with pytest.raises(DataError, match="data"):
        _ = fit.potential
    whole = dataclasses.replace(fit, data=data())
    log_joint, _ = whole.potential(torch.tensor([[2.0]], dtype=torch.float64))
    expected = dist.Normal(0.0, 10.0).log_prob(torch.tensor(2.0)) + dist.Normal(2.0, 1.0).log_prob(
        torch.from_numpy(data()["y"])).sum()  # fmt: skip
    assert float(log_joint) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("given", "options", "kind", "message"),
    [
        (data(), {"size": N}, SettingError, "leave size out"),
        ([data()], {}, DataError, "needs size="),
        (3.0, {"size": 3}, DataError, "not float"),
        ([data()], {"size": N, "batch_size": B}, SettingError, "sets the rows of each batch"),
        ([data()], {"size": 0}, SettingError, "size=0 is out of range"),
        ([data()], {"size": 2.5}, SettingError, "size=2.5 is out of range"),
        (Table(), {}, SettingError, "give batch_size"),
        (Table(), {"batch_size": B, "size": N}, SettingError, "leave size out"),
    ],
)  # fmt: skip
def test_data_and_settings_that_do_not_go_together(given, options, kind, message):
    with pytest.raises(kind, match=message):
        gb.svi(normal_mean, gb.guides.mean_field(normal_mean), given, steps=5, **options, **QUIET)


def test_names_that_the_model_does_not_take():
    with pytest.raises(DataError, match="'z', which the model does not take"):
        gb.svi(normal_mean, gb.guides.mean_field(normal_mean), [{"z": np.ones(B)}], size=N, steps=5,
               **QUIET)  # fmt: skip


def test_a_model_without_size_refuses_batches_but_not_all_rows():
    given = [{"y": data()["y"]}]
    with pytest.raises(SettingError, match="takes size=None"):
        gb.svi(
            without_size, gb.guides.mean_field(without_size), given, size=N + 1, steps=5, **QUIET
        )
    fit = gb.svi(without_size, gb.guides.mean_field(without_size), given, size=N, steps=5, **QUIET)
    assert np.isfinite(fit.history).all()
