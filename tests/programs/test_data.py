"""The user's data: names, values, tensors, rows, device."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from guidebook.errors import DataError, SettingError
from guidebook.programs.data import (
    arguments,
    as_mapping,
    as_tensors,
    check,
    find_device,
    has_rows,
    number_of_rows,
    takes,
)

CPU = torch.device("cpu")


def model(x, y=None, *, size=None):
    return x, y, size


def test_names_that_fit_come_back_as_a_new_dict():
    given = {"x": 1, "y": 2}
    found = arguments(model, given)
    assert found == given
    assert found is not given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "must be a dict of the model's keyword arguments, not list"),
        ({"x": 1, "yy": 2}, "'yy'.*Did you mean y"),
        ({"x": 1, "quantity": 2}, r"'quantity'.*It takes \['x', 'y', 'size'\]"),
        ({"y": 1}, r"needs \['x'\]"),
        ((), r"needs \['x'\]"),
        ((1, 2, 3), r"holds 3 positional arguments, and the model takes \['x', 'y'\] by name"),
        ({"x": 1, "guide": 2}, "an argument 'guide', and so have Pyro's objectives.*rename it"),
        (pd.DataFrame({"x": [1.0], "z": [2.0]}), r"'z'.*Choose the columns: data\[\["),
        (pd.DataFrame([[1.0, 2.0]], columns=["x", "x"]), "several columns called 'x'"),
    ],
)
def test_names_that_do_not_fit(given, message):
    with pytest.raises(DataError, match=message):
        arguments(model, given)


def test_a_tuple_stands_for_positional_arguments():
    """As in svi.step(x, y); one of batches, which come with their number of rows, stays one."""
    assert arguments(model, (1, 2)) == {"x": 1, "y": 2}
    assert as_mapping(model, (1,)) == {"x": 1}
    assert as_mapping(model, [1, 2]) is None


def test_a_table_stands_for_its_columns():
    table = pd.DataFrame({"x": [1.0, 2.0], "y": [3, 4]})
    found = arguments(model, table)
    assert arguments(model, table.to_xarray()).keys() == found.keys()
    assert {n: (type(v), v.tolist()) for n, v in found.items()} == {
        "x": (np.ndarray, [1.0, 2.0]), "y": (np.ndarray, [3, 4])
    }  # fmt: skip


def test_what_says_nothing_of_its_arguments_takes_all():
    assert arguments(lambda **data: None, {"anything": 1}) == {"anything": 1}
    assert arguments(functools.partial(model, x=1), {"y": 2}) == {"y": 2}


def test_takes_reads_functions_and_modules():
    class Module(nn.Module):
        def forward(self, x, size=None):
            return x

    assert takes(model, "size")
    assert takes(Module(), "size")
    assert not takes(Module(), "y")
    assert not takes(lambda x: x, "size")


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list])
@pytest.mark.parametrize(("bad", "word"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_the_first_value_that_is_not_finite_is_named(kind, bad, word):
    with pytest.raises(DataError, match=rf"'x' holds {word} at index \(2,\)"):
        check({"x": kind([0.0, 1.0, bad, bad])})


def test_whole_numbers_words_and_plain_values_are_not_looked_at():
    check({"k": [1, 2], "flag": np.array([True]), "n": 3, "name": "x", "sigma": float("nan")})


def test_data_without_any_row_are_refused():
    """A matrix without columns has rows, and an index of nothing stands beside an array that has some."""
    with pytest.raises(DataError, match=r"'x' is empty \(shape \(0, 3\)\)"):
        check({"x": np.zeros((0, 3)), "n": 4})
    check(
        {"x": torch.zeros(12, 0), "y": torch.zeros(12), "missing": torch.zeros(0, dtype=torch.long)}
    )


def test_tensors_of_every_kind():
    found = as_tensors(
        {"a": [1.0, 2.0], "b": np.array([1, 2]), "c": torch.ones(2), "d": "word", "e": 0.5},
        torch.float64, CPU,
    )  # fmt: skip
    assert found["a"].dtype is found["c"].dtype is torch.float64
    assert found["b"].dtype is torch.int64
    assert (found["d"], found["e"]) == ("word", 0.5)


def test_the_number_of_rows_is_the_longest_first_dimension():
    given = {"x": np.zeros((5, 9)), "w": torch.zeros(3), "s": 2.0, "zero": torch.tensor(1.0)}
    assert number_of_rows(given) == 5
    assert number_of_rows({"s": 2.0}) == 0
    assert has_rows(given["x"], 5)
    assert not has_rows(given["w"], 5)
    assert not has_rows(given["zero"], 1)
    assert not has_rows("words", 5)


def test_the_device_is_that_of_the_data_or_the_one_asked_for():
    assert find_device(None, {"x": np.zeros(2)}) == CPU
    assert find_device(None, [1, 2]) == CPU
    assert find_device("cpu", {"x": torch.zeros(2)}) == CPU
    assert find_device(None, {"x": torch.zeros(2, device="meta")}).type == "meta"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5])
def test_a_device_that_is_not_there(device):
    with pytest.raises(SettingError, match=r"cannot be used .* Available: cpu"):
        find_device(device, {})
