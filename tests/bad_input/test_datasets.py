"""Bad input to data sets: unknown names and settings, files that are missing, truncated or foreign.

The bytes of the IDX files are those of tests/datasets/test_idx.py.
"""

import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guidebook.datasets.idx import (
    FASHION_MNIST,
    MNIST,
    fashion_mnist,
    fashion_mnist_labels,
    mnist,
    mnist_labels,
    read_idx,
)
from guidebook.datasets.patterns import bars_and_stripes, letters
from guidebook.datasets.small import digits, digits_labels
from guidebook.datasets.sprites import LEVELS, sprites
from guidebook.errors import DataError, FileError, SettingError
from tests.bad_input.conftest import Bad
from tests.datasets.test_idx import IMAGES, LABELS, NAMES, encode

LOADERS: dict[str, tuple[Callable[..., Any], Any, str]] = {
    "MNIST": (mnist, MNIST, NAMES["images"]),
    "labels of MNIST": (mnist_labels, MNIST, NAMES["labels"]),
    "Fashion-MNIST": (fashion_mnist, FASHION_MNIST, NAMES["images"]),
    "labels of Fashion-MNIST": (fashion_mnist_labels, FASHION_MNIST, NAMES["labels"]),
}
ERRORS: dict[str, Bad] = {
    **{
        f"{name} {where}": (
            lambda here, load=load, below=below: load(here / below), FileError,
            "downloads nothing", re.escape(source.origin), source.sha256[file],
        )
        for name, (load, source, file) in LOADERS.items()
        for where, below in (("that is missing", "."), ("in no folder", "nowhere"))
    },
    **{
        f"a split of {name}": (
            lambda here, load=load: load(here, "all"), SettingError, "'all'", "'train' or 'test'",
        )
        for name, (load, _, _) in LOADERS.items()
    },
    "a split of digits": (
        lambda: digits("al"), SettingError, "'al'", "'train', 'test' or 'all'",
    ),
    "a split of labels of digits": (
        lambda: digits_labels("al"), SettingError, "'al'", "'train', 'test' or 'all'",
    ),
    "no file to read": (lambda here: read_idx(here / "absent"), FileError, "absent", "cannot be read"),
    "small sprites": (
        lambda: sprites(4, LEVELS), SettingError, "side=4", "at least 8 pixels",
    ),
    "more shapes than there are": (
        lambda: sprites(16, (4, 1, 1, 1, 1)), SettingError, r"\(4, 1, 1, 1, 1\)", "at most 3 shapes",
    ),
    "a factor without values": (
        lambda: sprites(16, (1, 1, 0, 1, 1)), SettingError, r"\(1, 1, 0, 1, 1\)", "at least one value",
    ),
    "a letter that is not drawn": (lambda: letters("JQ"), DataError, "'Q'", "the letters are A C J"),
    "no letter": (lambda: letters(""), DataError, "the letters are A C J"),
    "bars and stripes of one unit": (
        lambda: bars_and_stripes(1), SettingError, "side=1", "from 2 to 8",
    ),
}  # fmt: skip


def test_an_error_names_cause_and_remedy(bad: Bad, refused: Callable[[Bad], None]) -> None:
    refused(bad)


CONTENTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not an IDX file"),
    "two bytes": (b"\0\0", "not an IDX file"),
    "an archive": (b"PK\x03\x04" + bytes(100), "not an IDX file"),
    "floats": (b"\0\0\x0d\x01" + struct.pack(">I", 1) + bytes(4), "not an IDX file"),
    "no dimension": (b"\0\0\x08\x00", "not an IDX file"),
    "half a header": (b"\0\0\x08\x03" + bytes(7), "inside its header"),
    "a byte too few": (encode(IMAGES)[:-1], "is truncated"),
    "a byte too many": (encode(IMAGES) + b"\0", "bytes after its end"),
    "half of gzip": (gzip.compress(encode(IMAGES))[:-20], "truncated or damaged gzip"),
    "gzip of another sum": (
        gzip.compress(encode(IMAGES))[:-8] + bytes(8), "truncated or damaged gzip",
    ),
    "nothing behind the sign of gzip": (b"\x1f\x8b" + bytes(50), "truncated or damaged gzip"),
    "labels": (encode(LABELS), "1 dimension"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS)
@pytest.mark.parametrize("check", [True, False])
def test_truncated_and_foreign_files(
    case: str, check: bool, tmp_path: Path, refused: Callable[[Bad], None]
) -> None:
    content, cause = CONTENTS[case]
    (tmp_path / NAMES["images"]).write_bytes(content)
    refused((lambda: mnist(tmp_path, check=check), FileError, cause, MNIST.sha256[NAMES["images"]]))
