"""Every method of an exponential family maps over leading dimensions: element by element the same."""

from typing import Any

import pytest
import torch
from torch import Tensor

from guidebook.guides.conjugate.exponential_family import (
    Categorical,
    Dirichlet,
    Gamma,
    MultivariateNormal,
    Normal,
    NormalWishart,
    kl_divergence,
)

BATCH = (2, 3)
FAMILIES: dict[str, tuple[Any, dict[str, str]]] = {
    "categorical": (Categorical(4), {"probs": "simplex"}),
    "dirichlet": (Dirichlet(), {"concentration": "positive 4"}),
    "gamma": (Gamma(), {"concentration": "positive", "rate": "positive"}),
    "normal": (Normal(), {"loc": "real", "scale": "positive"}),
    "multivariate-normal": (MultivariateNormal(4), {"loc": "real 4", "precision": "matrix"}),
    "normal-wishart": (
        NormalWishart(4),
        {"loc": "real 4", "mean_precision": "positive", "df": "df", "inverse_scale": "matrix"},
    ),
}


def made(kind: str, generator: torch.Generator) -> Tensor:
    """A parameter or a value of this kind, (*BATCH, ...)."""

    def real(*shape: int) -> Tensor:
        return torch.randn(*BATCH, *shape, dtype=torch.float64, generator=generator)

    root = real(4, 4)
    return {
        "real": real(),
        "real 4": real(4),
        "positive": real().exp() + 0.1,
        "positive 4": real(4).exp() + 0.1,
        "simplex": real(4).softmax(-1),
        "df": real().exp() + 3.1,
        "matrix": root @ root.mT + torch.eye(4, dtype=torch.float64),
        "label": torch.randint(4, BATCH, generator=generator),
    }[kind]


VALUES = {
    "categorical": ["label"],
    "dirichlet": ["simplex"],
    "gamma": ["positive"],
    "normal": ["real"],
    "multivariate-normal": ["real 4"],
    "normal-wishart": ["real 4", "matrix"],
}


@pytest.mark.parametrize("name", FAMILIES)
def test_element_by_element(name: str) -> None:
    family, kinds = FAMILIES[name]
    generator = torch.Generator().manual_seed(0)
    first, second = ({key: made(kind, generator) for key, kind in kinds.items()} for _ in range(2))
    values = [made(kind, generator) for kind in VALUES[name]]
    q, p = family.natural(**first), family.natural(**second)
    standard = family.standard(q)
    assert set(standard) == set(kinds) and family.statistics(*values).shape == q.shape
    for key, value in standard.items():
        torch.testing.assert_close(value, first[key])
    for i in range(2):
        for j in range(3):
            at = (i, j)
            one = family.natural(**{key: value[at] for key, value in first.items()})
            own = [value[at] for value in values]
            pairs = {
                "natural": (q[at], one),
                "log_normaliser": (family.log_normaliser(q)[at], family.log_normaliser(one)),
                "mean": (family.mean(q)[at], family.mean(one)),
                "statistics": (family.statistics(*values)[at], family.statistics(*own)),
                "log_base": (family.log_base(*values)[at], family.log_base(*own)),
                "kl": (kl_divergence(family, q, p)[at], kl_divergence(family, one, p[at])),
            }
            for key, (found, expected) in pairs.items():
                torch.testing.assert_close(found, expected, msg=key, check_dtype=False)
    torch.testing.assert_close(
        kl_divergence(family, q, q), torch.zeros(BATCH, dtype=torch.float64), atol=1e-10, rtol=0
    )
