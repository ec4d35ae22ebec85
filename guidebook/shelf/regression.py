"""Pairs of regressions and hierarchies: global latents, gradients, and mostly NUTS as truth."""

from __future__ import annotations

from torch import Tensor

from guidebook.datasets.small import breast_cancer, diabetes
from guidebook.datasets.small import eight_schools as eight_schools_data
from guidebook.guides.conjugate.sites import LogisticSites, ProbitSites
from guidebook.guides.exact.conjugate import ConjugateRegression
from guidebook.inference.ep import ep
from guidebook.models.hierarchical import eight_schools, eight_schools_centered
from guidebook.models.probit import probit_regression
from guidebook.models.regression import linear_regression, logistic_regression
from guidebook.shelf.families import GLOBAL_GUIDES
from guidebook.shelf.pair import Pair


def _four_measurements() -> dict[str, Tensor]:
    """Radius, texture, smoothness and concavity of the breast masses."""
    data = breast_cancer()
    return {"X": data["X"][:, [0, 1, 4, 6]].contiguous(), "y": data["y"]}


PAIRS = (
    Pair(
        name="eight-schools",
        summary="Eight schools, non-centred parameterisation: a well-conditioned hierarchy.",
        model=lambda: eight_schools,
        guides=GLOBAL_GUIDES,
        data=eight_schools_data,
        truth="NUTS",
        source="Rubin (1981), Estimation in parallel randomized experiments; posteriordb's priors",
    ),
    Pair(
        name="eight-schools-centered",
        summary="Eight schools, centred parameterisation: a funnel that Gaussian guides cannot fit.",
        model=lambda: eight_schools_centered,
        guides=GLOBAL_GUIDES,
        data=eight_schools_data,
        truth="NUTS",
        source="Rubin (1981), Estimation in parallel randomized experiments; posteriordb's priors",
    ),
    Pair(
        name="linear-regression",
        summary="Linear regression with its conjugate prior: posterior and evidence in closed form.",
        model=lambda: linear_regression,
        guides=GLOBAL_GUIDES,
        data=diabetes,
        truth="exact",
        source="Murphy (2012), Machine Learning: a Probabilistic Perspective, section 7.6.3",
        exact=lambda model: ConjugateRegression(),
    ),
    Pair(
        name="logistic-regression",
        summary="Logistic regression on 30 correlated columns, with a weakly informative prior.",
        model=lambda: logistic_regression,
        guides=GLOBAL_GUIDES,
        engines={"ep": (ep, lambda model: LogisticSites())},
        data=breast_cancer,
        truth="NUTS",
        source="Gelman, Jakulin, Pittau & Su (2008), A weakly informative default prior "
        "distribution for logistic and other regression models",
    ),
    Pair(
        name="probit-regression",
        summary="Probit regression, with expectation propagation's moments in closed form.",
        model=lambda: probit_regression,
        guides=GLOBAL_GUIDES,
        engines={"ep": (ep, lambda model: ProbitSites())},
        data=_four_measurements,
        truth="NUTS",
        source="Albert & Chib (1993), Bayesian analysis of binary and polychotomous response data; "
        "Minka (2001), A family of algorithms for approximate Bayesian inference",
    ),
)
