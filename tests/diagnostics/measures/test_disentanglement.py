"""Scores of codes whose disentanglement is known by construction."""

import itertools

import numpy as np
import pytest
from scipy.linalg import hadamard
from scipy.stats import ortho_group
from sklearn.metrics import mutual_info_score

from guidebook.diagnostics.measures.disentanglement import (
    _mutual,
    dci,
    disentanglement,
    factor_vae_score,
    mig,
    sap,
)
from guidebook.errors import DataError

FACTORS = np.array(list(itertools.product(range(3), range(4), range(5), range(6))))
CODE = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
RNG = np.random.default_rng(0)


def test_the_factors_themselves_score_one_in_any_order_sign_and_unit():
    code = CODE[:, [2, 0, 3, 1]] * np.array([3.0, -0.5, 1.0, 20.0])
    for name, score in disentanglement(code, FACTORS).items():
        assert score == pytest.approx(1.0, abs=0.02), name
    assert all(v == pytest.approx(1.0, abs=0.02) for v in dci(code, FACTORS).values())


def test_dead_coordinates_change_nothing():
    code = np.concatenate([CODE, np.zeros((360, 2)), 1e-6 * RNG.standard_normal((360, 1))], 1)
    for name, score in disentanglement(code, FACTORS).items():
        assert score == pytest.approx(1.0, abs=0.02), name


def test_a_rotation_keeps_the_information_and_loses_the_scores():
    scores = disentanglement(CODE @ hadamard(4) / 2, FACTORS)  # every factor in every coordinate
    assert scores["MIG"] < 0.1
    assert scores["SAP"] < 0.15
    assert scores["DCI"] < 0.3
    assert scores["FactorVAE"] < 0.95


def test_noise_scores_nothing():
    factors = np.tile(FACTORS, (6, 1))
    scores = disentanglement(RNG.standard_normal((len(factors), 4)), factors)
    assert scores["MIG"] < 0.02
    assert scores["SAP"] < 0.05
    assert scores["FactorVAE"] < 0.45  # chance is 1/4, majority of few votes a little more
    assert scores["DCI"] < 0.15
    assert dci(RNG.standard_normal((len(factors), 4)), factors)["informativeness"] < 0.35


def test_one_factor_in_two_coordinates_is_incomplete_and_two_in_one_entangled():
    twice = np.concatenate([CODE, CODE[:, :1]], 1)
    assert dci(twice, FACTORS)["completeness"] == pytest.approx(0.75 + 0.25 * 0.57, abs=0.05)
    assert dci(twice, FACTORS)["disentanglement"] > 0.95
    assert mig(twice, FACTORS) == pytest.approx(0.75, abs=0.02)
    mixed = np.stack([FACTORS[:, 0] + 3 * FACTORS[:, 1], FACTORS[:, 2], FACTORS[:, 3]], -1)
    assert dci(mixed, FACTORS)["disentanglement"] < 0.9


def test_mutual_information_is_scikit_learns():
    a, b = RNG.integers(0, 4, 500), RNG.integers(0, 7, 500)
    c = (a + b) % 5
    for x, y in ((a, b), (a, c), (c, c)):
        assert _mutual(x, y) == pytest.approx(mutual_info_score(x, y), rel=1e-12)


def test_one_coordinate_and_seeds():
    assert 0 < mig(CODE[:, :1], FACTORS) <= 0.26
    assert 0 < sap(CODE[:, :1], FACTORS) <= 0.26
    code = CODE @ ortho_group.rvs(4, random_state=2)
    first, again = (factor_vae_score(code, FACTORS, seed=5) for _ in range(2))
    assert first == again
    assert factor_vae_score(np.zeros((360, 2)), FACTORS) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="same rows"):
        mig(CODE[:5], FACTORS)
    with pytest.raises(DataError, match="not finite"):
        sap(np.full((360, 2), np.nan), FACTORS)
    with pytest.raises(DataError, match="are constant over the rows"):
        dci(CODE, np.concatenate([FACTORS, np.ones((360, 1), int)], 1))
