"""The IDX reader on files written here: good ones, and not the published ones."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from guidebook.datasets.idx import (
    MNIST,
    fashion_mnist,
    fashion_mnist_labels,
    mnist,
    mnist_labels,
    read_idx,
)
from guidebook.errors import FileError

IMAGES = np.arange(5 * 28 * 28, dtype=np.uint8).reshape(5, 28, 28)
LABELS = np.array([3, 1, 4, 1, 5], dtype=np.uint8)
NAMES = {"images": "train-images-idx3-ubyte", "labels": "train-labels-idx1-ubyte"}


def encode(array):
    return (
        b"\0\0\x08"
        + bytes([array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + (array.tobytes())
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / NAMES["images"]).write_bytes(encode(IMAGES))
    (tmp_path / NAMES["labels"]).write_bytes(encode(LABELS))
    return tmp_path


def test_reads_plain_files(folder):
    found = read_idx(folder / NAMES["images"])
    np.testing.assert_array_equal(found, IMAGES)
    assert found.flags.writeable


def test_images_are_rows_in_the_unit_interval(folder):
    x = mnist(folder, check=False)["x"]
    assert x.dtype == torch.get_default_dtype()
    expected = torch.from_numpy(IMAGES.reshape(5, 784) / 255.0).to(x)
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=0.0)
    assert torch.equal(x, fashion_mnist(folder, check=False)["x"])


def test_labels_are_integers(folder):
    labels = mnist_labels(str(folder), check=False)
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS.tolist()
    assert fashion_mnist_labels(folder, check=False).tolist() == LABELS.tolist()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"])
def test_other_file_names_and_gzip(tmp_path, name):
    content = encode(IMAGES)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert mnist(tmp_path, check=False)["x"].shape == (5, 784)


def test_a_gz_name_over_plain_content_is_read_by_content(tmp_path):
    (tmp_path / "a.gz").write_bytes(encode(LABELS))
    np.testing.assert_array_equal(read_idx(tmp_path / "a.gz"), LABELS)


def test_the_published_file_is_known_by_the_sha256_of_its_decompressed_content(
    tmp_path, monkeypatch
):
    content = encode(IMAGES)
    monkeypatch.setitem(MNIST.sha256, NAMES["images"], hashlib.sha256(content).hexdigest())
    (tmp_path / f"{NAMES['images']}.gz").write_bytes(gzip.compress(content))
    assert len(mnist(tmp_path)["x"]) == 5


def test_a_valid_file_that_is_not_the_published_one(folder):
    with pytest.raises(FileError, match=r"not MNIST's.*check=False") as error:
        mnist(folder)
    assert MNIST.sha256[NAMES["images"]] in str(error.value)
