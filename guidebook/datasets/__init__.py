"""Real data: small sets that ship with the dependencies, large ones read from the user's files.

Each function returns the dictionary of a model's keyword arguments, as torch tensors.
"""

from guidebook.datasets.idx import (
    fashion_mnist,
    fashion_mnist_labels,
    mnist,
    mnist_labels,
    read_idx,
)
from guidebook.datasets.patterns import bars_and_stripes, letters
from guidebook.datasets.small import (
    breast_cancer,
    diabetes,
    digits,
    digits_labels,
    eight_schools,
    iris,
    iris_labels,
    wine,
    wine_labels,
)
from guidebook.datasets.sprites import sprite_factors, sprites

__all__ = [
    "bars_and_stripes",
    "breast_cancer",
    "diabetes",
    "digits",
    "digits_labels",
    "eight_schools",
    "fashion_mnist",
    "fashion_mnist_labels",
    "iris",
    "iris_labels",
    "letters",
    "mnist",
    "mnist_labels",
    "read_idx",
    "sprite_factors",
    "sprites",
    "wine",
    "wine_labels",
]
