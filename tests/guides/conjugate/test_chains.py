"""Scores and messages of a mixture for several chains at once are those of each chain."""

import pytest
import torch

from guidebook.guides.conjugate.gaussian_mean import GaussianMeanField
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.models.gaussian_mean import gaussian_mean
from guidebook.models.mixture import GaussianMixture

X = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2


@pytest.mark.parametrize("covariance", ["unit", "diagonal", "full"])
def test_chain_by_chain(covariance: str) -> None:
    generator = torch.Generator().manual_seed(1)
    guide = MixtureMeanField(GaussianMixture(4, 3, covariance))
    guide.begin(X)
    features = guide._features(X)
    share = torch.rand(2, 30, 4, dtype=torch.float64, generator=generator).softmax(-1)
    counts, sums = share.sum(-2), share.mT @ features
    message = guide._message(counts, sums)
    natural = {name: value + message[name] for name, value in guide.prior.items()}
    matrix, offset = guide._scores(guide.expected(natural)["components"])
    assert matrix.shape == (2, features.shape[1], 4) and offset.shape == (2, 4)
    for chain in range(2):
        own = guide._message(counts[chain], sums[chain])
        for name, value in own.items():
            torch.testing.assert_close(message[name][chain], value)
        one = {name: value[chain] for name, value in natural.items()}
        found = guide._scores(guide.expected(one)["components"])
        torch.testing.assert_close(matrix[chain], found[0])
        torch.testing.assert_close(offset[chain], found[1])


def test_before_it_is_fitted_the_factorised_guide_is_the_models_prior() -> None:
    """tau ~ Gamma(2, 1), mu given E tau = a / b: N(0, b / (lambda a)); the defaults are the model's."""
    guide = GaussianMeanField()
    assert (float(guide.q_loc), float(guide.q_shape), float(guide.q_rate)) == (0.0, 2.0, 1.0)
    assert float(guide.q_variance) == 0.5
    defaults = gaussian_mean.__kwdefaults__
    assert defaults is not None
    for name, value in defaults.items():
        if hasattr(guide, name):
            assert getattr(guide, name) == value, name
    moved = GaussianMeanField(loc=1.5, strength=4.0, shape=3.0, rate=6.0)
    assert float(moved.q_variance) == 0.5 and float(moved.q_loc) == 1.5


def test_a_sweep_draws_from_both_complete_conditionals() -> None:
    """With the generator's own numbers: mu = m_n + e / sqrt(lambda_n tau), tau = gamma(a + (n + 1) / 2)
    over b + S(mu) / 2, S(mu) = sum (x_i - mu)^2 + lambda_0 (mu - m_0)^2.
    """
    x = X[:, 0]
    guide = GaussianMeanField(loc=0.5, strength=3.0, shape=2.5, rate=1.5)
    tau = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    found = guide.sweep({"tau": tau}, {"x": x}, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(3, generator=generator, dtype=torch.float64)
    mu = (3 * 0.5 + x.sum()) / 33 + noise / (33 * tau).sqrt()
    squares = (x - mu[:, None]).square().sum(-1) + 3 * (mu - 0.5).square()
    standard = torch._standard_gamma(torch.full_like(tau, 2.5 + 31 / 2), generator=generator)
    torch.testing.assert_close(found["mu"], mu)
    torch.testing.assert_close(found["tau"], standard / (1.5 + squares / 2))
    start = guide.initial({"x": x}, 3, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    standard = torch._standard_gamma(torch.full_like(tau, 2.5), generator=generator)
    noise = torch.randn(3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(start["tau"], standard / 1.5)
    torch.testing.assert_close(start["mu"], 0.5 + noise / (3 * start["tau"]).sqrt())


@pytest.mark.parametrize("concentration", [None, 1.5])
@pytest.mark.parametrize("covariance", ["unit", "diagonal"])
def test_a_sweep_of_a_mixture_draws_assignments_and_counts_them(
    covariance: str, concentration: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z_i of each chain from w_k N(x_i; m_k, 1 / L_k), with the generator's own numbers; the globals from
    the complete conditionals given z, whose counts, means and squares are those of the rows.
    """
    model = GaussianMixture(2, 3, covariance, concentration=concentration)
    guide = MixtureMeanField(model)
    guide.begin(X)
    generator = torch.Generator().manual_seed(3)
    loc = 2 + torch.randn(2, 2, 3, dtype=torch.float64, generator=generator)
    precision = torch.rand(2, 2, 3, dtype=torch.float64, generator=generator) + 0.5
    weights = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    state = {"loc": loc}
    if covariance == "diagonal":
        state["precision"] = precision
    else:
        precision = torch.ones_like(precision)
    if concentration is not None:
        state["weights"] = weights
    else:
        weights = torch.full_like(weights, 0.5)
    seen: dict[str, dict[str, torch.Tensor]] = {}
    monkeypatch.setattr(GaussianMixture, "globals", lambda _, hyper: seen.update(hyper=hyper) or {})
    z = guide.sweep(state, {"x": X}, torch.Generator().manual_seed(9))["z"]
    away = (X[:, None, None] - loc).square() * precision  # (n, chains, K, D)
    score = (weights.log() - 0.5 * away.sum(-1) + 0.5 * precision.log().sum(-1)).transpose(0, 1)
    expected = torch.multinomial(
        score.softmax(-1).flatten(0, 1), 1, generator=torch.Generator().manual_seed(9)
    )
    assert torch.equal(z, expected.view(2, 30))
    for chain in range(2):
        counts = torch.bincount(z[chain], minlength=2)
        if concentration is not None:
            found = seen["hyper"]["concentration"][chain]
            torch.testing.assert_close(found, concentration + counts.double())
        own = guide.natural_of(model.prior(guide.shift))
        share = torch.nn.functional.one_hot(z[chain], 2).double()
        message = guide._message(share.sum(0), share.mT @ guide._features(X))
        one = guide.hyper({name: own[name] + message[name] for name in own})
        for name, value in one.items():
            torch.testing.assert_close(seen["hyper"][name][chain], value)
    assert set(guide.sites) == set(state)
