"""Small data sets: sizes, scales, dtype, and the facts their docstrings state."""

import pytest
import torch

from guidebook.datasets.small import breast_cancer, diabetes, digits, digits_labels, eight_schools


def assert_standardised(columns):
    zero = torch.zeros(columns.shape[1:], dtype=columns.dtype)
    torch.testing.assert_close(columns.mean(0), zero, rtol=0, atol=1e-10)
    torch.testing.assert_close(columns.var(0, correction=0), zero + 1, rtol=0, atol=1e-10)


@pytest.fixture
def float64():
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(kept)


def test_eight_schools():
    data = eight_schools()
    assert data["y"].tolist() == [28, 8, -3, 7, -1, 1, 18, 12]
    assert data["sigma"].tolist() == [15, 10, 16, 11, 9, 11, 10, 18]


@pytest.mark.usefixtures("float64")
def test_diabetes():
    data = diabetes()
    assert data["X"].shape == (442, 10)
    assert data["y"].shape == (442,)
    assert_standardised(data["X"])
    assert_standardised(data["y"])


def test_diabetes_scale_in_the_docstring():
    from sklearn.datasets import load_diabetes

    target = load_diabetes(scaled=False).target
    assert f"{target.mean():.2f}" in diabetes.__doc__
    assert f"{target.std():.2f}" in diabetes.__doc__


@pytest.mark.usefixtures("float64")
def test_breast_cancer():
    data = breast_cancer()
    assert data["X"].shape == (569, 30)
    assert_standardised(data["X"])
    assert data["y"].sum() == 357
    assert set(data["y"].tolist()) == {0.0, 1.0}


def test_digits_split_without_overlap_and_in_order():
    whole, train, test = (digits(split)["x"] for split in ("all", "train", "test"))
    assert [len(part) for part in (whole, train, test)] == [1797, 1437, 360]
    assert whole.shape[1] == 64
    assert torch.equal(torch.cat([train, test]), whole)
    assert whole.min() == 0
    assert whole.max() == 1
    labels = torch.cat([digits_labels("train"), digits_labels("test")])
    assert torch.equal(labels, digits_labels())
    assert labels.unique().tolist() == list(range(10))


def test_binary_digits_are_the_grey_ones_cut_at_one_half():
    grey, binary = digits()["x"], digits(binary=True)["x"]
    assert torch.equal(binary, (grey >= 0.5).to(grey))


@pytest.mark.parametrize("load", [eight_schools, diabetes, breast_cancer, digits])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_dtype_and_fresh_copies(load, dtype):
    kept = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        first, second = load(), load()
    finally:
        torch.set_default_dtype(kept)
    for name, value in first.items():
        assert value.dtype == dtype
        assert torch.isfinite(value).all()
        value.zero_()  # the caller owns what it gets
        assert second[name].abs().sum() > 0
