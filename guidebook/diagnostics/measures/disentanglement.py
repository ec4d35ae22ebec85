r"""Does a code hold the known factors of the data apart? Four scores, each 1 at best.

All take codes (n, d), one row a datum (the means of q(z | x)), and integer factors (n, K). A high
score says that each factor is in one coordinate of its own; a rotation of a perfect code has all of
the information and a low score. Scores disagree, and depend on seeds of the fit more than on the
method: look at several of both (Locatello, Bauer, Lucic et al., 2019, Challenging common assumptions in
the unsupervised learning of disentangled representations).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guidebook.errors import DataError

BINS = 20
TREES = 30
DEAD = 1e-4
"""A coordinate is dead, and left out, below this share of the largest variance of a coordinate."""


def disentanglement(
    codes: np.ndarray, factors: np.ndarray, *, categorical: Sequence[int] = (0,), seed: int = 0
) -> dict[str, float]:
    """All scores by name: "MIG", "SAP", "FactorVAE", "DCI" (its disentanglement).

    `categorical` names the factors without an order. DataError for codes and factors that do not fit.
    """
    return {
        "MIG": mig(codes, factors),
        "SAP": sap(codes, factors, categorical=categorical),
        "FactorVAE": factor_vae_score(codes, factors, seed=seed),
        "DCI": dci(codes, factors, seed=seed)["disentanglement"],
    }


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> float:
    r"""The mutual information gap.

    .. math:: \frac{1}{K} \sum_k \frac{1}{H(v_k)} \big[I(c_{j^*}; v_k) - \max_{j \ne j^*} I(c_j; v_k)\big]

    with codes cut into `bins` of equal width. Source: Chen, Li, Grosse & Duvenaud (2018), Isolating
    sources of disentanglement in variational autoencoders.
    """
    codes, factors = _checked(codes, factors)
    if not codes.shape[1]:
        return 0.0
    cut = np.stack([_binned(column, bins) for column in codes.T], -1)
    gaps = []
    for v in factors.T:
        gaps.append(_gap([_mutual(c, v) for c in cut.T]) / _mutual(v, v))
    return float(np.mean(gaps))


def sap(codes: np.ndarray, factors: np.ndarray, *, categorical: Sequence[int] = (0,)) -> float:
    """The separated attribute predictability: the gap between the two coordinates that predict best.

    An ordered factor is predicted linearly (R^2), a categorical one by thresholds (accuracy balanced
    over classes, 0 at chance). Source: Kumar, Sattigeri & Balakrishnan (2018), Variational inference
    of disentangled latent concepts from unlabeled observations.
    """
    codes, factors = _checked(codes, factors)
    gaps = []
    for k, v in enumerate(factors.T):
        predict = _by_thresholds if k in categorical else _r_squared
        gaps.append(_gap([predict(c, v) for c in codes.T]))
    return float(np.mean(gaps))


def factor_vae_score(
    codes: np.ndarray, factors: np.ndarray, *, votes: int = 1000, batch: int = 64, seed: int = 0
) -> float:
    """How well the coordinate of least variance tells which factor was held fixed.

    `votes` times a factor is fixed at a random value, `batch` rows with it are drawn, and the
    coordinate with the least variance, relative to all rows, votes; the majority classifier of one half
    of the votes is tested on the other. Dead coordinates do not vote. Chance is 1 / K.

    Source: Kim & Mnih (2018), Disentangling by factorising.
    """
    codes, factors = _checked(codes, factors)
    if not codes.shape[1]:
        return 0.0
    scaled = codes / codes.std(0)
    rng = np.random.default_rng(seed)
    counted = np.zeros((2, codes.shape[1], factors.shape[1]), int)
    for number in range(votes):
        k = rng.integers(factors.shape[1])
        same = np.flatnonzero(factors[:, k] == factors[rng.integers(len(factors)), k])
        chosen = scaled[rng.choice(same, batch)]
        counted[number % 2, chosen.var(0).argmin(), k] += 1
    winner = counted[0].argmax(-1)
    right = counted[1][np.arange(codes.shape[1]), winner].sum()
    return float(right / counted[1].sum())


def dci(codes: np.ndarray, factors: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    r"""Disentanglement, completeness and informativeness.

    Random forests predict each factor from the code; R (d, K) are the importances of coordinates.
    Disentanglement is 1 - entropy of a row of R (how many factors a coordinate serves), weighted by the
    row's share; completeness 1 - entropy of a column (how many coordinates a factor needs);
    informativeness the accuracy on a held-out fifth of the rows, averaged over factors.

    Source: Eastwood & Williams (2018), A framework for the quantitative evaluation of disentangled
    representations.
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = _checked(codes, factors)
    if not codes.shape[1]:
        return {"disentanglement": 0.0, "completeness": 0.0, "informativeness": 0.0}
    order = np.random.default_rng(seed).permutation(len(codes))
    test, train = np.split(order, [len(codes) // 5])
    importances, right = [], []
    for v in factors.T:
        forest = RandomForestClassifier(TREES, max_features=None, random_state=seed)
        forest.fit(codes[train], v[train])
        importances.append(forest.feature_importances_)
        right.append(forest.score(codes[test], v[test]))
    R = np.stack(importances, -1)
    share = R.sum(1) / R.sum()
    return {
        "disentanglement": float((share * (1 - _entropy(R, 1))).sum()),
        "completeness": float((1 - _entropy(R, 0)).mean()),
        "informativeness": float(np.mean(right)),
    }


def _checked(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = np.asarray(codes, float), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise DataError(
            f"codes {codes.shape} and factors {factors.shape} must be (rows, coordinates) and "
            "(rows, factors) of the same rows."
        )
    if not np.isfinite(codes).all():
        raise DataError("codes holds values that are not finite: fit again, or remove those rows.")
    constant = [k for k, v in enumerate(factors.T) if (v == v[0]).all()]
    if constant:
        raise DataError(f"Factors {constant} are constant over the rows: leave them out.")
    variance = codes.var(0)
    alive = (variance > 0) & (variance > DEAD * variance.max())
    return codes[:, alive], np.stack([np.unique(v, return_inverse=True)[1] for v in factors.T], -1)


def _gap(found: list[float]) -> float:
    """The best less the second best; a missing one is 0."""
    ordered = sorted([*found, 0.0, 0.0], reverse=True)
    return ordered[0] - ordered[1]


def _binned(values: np.ndarray, bins: int) -> np.ndarray:
    edges = np.linspace(values.min(), values.max(), bins + 1)[1:-1]
    return np.digitize(values, edges)


def _mutual(a: np.ndarray, b: np.ndarray) -> float:
    """The mutual information of two integer columns, in nats; of one with itself, its entropy."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1 / len(a))
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / independent[there])).sum())


def _r_squared(c: np.ndarray, v: np.ndarray) -> float:
    return float(np.corrcoef(c, v)[0, 1] ** 2)


def _by_thresholds(c: np.ndarray, v: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=int(v.max()) + 1, class_weight="balanced")
    tree.set_params(random_state=0).fit(c[:, None], v)
    return float(balanced_accuracy_score(v, tree.predict(c[:, None]), adjusted=True))


def _entropy(R: np.ndarray, axis: int) -> np.ndarray:
    """Of R normalised along the axis, in units of the largest possible."""
    if R.shape[axis] == 1:
        return np.zeros(R.shape[1 - axis])
    total = R.sum(axis, keepdims=True)
    p = np.divide(R, total, out=np.full_like(R, 1 / R.shape[axis]), where=total > 0)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0)
    return np.asarray(-terms.sum(axis) / np.log(R.shape[axis]))
