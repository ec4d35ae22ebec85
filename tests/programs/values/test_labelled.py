"""pandas and xarray objects: their numbers, their labels, and what in them is no number."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from guidebook.errors import DataError
from guidebook.programs.values.labelled import columns_of, labels_of, numbers_in

STATES = ["AL", "AK"]
NUMBERS = {
    "a column": (pd.Series([1.5, 2.0]), [1.5, 2.0]),
    "whole numbers": (pd.Series([1, 2]), [1, 2]),
    "nullable": (pd.Series([1, 2], dtype="Int64"), [1, 2]),
    "of mixed types": (pd.DataFrame({"a": [1, 2], "b": [0.5, 1.0], "c": [True, False]}),
                       [[1, 0.5, 1], [2, 1, 0]]),
    "objects": (pd.Series([1, 2.5], dtype=object), [1, 2.5]),
    "xarray": (xr.DataArray([[1.0, 2.0]], dims=("a", "b")), [[1.0, 2.0]]),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read(case):
    value, expected = NUMBERS[case]
    found = numbers_in("x", value)
    assert found.dtype.kind in "if" and found.tolist() == expected


@pytest.mark.parametrize("value", [pd.Series([1.0, None]), pd.Series([1, None], dtype="Int64"),
                                   pd.Series([1, None], dtype=object)])  # fmt: skip
def test_what_is_missing_is_nan(value):
    np.testing.assert_array_equal(numbers_in("x", value), [1.0, np.nan])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.Series(["a", "b"]), r"'x' holds 'a'.*pandas.factorize"),
        (pd.Series(["a", "b"], dtype="category"), r"'x' holds 'a'.*pandas.factorize"),
        (pd.DataFrame({"n": [1], "word": ["a"]}), r"'x' holds 'a'"),
        (pd.Series(pd.date_range("2020", periods=2)), r"dates or times.*\.dt\.days"),
        (xr.DataArray(["a"]), r"'x' holds .*a"),
    ],
)
def test_words_categories_and_dates_are_refused_with_the_conversion(value, message):
    with pytest.raises(DataError, match=message):
        numbers_in("x", value)


def test_an_index_gives_labels():
    (found,) = labels_of(None, {"y": pd.Series([1.0, 2.0], index=pd.Index(STATES, name="state"))})
    assert (found[0], found[1].tolist()) == ("state", STATES)
    (found,) = labels_of(pd.DataFrame({"y": [1.0]}, index=[7]), {})
    assert (found[0], found[1].tolist()) == (None, [7])
    assert labels_of(None, {"y": pd.Series([1.0, 2.0]), "x": np.ones(2)}) == []


def test_dimensions_of_xarray_give_labels():
    one = xr.DataArray(np.ones((2, 3)), dims=("state", "year"), coords={"state": STATES})
    for data, values in ((None, {"y": one}), (xr.Dataset({"y": one}), {"y": one})):
        ((name, labels),) = labels_of(data, values)
        assert (name, labels.tolist()) == ("state", STATES)


def test_labels_can_be_kept_in_a_netcdf_file():
    index = pd.MultiIndex.from_tuples([("AL", 2020), ("AK", 2021)])
    ((_, labels),) = labels_of(None, {"y": pd.Series([1.0, 2.0], index=index)})
    assert labels.tolist() == ["AL / 2020", "AK / 2021"] and labels.dtype.kind == "U"


X, Z = pd.Series([1.0, 2.0], index=STATES), pd.Series([4.0, 3.0], index=STATES[::-1])
ALONG = xr.DataArray([1.0, 2.0], dims="state", coords={"state": STATES})


@pytest.mark.parametrize(
    ("x", "z", "refused"),
    [
        (X, Z, True), (X, Z.reindex_like(X), False), (X, Z.to_numpy(), False), (X, Z[:1], False),
        (X, pd.Series([4.0, 3.0]), False), (X, pd.Series([4.0, 3.0], index=["AZ", "AR"]), False),
        (pd.Series([1.0, 2.0]), pd.Series([4.0, 3.0], index=[1, 0]), True),
        (ALONG, ALONG[::-1], True), (ALONG, ALONG.rename(state="place")[::-1], False),
    ],
)  # fmt: skip
def test_the_same_labels_in_another_order_are_refused(x, z, refused):
    """Rows go by place: pandas and xarray would align them."""
    if not refused:
        labels_of(None, {"x": x, "z": z})
        return
    with pytest.raises(DataError, match=r"'x' and 'z' have the same labels.*z\.reindex_like\(x\)"):
        labels_of(None, {"x": x, "z": z})


def test_only_a_table_has_columns():
    assert columns_of(pd.Series([1.0])) is None and columns_of({"x": 1}) is None
    assert set(columns_of(pd.DataFrame({"x": [1.0], 2: [0.0]}))) == {"x", "2"}
