"""A mixture's guide step by step: where it starts, its features, and the rows' assignments."""

import math
import warnings
from typing import Any

import numpy as np
import pyro
import pytest
import sklearn.cluster
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from guidebook.guides.conjugate.mixture import MixtureMeanField, hard_assignments
from guidebook.models.mixture import GaussianMixture

X = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1
EVERY = pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])


def guide_of(covariance: Any, concentration: float | None = 0.7, K: int = 2) -> MixtureMeanField:
    return MixtureMeanField(GaussianMixture(K, 3, covariance, concentration, 0.2, 0.5, 4.5, 1.3))


@EVERY
def test_it_begins_at_the_prior_with_means_measured_from_the_mean_of_the_rows(
    covariance: str,
) -> None:
    guide = guide_of(covariance)
    assert torch.equal(guide.shift, torch.zeros(3).double())
    guide.begin(X.float())
    assert guide.shift.dtype is torch.float64
    torch.testing.assert_close(guide.shift, X.float().mean(0).double())
    torch.testing.assert_close(guide.natural, guide.prior)
    torch.testing.assert_close(guide.hyper()["loc"], torch.full((2, 3), 0.2).double())
    assert set(guide.sites) - {"loc", "precision", "log_cholesky"} == {"weights"}
    assert "weights" not in guide_of(covariance, None).sites


@EVERY
def test_rows_that_stand_for_twice_as_many_send_twice_the_message(covariance: str) -> None:
    """The prior plus w times the sums over the clusters: counts, means and second moments."""
    guide = guide_of(covariance)
    once, twice = (guide.initial_natural(X, count, 0) for count in (9, 18))
    share = hard_assignments(X, 2, 0)
    counts = share.sum(0)
    for name, value in guide.prior.items():
        torch.testing.assert_close(twice[name] - value, 2 * (once[name] - value))
    hyper = guide.hyper(twice)
    torch.testing.assert_close(hyper["concentration"], 0.7 + 2 * counts)
    precision = 0.5 + 2 * counts
    loc = (0.1 + 2 * (share.mT @ X)) / precision.unsqueeze(-1)
    torch.testing.assert_close(hyper["loc"], loc)
    if covariance == "full":
        torch.testing.assert_close(hyper["df"], 4.5 + 2 * counts)
        outer = torch.einsum("nk,ni,nj->kij", share, X, X) * 2 + 0.5 * 0.04
        outer = outer - torch.einsum("k,ki,kj->kij", precision, loc, loc)
        torch.testing.assert_close(
            hyper["inverse_scale"], 1.3 * torch.eye(3, dtype=torch.float64) + outer
        )


def test_features_of_a_full_covariance_are_the_lower_triangle_row_by_row() -> None:
    guide = guide_of("full")
    assert guide._features(X.float()).dtype is torch.float64
    found = guide._features(X)
    pairs = [X[:, i] * X[:, j] for i in range(3) for j in range(i + 1)]
    torch.testing.assert_close(found, torch.cat([X, torch.stack(pairs, 1)], 1))


@EVERY
def test_scores_are_the_log_densities_where_q_is_a_point(covariance: str) -> None:
    guide = guide_of(covariance)
    guide.begin(X)
    loc = X[:2] + 0.5
    precision = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    values = {"loc": loc}
    if covariance == "diagonal":
        values["precision"] = X[2:4].exp()
        precision = torch.diag_embed(values["precision"])
    elif covariance == "full":
        precision = values["precision"] = precision + X[2:4, :, None] * X[2:4, None, :]
    matrix, offset = guide._scores(guide._point_statistics(values))
    normal = torch.distributions.MultivariateNormal(loc, precision_matrix=precision)
    expected = normal.log_prob(X[:, None])
    torch.testing.assert_close(guide._features(X) @ matrix + offset, expected)


@EVERY
def test_natural_parameters_and_hyperparameters_of_several_chains_are_inverses(
    covariance: str,
) -> None:
    guide = guide_of(covariance, K=3)
    guide.begin(X)
    one = guide.initial_natural(X, 9, 0)
    chains = {name: torch.stack([value, 2 * value]) for name, value in one.items()}
    back = guide.natural_of(guide.hyper(chains))
    for name, value in chains.items():
        torch.testing.assert_close(back[name], value)


def test_a_component_far_behind_keeps_a_share_of_exp_minus_200() -> None:
    """So that no exponential underflows: one that is 100 nats behind has the share exp(-100)."""
    guide = MixtureMeanField(GaussianMixture(2, 1, "unit", None))
    hyper = {"loc": torch.tensor([[0.0], [1.0]]), "mean_precision": torch.tensor([1.0, 1.0])}
    guide.adopt(guide.natural_of({n: v.double() for n, v in hyper.items()}))
    found = guide.responsibilities(torch.tensor([[-1000.0], [-99.5], [0.5]]).double())
    assert found[:, 1].log().tolist() == pytest.approx([-200.0, -100.0, math.log(0.5)])
    assert found.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_what_is_adopted_is_a_copy_without_a_gradient() -> None:
    guide = guide_of("unit")
    given = {n: (2 * v).requires_grad_() for n, v in guide.prior.items()}
    guide.adopt(given)
    for name, value in guide.natural.items():
        assert not value.requires_grad
        assert torch.equal(value, given[name]) and value.data_ptr() != given[name].data_ptr()


def test_assignments_are_sampled_by_their_responsibilities() -> None:
    guide = guide_of("full")
    guide.adopt(guide.initial_natural(X, 9, 0))
    pyro.set_rng_seed(0)
    trace = pyro.poutine.trace(guide.with_assignments).get_trace(X, size=90)
    z = trace.nodes["z"]
    assert z["infer"]["enumerate"] == "parallel"
    trace.compute_log_prob()
    expected = guide.responsibilities(X).gather(1, z["value"][:, None]).log().sum()
    torch.testing.assert_close(z["log_prob_sum"], 10 * expected)
    assert set(trace.nodes) >= {"weights", "log_cholesky", "loc"}
    assert "precision" not in trace.nodes  # the model's deterministic site is not the guide's


@pytest.mark.parametrize("concentration", [None, 0.7])
def test_chains_start_from_random_assignments(
    concentration: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the generator alone; counts and means of each chain are those of its assignments."""
    guide = guide_of("unit", concentration)
    seen: dict[str, dict[str, Tensor]] = {}
    monkeypatch.setattr(GaussianMixture, "globals", lambda _, hyper: seen.update(hyper=hyper) or {})
    z = guide.initial({"x": X}, 4, torch.Generator().manual_seed(5))["z"]
    expected = torch.randint(2, (4, 9), generator=torch.Generator().manual_seed(5))
    assert torch.equal(z, expected)
    share = torch.nn.functional.one_hot(z, 2).double()
    counts = share.sum(1)
    torch.testing.assert_close(seen["hyper"]["mean_precision"], 0.5 + counts)
    loc = (0.1 + share.mT @ X) / (0.5 + counts).unsqueeze(-1)
    torch.testing.assert_close(seen["hyper"]["loc"], loc)
    if concentration is not None:
        torch.testing.assert_close(seen["hyper"]["concentration"], 0.7 + counts)


# k-means ----------------------------------------------------------------------------------------


def test_k_means_starts_four_times_from_the_last_32_bits_of_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []

    class Recorded(sklearn.cluster.KMeans):
        def __init__(self, n_clusters: int, **options: Any) -> None:
            seen.append({"n_clusters": n_clusters, **options})
            super().__init__(n_clusters, **options)

    monkeypatch.setattr(sklearn.cluster, "KMeans", Recorded)
    seed = 2**33 + 2**30 + 5
    share = hard_assignments(X[:4].clone().requires_grad_(), 7, seed)
    assert seen == [{"n_clusters": 4, "n_init": 4, "random_state": 2**30 + 5}]
    assert share.dtype is torch.float64 and share.shape == (4, 7) and not share.requires_grad
    hard_assignments(X, 2, 3)
    assert seen[1] == {"n_clusters": 2, "n_init": 4, "random_state": 3}


def test_only_the_warning_of_too_few_distinct_rows_is_kept_quiet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Warns:
        labels_ = np.array([0, 0, 0])

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def fit(self, _: Any) -> "Warns":
            warnings.warn("fewer clusters", ConvergenceWarning, stacklevel=2)
            warnings.warn("another", UserWarning, stacklevel=2)
            return self

    monkeypatch.setattr(sklearn.cluster, "KMeans", Warns)
    with pytest.warns(UserWarning, match="another") as told:
        hard_assignments(torch.zeros(3, 1), 2, 0)
    assert [str(one.message) for one in told] == ["another"]
