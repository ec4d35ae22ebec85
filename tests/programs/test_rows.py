"""Rows of arrays and of mapped files: the right ones, together, each once."""

import numpy as np
import pytest
import torch

from guidebook.programs.rows import ArrayRows, Rows, RowsLeft, chunks, some_rows

CPU = torch.device("cpu")


def mapped(tmp_path, values):
    """The values as a read-only memory-mapped .npy file."""
    path = tmp_path / "rows.npy"
    np.save(path, values)
    return np.load(path, mmap_mode="r")


def test_arrays_are_rows():
    assert isinstance(ArrayRows({"x": np.zeros(3)}), Rows)
    assert not isinstance({"x": np.zeros(3)}, Rows)


def test_what_has_another_length_goes_whole():
    rows = ArrayRows({"x": np.zeros((4, 2)), "prior": np.ones(2), "sigma": 0.5, "y": [1, 2, 3, 4]})
    assert len(rows) == 4
    assert set(rows.names) == {"x", "y"}
    assert set(rows.whole) == {"prior", "sigma"}


@pytest.mark.parametrize("kinds", [("tensor", "tensor"), ("array", "array"), ("tensor", "array"),
                                   ("array", "map"), ("tensor", "map"), ("tensor", "list")])  # fmt: skip
def test_rows_of_different_arrays_belong_together(tmp_path, kinds):
    """Column by column the same permutation: y_i = 10 x_i holds for every row that is taken."""
    x = np.arange(7.0)
    make = {
        "tensor": torch.from_numpy, "array": np.array, "list": list,
        "map": lambda values: mapped(tmp_path, values),
    }  # fmt: skip
    rows = ArrayRows({"x": make[kinds[0]](x), "y": make[kinds[1]](10 * x)})
    index = np.array([5, 0, 6, 2])
    found = rows.take(index)
    assert torch.equal(found["y"], 10 * found["x"])
    assert sorted(found["x"].tolist()) == sorted(index.tolist())


def test_rows_of_a_map_are_those_of_the_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3, 2))
    index = np.array([0, 3, 49])
    found = ArrayRows({"x": mapped(tmp_path, values)}).take(index)["x"]
    np.testing.assert_array_equal(found.numpy(), values[index])


def test_rows_of_a_map_whose_file_was_replaced_are_those_of_the_map(tmp_path):
    values = np.random.default_rng(0).normal(size=(50, 3))
    array = mapped(tmp_path, values)
    (tmp_path / "rows.npy").unlink()
    found = ArrayRows({"x": array}).take(np.array([1, 4]))["x"]
    np.testing.assert_array_equal(found.numpy(), values[[1, 4]])


def test_taken_rows_are_copies():
    x = torch.zeros(4)
    ArrayRows({"x": x}).take(np.array([1, 2]))["x"].fill_(7.0)
    assert torch.equal(x, torch.zeros(4))


@pytest.mark.parametrize("size", [1, 3, 7, 8, 100])
def test_chunks_are_all_rows_once_and_in_order(size):
    data = {"x": np.arange(7.0), "y": torch.arange(7), "prior": np.ones(2)}
    pieces = list(chunks(data, size, CPU))
    assert torch.cat([piece["x"] for piece in pieces]).tolist() == list(range(7))
    assert torch.cat([piece["y"] for piece in pieces]).tolist() == list(range(7))
    assert all(len(piece["x"]) <= size for piece in pieces)
    assert all(torch.equal(piece["prior"], torch.ones(2).double()) for piece in pieces)


@pytest.mark.parametrize("kind", [np.array, torch.from_numpy])
def test_some_rows_are_different_rows_and_belong_together(kind):
    x = np.arange(1000.0)
    data = {"x": kind(x), "y": kind(2 * x), "sigma": 3.0}
    found = some_rows(data, 100, 0, CPU)
    assert len(set(found["x"].tolist())) == 100
    assert torch.equal(found["y"], 2 * found["x"])
    assert found["sigma"] == 3.0
    assert not torch.equal(found["x"], some_rows(data, 100, 1, CPU)["x"])


def test_some_rows_are_drawn_evenly():
    """Mean row number of 200 draws of 20 out of 1,000: 4 standard errors, false alarm 6e-5."""
    data = {"x": np.arange(1000.0)}
    means = [float(some_rows(data, 20, seed, CPU)["x"].mean()) for seed in range(200)]
    error = np.sqrt((1000**2 - 1) / 12 / 20 * (980 / 999) / 200)  # without replacement
    assert abs(np.mean(means) - 499.5) < 4 * error


def test_few_rows_are_all_rows():
    data = {"x": np.arange(5.0)}
    assert some_rows(data, 5, 0, CPU)["x"].tolist() == [0, 1, 2, 3, 4]


def test_rows_of_tensors_come_in_the_order_asked_for_and_those_of_files_rising(tmp_path):
    x, index = np.arange(7.0), np.array([5, 0, 6, 2])
    tensors = ArrayRows({"x": torch.from_numpy(x), "y": torch.arange(7)}).take(index)
    assert tensors["x"].tolist() == tensors["y"].tolist() == [5, 0, 6, 2]
    for other in (x, mapped(tmp_path, x)):
        both = ArrayRows({"x": torch.from_numpy(x), "y": other}).take(index)
        assert both["x"].tolist() == both["y"].tolist() == [0, 2, 5, 6]


def test_tensors_that_numpy_does_not_know_are_rows():
    x = torch.arange(8, dtype=torch.bfloat16)
    assert ArrayRows({"x": x}).take(np.array([3, 1]))["x"].tolist() == [3, 1]
    assert len(some_rows({"x": x}, 3, 0, CPU)["x"]) == 3


@pytest.fixture
def only_the_file(monkeypatch):
    """Rows that are taken from a map by its index fail."""

    def refused(*_):
        raise AssertionError("rows were read by way of the map")

    monkeypatch.setattr(np.memmap, "__getitem__", refused)


def maps(tmp_path):
    """Maps of 3-by-2 rows: a whole .npy file, a part of it, raw numbers from an offset on."""
    values = np.random.default_rng(0).normal(size=(50, 3, 2))
    whole = mapped(tmp_path, values)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(5000) + values.tobytes())
    offset = np.memmap(raw, values.dtype, "r", offset=5000, shape=values.shape)
    later = np.memmap(raw, values.dtype, "r", offset=5000 + 48 * 7, shape=(43, 3, 2))
    return [(whole, values), (whole[10:], values[10:]), (offset, values), (later, values[7:])]


def test_rows_of_a_map_are_read_from_its_file(tmp_path, request):
    given, index = maps(tmp_path), np.array([0, 3, 39])
    request.getfixturevalue("only_the_file")
    for array, values in given:
        found = ArrayRows({"x": array}).take(index)["x"]
        np.testing.assert_array_equal(found.numpy(), values[index])
        few = some_rows({"x": array}, 5, 0, CPU)["x"]
        assert {tuple(v.ravel()) for v in few.numpy()} <= {tuple(v.ravel()) for v in values}
        assert few.shape == (5, 3, 2)


def test_rows_of_other_maps_are_those_of_the_map(tmp_path):
    """A map that was changed in memory, one whose rows are not in a row, and no rows at all."""
    values = np.random.default_rng(0).normal(size=(6, 4))
    array = mapped(tmp_path, values)
    np.testing.assert_array_equal(
        ArrayRows({"x": array.T[:, :4]}).take(np.array([1, 3]))["x"], values.T[[1, 3], :4]
    )
    assert ArrayRows({"x": array}).take(np.array([], int))["x"].shape == (0, 4)
    copied = np.load(tmp_path / "rows.npy", mmap_mode="c")
    copied[2] = 7.0
    assert ArrayRows({"x": copied}).take(np.array([2]))["x"].tolist() == [[7.0] * 4]


@pytest.mark.parametrize("apart", [[0], [6], [0, 1, 2], [2, 3, 6], [0, 1, 2, 3, 4, 5]])
def test_rows_that_are_left_are_the_others_in_their_order(apart):
    rows = RowsLeft(ArrayRows({"x": np.arange(7)}), np.array(apart))
    left = np.delete(np.arange(7), apart)
    assert len(rows) == len(left) and rows.names == ("x",)
    np.testing.assert_array_equal(rows.take(np.arange(len(left)))["x"], left)
    np.testing.assert_array_equal(rows.take(np.array([len(left) - 1]))["x"], left[-1:])
