"""Small real data sets that need no download: each is the dictionary of a model's keywords.

All tensors have torch's default dtype (`torch.get_default_dtype()`). scikit-learn, which ships
most of them, is imported only when one of them is asked for.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from guidebook.errors import SettingError

Split = Literal["train", "test", "all"]

DIGITS_TRAIN_ROWS = 1437
"""Rows of `digits(split="train")`: the first four fifths of the 1,797 images."""


def _tensor(values: Any) -> Tensor:
    # A copy: scikit-learn's arrays may be read-only, and the caller owns what it gets.
    return torch.from_numpy(np.array(values, dtype=np.float64)).to(torch.get_default_dtype())


def _standardise(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


def eight_schools() -> dict[str, Tensor]:
    """Effects of coaching on SAT-V scores in eight schools, with their standard errors.

    Returns `{"sigma": (8,), "y": (8,)}` in points of the test.

    Source: Rubin (1981), Estimation in parallel randomized experiments, table 1; the numbers are
    those of Gelman et al. (2013), Bayesian Data Analysis, section 5.5.
    """
    return {
        "sigma": _tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
        "y": _tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    }


def diabetes() -> dict[str, Tensor]:
    """Ten baseline variables of 442 diabetes patients and the disease's progress one year later.

    Returns `{"X": (442, 10), "y": (442,)}`, every column and the response with mean 0 and standard
    deviation 1 (dividing by n). The response had mean 152.13 and standard deviation 77.01.

    Source: Efron, Hastie, Johnstone & Tibshirani (2004), Least angle regression; the copy shipped
    with scikit-learn.
    """
    from sklearn.datasets import load_diabetes

    raw = load_diabetes(scaled=False)
    return {"X": _tensor(_standardise(raw.data)), "y": _tensor(_standardise(raw.target))}


def breast_cancer() -> dict[str, Tensor]:
    """Thirty measurements of 569 breast masses, and whether each is benign.

    Returns `{"X": (569, 30), "y": (569,)}`: the columns of X have mean 0 and standard deviation 1;
    y is 1 for benign (357 masses), 0 for malignant (212).

    Source: Wolberg, Street & Mangasarian (1995), Breast Cancer Wisconsin (Diagnostic); the copy
    shipped with scikit-learn.
    """
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    return {"X": _tensor(_standardise(raw.data)), "y": _tensor(raw.target)}


def iris() -> dict[str, Tensor]:
    """Sepal and petal, length and width of 150 irises of three species, 50 of each.

    Returns `{"x": (150, 4)}`, every column with mean 0 and standard deviation 1. The species in the
    order of the rows: `iris_labels`.

    Source: Fisher (1936), The use of multiple measurements in taxonomic problems; the copy shipped
    with scikit-learn.
    """
    from sklearn.datasets import load_iris

    return {"x": _tensor(_standardise(load_iris().data))}


def iris_labels() -> Tensor:
    """The species 0, 1, 2 of each row of `iris()`: an integer tensor (150,)."""
    from sklearn.datasets import load_iris

    return torch.from_numpy(np.array(load_iris().target, dtype=np.int64))


def wine() -> dict[str, Tensor]:
    """Thirteen chemical measurements of 178 wines of three cultivars of one region of Italy.

    Returns `{"x": (178, 13)}`, every column with mean 0 and standard deviation 1. The cultivars in
    the order of the rows: `wine_labels`.

    Source: Aeberhard & Forina (1992), Wine, UCI Machine Learning Repository; the copy shipped with
    scikit-learn.
    """
    from sklearn.datasets import load_wine

    return {"x": _tensor(_standardise(load_wine().data))}


def wine_labels() -> Tensor:
    """The cultivar 0, 1, 2 of each row of `wine()`: an integer tensor (178,)."""
    from sklearn.datasets import load_wine

    return torch.from_numpy(np.array(load_wine().target, dtype=np.int64))


def digits(split: Split = "all", *, binary: bool = False) -> dict[str, Tensor]:
    """Handwritten digits of 8 x 8 pixels, scaled from the levels 0..16 to [0, 1].

    Returns `{"x": (n, 64)}` with n = 1437 for `split="train"`, 360 for `"test"`, 1797 for `"all"`.
    `binary=True` sets a pixel to 1 where it is at least one half and to 0 elsewhere, which is what
    a Bernoulli likelihood is a density for.

    The split is by position, not at random: images of one writer follow each other, so a random
    split would put the same hands on both sides.

    Raises SettingError for another split.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits (the test part);
    the copy shipped with scikit-learn.
    """
    from sklearn.datasets import load_digits

    pixels = load_digits().data[_rows(split)] / 16.0
    return {"x": _tensor(pixels >= 0.5 if binary else pixels)}


def digits_labels(split: Split = "all") -> Tensor:
    """The digit 0..9 that each row of `digits(split)` shows: an integer tensor (n,).

    Raises SettingError for another split.
    """
    from sklearn.datasets import load_digits

    return torch.from_numpy(np.array(load_digits().target[_rows(split)], dtype=np.int64))


def _rows(split: str) -> slice:
    parts = {
        "train": slice(None, DIGITS_TRAIN_ROWS),
        "test": slice(DIGITS_TRAIN_ROWS, None),
        "all": slice(None),
    }
    if split not in parts:
        raise SettingError(f"There is no split {split!r}: give 'train', 'test' or 'all'.")
    return parts[split]
