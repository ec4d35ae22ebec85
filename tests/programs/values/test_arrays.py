"""What becomes a tensor, what goes to the model as it is, and what is refused."""

import collections
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import torch
from torch.nn.utils.rnn import pack_sequence

from guidebook.errors import DataError
from guidebook.programs.values import arrays
from guidebook.programs.values.arrays import (
    arrays_in,
    as_tensor,
    forget_pages,
    is_array,
    not_finite,
    plain,
)

CPU = torch.device("cpu")
Pair = collections.namedtuple("Pair", "loc size")


def read(value):
    return as_tensor(value, torch.float64, CPU, "x")


NUMBERS = {
    "a list": ([0.5, 2.0], [0.5, 2.0], torch.float64),
    "a list of lists": ([[1, 2], [3, 4]], [[1, 2], [3, 4]], torch.int64),
    "a list of booleans": ([True, False], [True, False], torch.bool),
    "a list of NumPy's numbers": ([np.float32(0.5), np.float64(2)], [0.5, 2.0], torch.float64),
    "a list of fractions": ([Fraction(1, 2), Decimal(2)], [0.5, 2.0], torch.float64),
    "big-endian": (np.array([0.5, 2.0], dtype=">f4"), [0.5, 2.0], torch.float64),
    "big-endian whole numbers": (np.array([1, 258], dtype=">i4"), [1, 258], torch.int32),
    "half precision": (np.array([0.5, 2.0], dtype=np.float16), [0.5, 2.0], torch.float64),
    "more than double precision": (np.array([0.5, 2.0], dtype=np.longdouble), [0.5, 2.0], torch.float64),
    "unsigned": (np.array([1, 60_000], dtype=np.uint16), [1, 60_000], torch.int64),
    "bytes": (np.array([1, 200], dtype=np.uint8), [1, 200], torch.uint8),
    "objects that are numbers": (np.array([1, 2.5], dtype=object), [1.0, 2.5], torch.float64),
    "objects that are whole": (np.array([1, 2], dtype=object), [1, 2], torch.int64),
    "bfloat16": (torch.tensor([0.5, 2.0], dtype=torch.bfloat16), [0.5, 2.0], torch.float64),
    "complex": (np.array([1j]), [1j], torch.complex128),
    "masked nowhere": (np.ma.masked_array([0.5, 2.0], mask=[0, 0]), [0.5, 2.0], torch.float64),
    "read backwards": (np.array([2.0, 0.5])[::-1], [0.5, 2.0], torch.float64),
}  # fmt: skip


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_become_a_tensor(case):
    value, expected, dtype = NUMBERS[case]
    found = read(value)
    assert found.dtype is dtype and found.tolist() == expected
    assert is_array(plain("x", value))


def a_function():
    return 1.0


UNTOUCHED = [
    (3, 4), (), (1.0, 2.0), "word", None, 2, 0.5, a_function, ["a", "b"], [], [[1.0], [1.0, 2.0]],
    [[], []], {"hidden": [3, 4]}, {1, 2}, ["a", 1.0], range(3), torch.Size([2]), [None, None],
]  # fmt: skip


@pytest.mark.parametrize("value", UNTOUCHED, ids=[type(v).__name__ for v in UNTOUCHED])
def test_everything_else_goes_to_the_model_as_pyro_passes_it(value):
    found = read(value)
    assert type(found) is type(value) and found == value
    assert not is_array(value)


def test_words_and_dates_in_an_array_go_as_they_are():
    for value in (
        np.array(["a", "b"]),
        np.array(["a", None], dtype=object),
        np.array(["2020"], "M8[D]"),
    ):
        assert read(value) is value and not is_array(value)


def test_tensors_in_containers_get_dtype_and_device():
    ragged = [torch.ones(2), torch.ones(3)]
    found = read(
        {"ys": ragged, "k": torch.tensor(1), "pair": Pair(np.ones(1), (2, 3)), "n": [1, 2]}
    )
    assert [y.dtype for y in found["ys"]] == [torch.float64] * 2
    assert found["k"].dtype is torch.int64 and found["n"] == [1, 2]
    assert type(found["pair"]) is Pair and found["pair"].size == (2, 3)
    assert found["pair"].loc.dtype is torch.float64
    assert ragged[0].dtype is torch.float32


def test_a_packed_sequence_keeps_its_batch_sizes():
    packed = pack_sequence([torch.ones(3), torch.zeros(2)])
    found = read(packed)
    assert found.data.dtype is torch.float64 and found.data.tolist() == packed.data.tolist()
    assert found.batch_sizes.dtype is torch.int64


def test_a_tensor_is_detached_and_an_array_copied():
    given = torch.ones(2, requires_grad=True)
    assert not read(given).requires_grad
    array = np.ones(2)
    read(array).fill_(3.0)
    assert array.tolist() == [1.0, 1.0]


MASKED = np.ma.masked_array([1.0, -999.0], mask=[0, 1])
REFUSED = {
    "masked": (
        lambda: MASKED,
        r"1 of its values are masked, the first at index \(1,\).*compressed.*filled",
    ),
    "sparse": (
        lambda: torch.eye(2).to_sparse(),
        r"sparse tensor \(sparse_coo\): give x\.to_dense\(\)",
    ),
    "sparse rows": (lambda: torch.eye(2).to_sparse_csr(), r"sparse_csr"),
    "sparse, SciPy": (lambda: scipy.sparse.eye(2), r"give x\.toarray\(\)"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        r"x\.unbind\(\)",
    ),
    "None among numbers": (lambda: [1.0, None], r"'x' holds None at index \(1,\)"),
    "None among numbers, array": (
        lambda: np.array([[1.0, None]], dtype=object),
        r"None at index \(0, 1\)",
    ),
    "a word among numbers, array": (
        lambda: np.array([1.0, "?"], dtype=object),
        r"'\?' at index \(1,\)",
    ),
    "masked, in a dict": (lambda: {"y": MASKED}, r"'x\['y'\]' is a masked array"),
    "beyond 64 bits": (lambda: np.array([2**63], dtype=np.uint64), r"below 2\^63"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_cannot_be_read_without_a_guess_is_refused(case):
    value, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        read(value())


def test_the_places_that_are_not_finite(monkeypatch):
    """In blocks of rows, in order, at most so many; whole numbers and bfloat16 too."""
    monkeypatch.setattr(arrays, "BLOCK", 3)
    x = np.zeros((8, 2))
    assert list(not_finite(x, 5)) == []
    x[7, 1], x[1, 0] = np.nan, -np.inf
    assert list(not_finite(x, 5)) == [((1, 0), "-inf"), ((7, 1), "NaN")]
    assert list(not_finite(torch.from_numpy(x))) == [((1, 0), "-inf")]
    assert list(not_finite(torch.tensor(float("nan")), 2)) == [((), "NaN")]
    assert list(not_finite(torch.tensor([1.0, np.nan], dtype=torch.bfloat16))) == [((1,), "NaN")]
    assert list(not_finite(np.arange(4))) == []


def test_arrays_are_found_wherever_they_lie():
    value = {"a": [np.ones(1), "b"], "c": (torch.ones(2), 3)}
    assert [name for name, _ in arrays_in("x", value)] == ["x['a'][0]", "x['c'][0]"]


def test_pages_that_are_given_back_are_read_again(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10_000.0))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert mapped.sum() == 49_995_000
    forget_pages(mapped)
    forget_pages(np.zeros(3))  # nothing to give back
    assert mapped.sum() == 49_995_000


def test_what_was_changed_in_a_map_in_memory_alone_stays(tmp_path):
    """Its pages are the only copy: given back to the system they were zeros again."""
    np.save(tmp_path / "x.npy", np.zeros(1000))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    mapped[3] = 7.0
    forget_pages(mapped)
    assert mapped[3] == 7.0
