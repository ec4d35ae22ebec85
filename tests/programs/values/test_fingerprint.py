"""Equal values have one checksum; other values have another."""

from collections import namedtuple
from itertools import combinations

import numpy as np
import torch

from guidebook.programs.values.fingerprint import BYTES, fingerprint

Pair = namedtuple("Pair", "a b")


def made(constant: object, default: int = 1, other: bool = False):
    def function(x: float, factor: int = default) -> object:
        return (x, constant, {"a", "b"}) if other else (x, factor, constant)

    return function


class Thing:
    def __init__(self, value: object) -> None:
        self.value = value


def values() -> list[object]:
    """Values no two of which are the same, made anew at every call."""
    long = np.arange(40_000)
    late = long.copy()
    late[39_000] = -1
    return [
        None, True, 1, 1.0, 0.0, -0.0, float("nan"), "1", "", b"1", 1j,
        [1, 2], (1, 2), [1, [2]], [[1], 2], {1, 2}, {"a": 1}, {"a": 2}, {"a": 1, "b": 1}, {"b": 1, "a": 1},
        Pair(1, 2), slice(1, 2), range(2), torch.Size([1, 2]), {"x", "y", "z"}, frozenset("xyz"),
        long, late, long.astype(np.float64), long.reshape(200, 200), long[:0], long[:0].reshape(0, 2),
        np.array(["a", "b"]), np.array(["a", "c"]), np.array([1, None]), np.array([1, "x"], dtype=object),
        torch.from_numpy(long), torch.from_numpy(late), torch.tensor(1.0), torch.ones(1), torch.ones(1, 1),
        torch.ones(2, dtype=torch.bfloat16), torch.tensor([1.0, 2.0]).bfloat16(), torch.ones(1).double(),
        torch.ones(2).to_sparse(), np.float32(1), np.float64(1), np.datetime64("2000-01-01"),
        made(1), made(2), made(1, 2), made(1, other=True), made([1]), Thing(1), Thing(2), Thing(Thing(1)),
        torch.nn.Parameter(torch.full((1,), 3.0)), np, Thing, len, int, "s".join, Thing(made(3)),
    ]  # fmt: skip


def test_equal_values_have_one_checksum_and_others_another():
    one, two = [[fingerprint(value) for value in values()] for _ in range(2)]
    assert one == two
    same = [(i, j) for i, j in combinations(range(len(one)), 2) if one[i] == one[j]]
    assert not same


def test_the_layout_in_memory_is_no_matter():
    value = torch.randn(4, 6)
    assert fingerprint(value.t()) == fingerprint(value.t().contiguous())
    assert fingerprint(value.numpy()[::2]) == fingerprint(value.numpy()[::2].copy())
    assert fingerprint(value[:1].expand(4, 6)) == fingerprint(value[:1].repeat(4, 1))


def test_a_mapped_file_counts_to_its_last_row(tmp_path):
    """It is read in blocks: here two of them and a row."""
    path, rows = tmp_path / "x.npy", 2 * BYTES // 1024 + 1
    np.save(path, np.zeros((rows, 128)))
    before = fingerprint(np.load(path, mmap_mode="r"))
    assert before == fingerprint(np.zeros((rows, 128)))
    for place in ((0, 0), (rows // 2, 5), (rows - 1, 127)):
        np.load(path, mmap_mode="r+")[place] = 1.0
        after = fingerprint(np.load(path, mmap_mode="r"))
        assert after != before
        before = after


def test_a_value_inside_of_itself():
    value: list[object] = [1]
    value.append(value)
    assert fingerprint(value) == fingerprint(value) != fingerprint([1, [1]])
