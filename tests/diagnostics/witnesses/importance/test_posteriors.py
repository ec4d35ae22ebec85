"""Importance weights of several posteriors side by side, their second moments, and why there are none."""

import math

import numpy as np
import pytest

from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.psis import Importance, khat_of_moment, psis
from guidebook.diagnostics.witnesses import importance
from guidebook.diagnostics.witnesses.importance import EVIDENCE, NAME, hear, weights_of
from tests.diagnostics.witnesses.importance.subjects import subject_of


def test_without_weights_the_reason_is_that_of_the_subject() -> None:
    lacks = {"log_ratio": "the guide has no density"}
    assert hear(subject_of(None, lacks=lacks), {}).absent == "the guide has no density"
    assert hear(subject_of(None), {}).absent
    for kind in ("chains", "point"):  # which have none by what they are
        assert hear(subject_of(None, kind=kind, lacks=lacks), {}) == Testimony(NAME)


def test_one_posterior_of_too_few_draws_has_its_evidence_and_no_more() -> None:
    log_ratio = np.random.default_rng(0).normal(size=(20, 1))
    found = hear(subject_of(log_ratio), {})
    assert found.absent and found.estimate is None and found.alone is None
    assert set(found.numbers) == set(EVIDENCE)
    assert found.numbers["elbo"] == pytest.approx([log_ratio.mean()])
    assert found.numbers["log_evidence"] == pytest.approx([math.log(np.exp(log_ratio).mean())])


def test_one_posterior_without_densities() -> None:
    found = hear(subject_of(np.full((100, 1), math.nan)), {})
    assert found.absent and all(np.isnan(found.numbers[name]).all() for name in EVIDENCE)


def test_of_several_posteriors_each_is_judged_by_its_own_weights() -> None:
    """One without densities, one with draws of density zero, one that is right but for the evidence."""
    log_ratio = np.random.default_rng(0).normal(0, 0.1, (1000, 3))
    log_ratio[0, 0], log_ratio[0, 1] = math.nan, -math.inf
    found = hear(subject_of(log_ratio), {})
    own = [psis(column) for column in log_ratio.T]
    assert own[0] is None and own[1] is not None and own[2] is not None
    assert not found.absent and found.estimate is not None and found.doubt is not None
    numbers = found.numbers
    for name, missing in (("khat", math.inf), ("khat_se", math.nan), ("ess", 0.0)):
        expected = [missing, getattr(own[1], name), getattr(own[2], name)]
        np.testing.assert_array_equal(numbers[name], expected)
    for name in EVIDENCE:
        assert np.isnan(numbers[name]).tolist() == [True, True, False]
    assert numbers["elbo"][2] == pytest.approx(log_ratio[:, 2].mean())
    assert numbers["log_evidence"][2] == pytest.approx(math.log(np.exp(log_ratio[:, 2]).mean()))
    assert found.estimate.able[:, 0].tolist() == [False, True, True]
    assert np.isinf(found.doubt).tolist() == [True, False, False]
    assert [bool(words) for words in found.against_weighted] == [True, False, False]
    assert found.agreement == "" and found.detail[0] is None
    assert [bool(a) for a in found.alone] == [False, True, True]  # type: ignore[union-attr]


def test_several_posteriors_without_densities_are_not_passed_over() -> None:
    for posteriors in (2, 3):
        found = hear(subject_of(np.full((100, posteriors), math.nan)), {})
        assert not found.absent and found.words == () and found.agreement == ""
        assert np.isposinf(found.numbers["khat"]).all()
        assert all(found.against_weighted) and weights_of({NAME: found}) is None


def test_weights_of_all_posteriors_side_by_side() -> None:
    log_ratio = np.random.default_rng(0).normal(0, 0.3, (200, 3))
    found = hear(subject_of(log_ratio), {})
    weights = weights_of({NAME: found})
    assert weights is not None and weights.shape == (200, 3)
    for column, ratio in zip(weights.T, log_ratio.T, strict=True):
        np.testing.assert_array_equal(column, psis(ratio).weights)  # type: ignore[union-attr]
    assert weights_of({}) is None
    assert weights_of({NAME: Testimony(NAME)}) is None
    assert weights_of({NAME: Testimony(NAME, detail=[found.detail[0], None])}) is None


def test_the_heaviest_second_moment_counts() -> None:
    """Of three marginals the weights exp(0.2 z^2) depend on one, so its second moment is the hardest."""
    subject = subject_of(np.zeros((2000, 1)), marginals=3)
    z = subject.values[:, 0, 1]
    log_ratio = 0.2 * np.square(z)
    subject = subject_of(log_ratio[:, None], marginals=3)
    each = [khat_of_moment(log_ratio, column) for column in subject.values[:, 0].T]
    (found,) = importance._khat_of_moments(subject, [psis(log_ratio)])
    assert found == max(each) > min(each)


def test_second_moments_are_left_out_where_weights_are_equal_unknown_or_discrete() -> None:
    log_ratio = np.random.default_rng(0).normal(0, 0.3, (200, 3))
    log_ratio[:, 0], log_ratio[0, 1] = 0.0, math.nan
    found = [psis(column) for column in log_ratio.T]
    known = importance._khat_of_moments(subject_of(log_ratio), found)
    assert np.isnan(known).tolist() == [True, True, False]
    discrete = subject_of(log_ratio, discrete=np.array([True]))
    assert np.isnan(importance._khat_of_moments(discrete, found)).all()


@pytest.mark.parametrize(
    ("marginals", "posteriors", "looked_at", "computed"),
    [(1, 401, 1, 400), (3, 134, 3, 133), (45, 11, 40, 10), (45, 1, 40, 1)],
)
def test_no_more_than_four_hundred_second_moments(
    marginals: int,
    posteriors: int,
    looked_at: int,
    computed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of at most 40 marginals of a posterior."""
    seen: list[float] = []

    def khat(log_ratio: np.ndarray, values: np.ndarray) -> float:
        seen.append(values[0])
        return 0.25

    monkeypatch.setattr(importance, "khat_of_moment", khat)
    subject = subject_of(np.zeros((30, posteriors)), marginals)
    one = Importance(np.full(30, 1 / 30), 0.2, 0.1, 30.0)
    found = importance._khat_of_moments(subject, [one] * posteriors)
    assert (found[:computed] == 0.25).all() and np.isnan(found[computed:]).all()
    assert seen == subject.values[0, :computed, :looked_at].ravel().tolist()
