"""What a fit may be given as its data: each kind admitted or refused, without a fit."""

import numpy as np
import pytest
import torch

from guidebook.errors import DataError, SettingError
from guidebook.programs.batches.minibatches import MiniBatches
from guidebook.programs.batches.source import Source, admitted
from guidebook.programs.batches.stream import Stream

CPU = torch.device("cpu")
N, B = 12, 4
Y = np.arange(float(N))


def model(y=None, size=None):
    pass


def without_size(y=None):
    pass


class Table:
    names = ("y",)

    def __len__(self):
        return N

    def take(self, index):
        return {"y": Y[index]}


class Batches:
    """Three batches of four rows, counting those that are read."""

    def __init__(self, name="y"):
        self.name, self.read = name, 0

    def __iter__(self):
        for start in range(0, N, B):
            self.read += 1
            yield {self.name: Y[start : start + B]}


def batches(source, of=model):
    return source.batches(of, 0, torch.float64, CPU)


def admit(data, of=model, batch_size=None, size=None):
    return admitted(of, data, batch_size=batch_size, size=size)


def test_only_a_dict_is_held():
    data = {"y": Y}
    assert Source(data, None, None).held is data
    assert Source(Table(), B, None).held is None
    assert Source(Batches(), None, N).held is None


def test_a_dict_comes_at_once_or_by_mini_batches():
    whole = admit({"y": Y})
    assert (whole.held, whole.batch_size, whole.size) == ({"y": Y}, None, None)
    assert batches(whole) is None
    found = batches(admit({"y": Y, "unit": 2.0}, lambda y, unit, size=None: None, batch_size=B))
    assert isinstance(found, MiniBatches) and (found.count, found.batch_size) == (N, B)
    batch = found.batch(0)
    assert set(batch) == {"y", "unit", "size"} and batch["size"] == N and len(batch["y"]) == B
    assert set(found.batch(0)["y"].tolist()) <= set(Y.tolist())


def test_rows_that_are_read_come_by_mini_batches():
    found = batches(admit(Table(), batch_size=B))
    assert isinstance(found, MiniBatches) and (found.count, found.batch_size) == (N, B)
    assert found.head(3)["y"].tolist() == [0.0, 1.0, 2.0] and found.batch(0)["size"] == N


def test_an_iterable_comes_as_it_is_and_one_batch_is_read():
    given = Batches()
    found = batches(admit(given, size=N))
    assert isinstance(found, Stream) and (found.count, found.batch_size) == (N, B)
    assert given.read == 1
    assert found.batch(1)["y"].tolist() == Y[B : 2 * B].tolist() and found.batch(1)["size"] == N


def test_the_model_is_told_the_number_of_rows_only_where_it_takes_it():
    """Without `size` all rows at every step will do, and not one fewer."""
    given = [{"y": Y}]
    assert set(batches(admit(given, without_size, size=N), without_size).batch(0)) == {"y"}
    whole = batches(admit({"y": Y}, without_size, batch_size=N), without_size)
    assert set(whole.batch(0)) == {"y"}
    for source in (
        admit(given, without_size, size=N + 1),
        admit({"y": Y}, without_size, batch_size=N - 1),
        admit(Table(), without_size, batch_size=N - 1),
    ):
        with pytest.raises(SettingError, match="size=None"):
            batches(source, without_size)


def test_names_of_batches_are_those_of_the_model():
    with pytest.raises(DataError, match="'z', which the model does not take"):
        batches(admit(Batches("z"), size=N))
    with pytest.raises(DataError, match="'z', which the model does not take"):
        admit({"z": Y})


@pytest.mark.parametrize(
    ("given", "settings", "kind", "word"),
    [
        ({"y": Y}, {"size": N}, SettingError, f"size={N}"),
        (Table(), {}, SettingError, "take"),
        (Table(), {"batch_size": B, "size": N}, SettingError, "take"),
        ([{"y": Y}], {}, DataError, "list"),
        (3.0, {"size": 3}, DataError, "float"),
        ([{"y": Y}], {"size": N, "batch_size": B}, SettingError, f"batch_size={B}"),
        ([{"y": Y}], {"size": 0}, SettingError, "size=0"),
        ([{"y": Y}], {"size": 2.5}, SettingError, r"size=2\.5"),
        ([{"y": Y}], {"size": True}, SettingError, "size=True"),
    ],
)
def test_data_and_settings_that_do_not_go_together(given, settings, kind, word):
    with pytest.raises(kind, match=word):
        admit(given, **settings)


def test_a_data_set_may_have_one_row():
    assert admit([{"y": Y[:1]}], size=1).size == 1


APART = np.array([1, 5])
LEFT = np.delete(Y, APART)


def values(source, index=None):
    return {name: np.asarray(v) for name, v in source.whole(torch.float64, CPU, index).items()}


@pytest.mark.parametrize("data", [{"y": Y, "scale": 2.0}, Table()])
def test_rows_that_are_apart_are_not_among_all_of_them(data):
    table = isinstance(data, Table)
    whole, some = Source(data, B, None), Source(data, B, None, APART)
    np.testing.assert_array_equal(values(some)["y"], LEFT)
    for source in (whole, some):  # rows that are asked for may be those
        found = values(source, np.array([1, 3]))
        np.testing.assert_array_equal(found["y"], [1.0, 3.0])
        assert ("scale" in found) != table
    assert ("scale" in values(some)) != table


def test_an_iterable_has_no_rows():
    assert Source(Batches(), None, N).rows is None
    assert Source(Table(), B, None).rows is not None


def test_mini_batches_are_drawn_of_the_rows_that_are_not_apart():
    for apart, rows in ((None, N), (APART, N - 2)):
        assert len(batches(Source({"y": Y}, B, None, apart)).rows) == rows


def test_data_without_rows_apart_are_given_as_they_are():
    y = torch.arange(float(N), dtype=torch.float64)
    found = Source({"y": y}, None, None).whole(torch.float64, CPU)
    assert found["y"].data_ptr() == y.data_ptr()
