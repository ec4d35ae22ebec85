"""An iterable of batches: the steps in order, pass after pass, with random numbers of its own."""

from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from guidebook.errors import DataError, SettingError
from guidebook.programs.batches.stream import Stream

CPU = torch.device("cpu")


class Numbers(Dataset):
    """Items {"x": i}."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"x": float(i)}


def loader(n=12, batch_size=4, **options):
    return DataLoader(Numbers(n), batch_size=batch_size, **options)


def model(x=None, y=None, size=None):
    pass


def stream(batches, size=12, seed=0):
    return Stream(batches, size, {"size": size}, seed, torch.float64, CPU, model)


def rows(found):
    return [int(value) for value in found["x"]]


def test_steps_go_through_the_passes_in_order():
    batches = stream(loader())
    seen = [rows(batches.batch(step)) for step in range(7)]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]] * 2 + [[0, 1, 2, 3]]
    assert batches.batch_size == 4
    assert batches.batch(2)["size"] == 12
    assert batches.batch(2)["x"].dtype is torch.float64


def test_a_batch_may_hold_the_arguments_in_their_order():
    """As a DataLoader of a TensorDataset gives them, a list; and as a tuple."""
    given = TensorDataset(torch.arange(12.0), torch.arange(12.0) ** 2)
    for batches in (DataLoader(given, batch_size=4), [given[:4], given[4:8], given[8:]]):
        found = stream(batches).batch(1)
        assert (found["x"] ** 2).tolist() == found["y"].tolist() == [16.0, 25.0, 36.0, 49.0]


def test_batches_may_hold_more_than_arrays():
    """What is beside them must be the same in every batch, tensor by tensor."""
    batches = stream(
        [{"x": [1.0, 2.0], "y": [torch.ones(3)]}, {"x": [1.0, 2.0], "y": [torch.zeros(3)]}]
    )
    assert batches.batch(1)["y"][0].tolist() == [0.0, 0.0, 0.0]
    other = stream(
        [{"x": [1.0, 2.0], "y": [torch.ones(3)]}, {"x": [1.0, 2.0], "y": [torch.ones(4)]}]
    )
    with pytest.raises(DataError, match="Batch 2 of pass 1 has 'y'"):
        other.batch(1)


def test_a_step_is_the_same_whenever_it_is_asked_for():
    batches = stream(loader(shuffle=True))
    seen = [rows(batches.batch(step)) for step in range(8)]
    assert rows(batches.batch(7)) == seen[7]
    assert rows(batches.batch(0)) == seen[0]
    assert rows(batches.batch(5)) == seen[5]
    assert rows(batches.batch(7)) == seen[7]
    assert rows(stream(loader(shuffle=True)).batch(6)) == seen[6]


def test_the_seed_decides_the_shuffling_and_every_pass_has_its_own():
    seen = [rows(stream(loader(shuffle=True), seed=1).batch(step)) for step in range(6)]
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == list(range(12))
    assert seen[:3] != seen[3:]
    assert seen[0] != rows(stream(loader(shuffle=True), seed=2).batch(0))


def test_the_random_numbers_of_the_fit_are_left_alone():
    torch.manual_seed(5)
    expected = torch.randn(4)
    torch.manual_seed(5)
    batches = stream(loader(shuffle=True))
    drawn = [torch.randn(1)]
    for step in range(1, 4):
        batches.batch(step)
        drawn.append(torch.randn(1))
    assert torch.equal(torch.cat(drawn), expected)


def test_a_sample_is_the_first_batches_and_moves_nothing():
    batches = stream(loader())
    assert rows(batches.sample(2, 0)) == [0, 1, 2, 3]
    assert rows(batches.sample(5, 0)) == list(range(8))
    assert rows(batches.sample(1000, 0)) == list(range(12))
    assert batches.sample(1000, 0)["size"] == 12
    assert rows(batches.batch(1)) == [4, 5, 6, 7]


def test_the_head_is_what_was_read():
    batches = stream(loader())
    assert rows(batches.head(4)) == rows(batches.head(1000)) == [0, 1, 2, 3]
    batches.batch(4)
    assert rows(batches.head(1000)) == list(range(12))
    batches.batch(1)
    batches.batch(5)
    assert rows(batches.head(1000)) == list(range(12))
    assert len(stream(loader(n=600, batch_size=300), size=600).head(600)["x"]) == 300


def test_what_every_batch_holds_whole_is_not_joined():
    given = [{"x": np.arange(4.0), "unit": np.array([1.0, 2.0]), "k": 3} for _ in range(3)]
    found = stream(given).sample(12, 0)
    assert len(found["x"]) == 12
    assert found["unit"].tolist() == [1.0, 2.0]
    assert found["k"] == 3


def test_a_loader_that_leaves_rows_out_stands_for_all():
    assert stream(loader(n=14, drop_last=True), size=14).count == 14


class Fading:
    """Gives batches the first time only."""

    def __init__(self):
        self.times = 0

    def __iter__(self):
        self.times += 1
        return iter([{"x": np.arange(4.0)}] * (3 if self.times == 1 else 0))


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (lambda: (batch for batch in loader()), DataError, "generator, which can be read only once"),
        (list, DataError, "yielded no batch in pass 1"),
        (Fading, DataError, "yielded no batch in pass 2"),
        (lambda: [torch.ones(2)], DataError, "Batch 1 of pass 1: it is a Tensor, and must be a dict"),
        (lambda: [(1.0, 2.0, 12, 4)], DataError, "Batch 1 of pass 1: data holds 4 positional arguments"),
        (lambda: [{"x": [1.0, 2.0]}, {"y": [1.0, 2.0]}], DataError, r"Batch 2 of pass 1 holds \['y'\]"),
        (lambda: loader(n=10), DataError, r"Batch 3 of pass 1 has 'x'.*drop_last=True"),
        (lambda: [{"x": [1.0, 2.0]}, {"x": [1.0, np.nan]}], DataError,
         r"Batch 2 of pass 1: 'x' holds NaN at index \(1,\)"),
        (lambda: [{"x": [1.0], "k": 1}, {"x": [1.0], "k": 2}], DataError, "Batch 2 of pass 1 has 'k'"),
        (lambda: loader(n=16), SettingError, "size=12 is smaller than the 16 rows"),
        (lambda: [{"x": np.zeros((0, 3))}], DataError, "Batch 1 of pass 1: 'x' is empty"),
    ],
)  # fmt: skip
def test_bad_batches(given, kind, message):
    with pytest.raises(kind, match=message):
        stream(given()).batch(20)


class Counted:
    """Batches of so many rows each, counting the passes that were begun."""

    def __init__(self, number, rows):
        self.given = [{"x": np.arange(rows) + float(rows * i)} for i in range(number)]
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter(self.given)


def test_the_batch_asked_for_last_is_not_read_again():
    given = Counted(3, 4)
    batches = stream(given)
    first = batches.batch(2)
    assert batches.batch(2) is first and given.passes == 1
    batches.batch(1)
    assert given.passes == 2


def test_a_head_of_a_batch_is_the_first_batch():
    batches = stream(Counted(3, 4))
    batches.batch(2)
    assert batches.head(4) is batches.head(1) is batches.first
    assert rows(batches.head(5)) == list(range(12))


def test_a_head_is_of_five_hundred_rows():
    batches = stream(Counted(14, 50), size=700)
    batches.batch(13)
    assert rows(batches.head(1000)) == list(range(500))


def test_a_sample_reads_no_more_than_it_needs():
    given = Counted(3, 4)
    batches = stream(given)
    assert batches.sample(4, 0) is batches.first and given.passes == 1
    assert rows(batches.sample(8, 0)) == list(range(8)) and given.passes == 2
    assert rows(batches.sample(9, 0)) == list(range(12))
