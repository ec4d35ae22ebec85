"""Files that a program, a disk or a hand has changed: one change at a place drawn at random."""

import copy
import io
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 7, 2**40, 1.5, float("nan"), "", "x", b"x", [], [1], (), {}, {"x": 1}, {1: "x"},
    torch.zeros(()), torch.zeros(3), torch.zeros(0), torch.zeros(2, 2, dtype=torch.int64),
)  # fmt: skip


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every container below, and a key in it."""
    keys = list(content) if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from places(content[key])


def mutated(content: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A copy of plain values and tensors with one of them changed."""
    twin = copy.deepcopy(content)
    found = list(places(twin))
    holder, key = found[rng.integers(len(found))]
    ways = [_gone, _renamed, _twice, _another, _nested, _swapped]
    ways += [_changed] * 6 if not isinstance(holder[key], dict) else [_emptied]
    ways[rng.integers(len(ways))](holder, key, rng)
    return twin


def _gone(holder: Any, key: Any, _: Any) -> None:
    del holder[key]


def _renamed(holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    else:
        holder.insert(0, holder.pop(key))


def _twice(holder: Any, key: Any, _: Any) -> None:
    if isinstance(holder, dict):
        holder[f"{key} again"] = holder[key]
    else:
        holder.append(holder[key])


def _another(holder: Any, key: Any, rng: Any) -> None:
    holder[key] = OTHERS[rng.integers(len(OTHERS))]


def _nested(holder: Any, key: Any, rng: Any) -> None:
    holder[key] = [[holder[key]], {"x": holder[key]}, (holder[key],)][rng.integers(3)]


def _swapped(holder: Any, key: Any, rng: Any) -> None:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    other = keys[rng.integers(len(keys))]
    holder[key], holder[other] = holder[other], holder[key]


def _emptied(holder: Any, key: Any, _: Any) -> None:
    holder[key] = {}


def _changed(holder: Any, key: Any, rng: Any) -> None:
    """Another value of the same type; of a tensor another shape, precision or entry."""
    value = holder[key]
    if isinstance(value, Tensor):
        flat = value.reshape(-1).clone()
        if len(flat):
            flat[rng.integers(len(flat))] = [1, float("nan")][
                rng.integers(2) * flat.is_floating_point()
            ]
        kinds = [
            torch.float32,
            torch.float64,
            torch.int64,
            torch.bool,
            torch.complex128,
            torch.bfloat16,
        ]
        holder[key] = [
            value[None], value.reshape(-1), value.reshape(-1)[:-1], torch.cat([value.reshape(-1)] * 2),
            value.to(kinds[rng.integers(len(kinds))]), flat.reshape(value.shape), value.reshape(-1)[:0],
        ][rng.integers(7)]  # fmt: skip
    elif isinstance(value, str):
        holder[key] = [value[:-1], value + "x", value.upper(), "\0"][rng.integers(4)]
    elif isinstance(value, (list, tuple)):
        holder[key] = [value[:-1], [*value, *value], value[::-1], []][rng.integers(4)]
    elif isinstance(value, (bool, int, float)):
        holder[key] = [not value, value + 1, -value, float(value), str(value)][rng.integers(5)]
    else:
        holder[key] = OTHERS[rng.integers(len(OTHERS))]


def torn(whole: bytes, rng: np.random.Generator) -> bytes:
    """The bytes of a file cut short, with others among them, or with a member of the archive twice."""
    place = int(rng.integers(len(whole)))
    way = rng.integers(5)
    if way == 0:
        return whole[:place]
    if way == 1:
        return whole[:place] + rng.bytes(int(rng.integers(1, 200))) + whole[place:]
    if way == 2:
        return (
            whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :]
        )
    if way == 3:
        return whole[:place] + whole[place + int(rng.integers(1, 200)) :]
    file = io.BytesIO(whole)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")  # of the name that is there already
        names = archive.namelist()
        archive.writestr(names[place % len(names)], rng.bytes(int(rng.integers(1, 50))))
    return file.getvalue()
