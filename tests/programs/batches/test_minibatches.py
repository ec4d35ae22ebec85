"""Mini-batches drawn by a seed: each row once an epoch, the scaled sum unbiased."""

import numpy as np
import pytest
import torch

from guidebook.errors import DataError, SettingError
from guidebook.programs.batches import minibatches
from guidebook.programs.batches.minibatches import Checked, MiniBatches
from guidebook.programs.rows import ArrayRows

CPU = torch.device("cpu")


def batches(data, batch_size, seed=3):
    rows = ArrayRows(data)
    return MiniBatches(
        rows, {**rows.whole, "size": len(rows)}, batch_size, seed, torch.float64, CPU
    )


def test_an_epoch_shows_every_row_once():
    data = {"x": np.arange(20.0), "unit": np.array([1.0, 2.0])}
    rows = batches(data, 5)
    first = [rows.batch(step) for step in range(4)]
    assert sorted(np.concatenate([b["x"] for b in first])) == list(range(20))
    assert all(batch["size"] == 20 for batch in first)
    assert all(torch.equal(b["unit"], torch.tensor([1.0, 2.0], dtype=torch.float64)) for b in first)
    again = batches(data, 5)
    assert torch.equal(again.batch(2)["x"], first[2]["x"])
    assert not torch.equal(rows.batch(4)["x"], first[0]["x"])


@pytest.mark.parametrize("permuted", [True, False])
def test_the_scaled_sum_of_a_batch_is_unbiased(permuted, monkeypatch):
    """N/|B| sum_B x_i against sum x_i over 4,000 steps, 4 standard errors: false alarm 6e-5.

    The scaled sums of an epoch of all rows are exact together, so the epochs leave rows out here.
    """
    if not permuted:
        monkeypatch.setattr(minibatches, "PERMUTED_ROWS", 0)
    x = np.random.default_rng(0).exponential(size=23)
    rows = batches({"x": x}, 7)
    sums = np.array([float(rows.batch(step)["x"].sum()) * 23 / 7 for step in range(4000)])
    error = sums.std() / np.sqrt(len(sums))  # too large for permuted rows, never too small
    assert abs(sums.mean() - x.sum()) < 4 * error
    assert sums.std() > 0.1


def test_a_sample_is_all_rows_or_rows_of_the_data():
    rows = batches({"x": np.arange(30.0)}, 4)
    assert rows.sample(30, 0)["x"].tolist() == list(range(30))
    assert rows.sample(40, 0)["x"].tolist() == list(range(30))
    few = rows.sample(10, 0)["x"]
    assert len(few) == 10
    assert set(few.tolist()) <= set(range(30))
    assert len(rows.sample(2, 0)["x"]) == 4  # at least a batch
    assert rows.head(3)["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("batch_size", [0, -1, 21])
def test_a_batch_size_out_of_range(batch_size):
    with pytest.raises(SettingError, match="20 rows"):
        batches({"x": np.arange(20.0)}, batch_size)


class Table:
    """Rows that can only be read rising and once each, as those of an HDF5 file."""

    names = ("x", "y")

    def __init__(self, n=12, spoil=None):
        self.values, self.spoil = np.arange(float(n)), spoil

    def __len__(self):
        return len(self.values)

    def take(self, index):
        assert (np.diff(index) > 0).all()
        found = {"x": self.values[index], "y": torch.from_numpy(10 * self.values[index])}
        return self.spoil(found) if self.spoil else found


def test_rows_that_are_read_come_as_those_of_tensors():
    """The same batches, bit for bit, as those of the same numbers in tensors."""
    x = torch.arange(12.0, dtype=torch.float64)
    ours = MiniBatches(Checked(Table()), {}, 5, 3, torch.float64, CPU)
    theirs = batches({"x": x, "y": 10 * x}, 5)
    for step in (0, 1, 5):
        assert torch.equal(ours.batch(step)["x"], theirs.batch(step)["x"])
        assert torch.equal(ours.batch(step)["y"], theirs.batch(step)["y"])
    index = np.array([3, 1, 3])
    assert Checked(Table()).take(index)["x"].tolist() == [3, 1, 3]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda found: {"x": found["x"]}, r"returned \['x'\]"),
        (lambda found: {**found, "y": found["y"][:1]}, r"'y' of shape \(1,\) for 4 rows"),
        (lambda found: {**found, "y": 1.0}, r"'y' of shape \(\)"),
        (lambda found: {**found, "x": found["x"] * np.nan}, "'x' holds NaN"),
    ],
)
def test_rows_that_are_read_are_checked(spoil, message):
    with pytest.raises(DataError, match=message):
        Checked(Table(spoil=spoil)).take(np.arange(4))


@pytest.mark.parametrize("batch_size", [1, 20])
def test_a_batch_may_be_one_row_or_all(batch_size):
    rows = batches({"x": np.arange(20.0)}, batch_size)
    seen = np.concatenate([rows.batch(step)["x"] for step in range(20 // batch_size)])
    assert sorted(seen) == list(range(20))


def test_a_step_of_any_epoch_may_come_first():
    for step in (4, 8, 11):
        first = batches({"x": np.arange(20.0)}, 5)
        in_order = batches({"x": np.arange(20.0)}, 5)
        seen = [in_order.batch(k)["x"].tolist() for k in range(step + 1)]
        assert first.batch(step)["x"].tolist() == seen[step] and len(seen[step]) == 5


class Many:
    """So many rows, of which none is held."""

    names = ()

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def take(self, index):
        return {}


def test_beyond_two_million_rows_no_order_of_them_is_kept():
    for count, kept in ((2_000_000, 2_000_000), (2_000_001, 0)):
        rows = MiniBatches(Many(count), {}, 100, 0, torch.float64, CPU)
        assert len(rows.indices(3)) == 100 and len(rows._order) == kept
