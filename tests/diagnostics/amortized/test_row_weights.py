"""Rows weighed: closed forms of a linear decoder and of enumerated states, blocks, samples, codes."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import guidebook as gb
from guidebook.diagnostics.amortized import density
from guidebook.diagnostics.amortized import weights as room
from guidebook.diagnostics.amortized.density import RowDensity
from guidebook.diagnostics.amortized.rows import Latent, latents_of, names_of
from guidebook.diagnostics.amortized.weights import Weighed, codes, weigh
from guidebook.diagnostics.evidence.subject import Annealed, Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.population import Weighted
from guidebook.diagnostics.witnesses import enumeration, importance
from guidebook.errors import ModelError
from guidebook.guides.amortized.categorical import AmortizedCategorical
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.amortized.point import AmortizedDelta
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.fits.status import Status
from guidebook.models import LinearVAE
from guidebook.models.decoders.discrete_latent import DiscreteVAE
from guidebook.scope import local_parameters

D, P = 2, 5


def fit_of(model: nn.Module, guide: nn.Module, x: Tensor) -> gb.Fit:
    return gb.Fit(model, guide, {"x": x}, np.zeros(1), Status.CONVERGED, 0, 0.0, "svi", ())


@pytest.fixture(scope="module")
def linear() -> tuple[LinearVAE, LinearGaussianPosterior, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, D, generator=generator) @ torch.randn(D, P, generator=generator)
    x = x + 0.5 * torch.randn(40, P, generator=generator)
    with local_parameters():
        model = LinearVAE.maximum_likelihood(x, D).requires_grad_(False)
        return model, LinearGaussianPosterior(model), x


def weighed(linear: Any, rows: int, **options: Any) -> Weighed:
    model, guide, x = linear
    return weigh(fit_of(model, guide, x), x[:rows], 0, **options)


def test_the_density_of_rows_in_blocks_is_posterior_times_evidence_by_one_recording(
    linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, x = linear
    rows, z = x[:3], torch.randn(10, 3, D, generator=torch.Generator().manual_seed(1))
    fit = fit_of(model, guide, rows)
    with local_parameters(), torch.no_grad():
        latents = latents_of(fit, rows)
        q, evidence = guide.posterior(rows), guide.log_evidence(rows)
    whole = RowDensity(fit, rows, latents).value_and_grad(z)
    monkeypatch.setattr(density, "NUMBERS_AT_ONCE", 4 * rows.numel())  # blocks of 4, 4 and 2
    blocks = RowDensity(fit, rows, latents)
    value, gradient = blocks.value_and_grad(z)
    torch.testing.assert_close(value, q.log_prob(z) + evidence, rtol=1e-4, atol=1e-4)
    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(q.log_prob(at).sum(), at)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((value, gradient), whole, rtol=1e-6, atol=1e-6)
    assert list(blocks._graphs) == [4]


def test_the_weights_of_the_exact_posterior_are_the_evidence(linear: Any) -> None:
    _, guide, x = linear
    found = weighed(linear, 4, draws=60)
    evidence = guide.log_evidence(x[:4]).double().numpy()
    np.testing.assert_allclose(found.elbo, evidence, rtol=1e-4)
    np.testing.assert_allclose(found.bound, evidence, rtol=1e-4)
    assert (found.khat == -math.inf).all() and found.khat_se.shape == (4,)
    q = guide.posterior(x[:4])
    np.testing.assert_allclose(found.mean, q.mean, rtol=1e-6)
    np.testing.assert_allclose(found.sd, q.variance.sqrt(), rtol=1e-6)
    assert list(found.names) == ["z[0]", "z[1]"] and not found.discrete and found.draws == 60
    assert found.sampled == [0, 1, 2, 3]
    assert {"Convergence", "Importance weights", "Stein's identities"} <= set(found.heard)


def test_costly_witnesses_look_at_24_rows_and_the_weights_at_all(linear: Any) -> None:
    found = weighed(linear, 26, draws=40)
    assert found.sampled is not None and len(found.sampled) == 24
    assert found.elbo.shape == (26,) and np.isfinite(found.elbo).all()
    stein = found.heard["Stein's identities"].numbers["stein"]
    looked_at = sorted([*found.sampled, *found.worst])
    assert np.flatnonzero(np.isfinite(stein)).tolist() == looked_at
    assert (stein[found.sampled] < 1.0).all()  # gradients are those of these rows


def test_rows_in_blocks_are_the_rows(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact weights carry no noise, so blocks of 3 rows, of 1, and all at once agree."""
    whole = weighed(linear, 7, draws=40)
    sizes: list[int] = []
    subject = room._subject

    def looked(fit: Any, rows: Tensor, *more: Any) -> Any:
        sizes.append(len(rows))
        return subject(fit, rows, *more)

    monkeypatch.setattr(room, "_subject", looked)
    for most, expected in ((3 * 40 * D, [3, 3, 1]), (4 * 40 * D - 1, [3, 3, 1]), (1, [1] * 7)):
        monkeypatch.setattr(room, "MOST_LATENTS", most)
        sizes.clear()
        found = weighed(linear, 7, draws=40)
        assert sizes[:-1] == expected  # the last is the sample
        np.testing.assert_allclose(found.elbo, whole.elbo, rtol=1e-4)
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-6)


def test_how_many_draws_where_none_are_asked_for(
    linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as WORK allows for rows x pixels, from 200 to 2,000; of the sample at most 1,000."""
    seen: list[tuple[int, int]] = []
    subject = room._subject

    def looked(fit: Any, rows: Tensor, draws: int, *more: Any) -> Any:
        seen.append((len(rows), draws))
        return subject(fit, rows, min(draws, 40), *more)

    monkeypatch.setattr(room, "_subject", looked)
    for work, draws in ((1, 200), (300 * 2 * P, 300), (10**9, 2000)):
        monkeypatch.setattr(room, "WORK", work)
        seen.clear()
        assert weighed(linear, 2).draws == draws
        assert seen == [(2, draws), (2, min(draws, 1000))]


class Seen(Exception):
    """Ends `weigh` where what is asked for has been seen."""


def test_the_work_of_a_thousand_million_in_blocks_of_eight_million(
    linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 rows of 5 pixels: 1,000 draws each, of 2 latents, so 4,000 rows at a time; at least 1."""
    model, guide, x = linear

    def looked(fit: Any, rows: Tensor, draws: int, *_: Any) -> Any:
        raise Seen(len(rows), draws)

    monkeypatch.setattr(room, "_subject", looked)
    with pytest.raises(Seen) as seen:
        weigh(fit_of(model, guide, x[:2]), x[:1].expand(200_000, P), 0)
    assert seen.value.args == (4000, 1000)
    monkeypatch.setattr(room, "MOST_LATENTS", 1)
    with pytest.raises(Seen) as seen:
        weigh(fit_of(model, guide, x[:3]), x[:3], 0, 30)
    assert seen.value.args == (1, 30)


class StandardNormal:
    """Stands in for the density of rows, whose recording is slow."""

    cost = 1

    def __init__(self, *_: Any) -> None:
        pass

    def value_and_grad(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return -z.square().sum(-1) / 2, -z

    def values(self, z: Tensor) -> np.ndarray:
        return z.double().numpy()


def annealed(fit: Any, rows: Tensor, latents: Any, **settings: Any) -> Weighted:
    """Stands in for the chains from the prior: 64 for mixtures to begin at, 40 temperatures."""
    assert settings == {"chains": 64, "temperatures": 40, "seed": 9, "draws": 4000}
    known, moments = np.ones(len(rows), bool), [torch.ones(len(rows), 2)] * 2
    return Weighted(torch.ones(3, len(rows), 2), torch.zeros(3, len(rows)), known, *moments)


def subjects_of(
    monkeypatch: pytest.MonkeyPatch, whole: list[bool], weighing: Callable[[], Any]
) -> tuple[Any, list[Subject]]:
    """What weighing gives, and on what the witnesses are heard, where `whole` latents are discrete."""
    seen: list[Subject] = []

    def looked(subject: Subject, **_: Any) -> dict[str, Testimony]:
        seen.append(subject)
        return {importance.NAME: importance.hear(subject, {})}

    monkeypatch.setattr(room, "heard_on", looked)
    monkeypatch.setattr(room, "RowDensity", StandardNormal)
    monkeypatch.setattr(room, "annealed_from_prior", annealed)
    monkeypatch.setattr(room, "discrete", lambda *_: np.array(whole))
    monkeypatch.setattr(room, "_evidence", lambda fit, rows: np.full(len(rows), -3.0))
    return weighing(), seen


@pytest.mark.parametrize("whole", [[False, False], [True, False], [True, True]])
def test_what_the_witnesses_are_heard_on(
    whole: list[bool], linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws, weights and densities in double precision; the evidence where a latent is discrete."""
    model, guide, x = linear
    fit = fit_of(model, guide, x)
    found, (cheap, costly) = subjects_of(monkeypatch, whole, lambda: weigh(fit, x[:2], 7, 30))
    assert found.discrete is any(whole)
    for subject in (cheap, costly):
        assert subject.status is Status.CONVERGED and subject.amortized
        assert subject.log_ratio is not None and subject.log_density is not None
        for values in (subject.values, subject.log_ratio, subject.log_density):
            assert values.dtype == np.float64
        z = torch.as_tensor(subject.values, dtype=x.dtype)
        log_q = guide.posterior(x[:2]).log_prob(z).detach().double().numpy()
        np.testing.assert_allclose(subject.log_density - log_q, subject.log_ratio, atol=1e-4)
        assert subject.evidence is None or subject.evidence.tolist() == [-3.0, -3.0]
        assert (subject.evidence is not None) is any(whole)
    assert cheap.density is None and cheap.position is None
    assert isinstance(costly.density, StandardNormal) and costly.seed == 7
    assert cheap.annealed is None and costly.annealed is not None
    assert costly.annealed.values.shape == (3, 2, 2) and costly.annealed.log_w.dtype == np.float64
    assert costly.annealed.known.all() and costly.own is not None
    q = guide.posterior(x[:2])
    np.testing.assert_allclose(costly.own.mean, q.mean.detach(), rtol=1e-6)
    np.testing.assert_allclose(costly.own.sd, q.variance.sqrt().detach(), rtol=1e-6)
    assert costly.own.size == np.inf
    assert costly.position is not None and costly.gradient is not None
    assert costly.position.dtype == costly.gradient.dtype == np.float64
    np.testing.assert_array_equal(costly.position, costly.values)
    np.testing.assert_array_equal(costly.gradient, -costly.values)
    assert found.mean.dtype == found.sd.dtype == np.float64


def test_one_row_tells_why_latents_that_are_not_all_real_have_no_gradients(
    linear: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, guide, x = linear
    monkeypatch.setattr(
        room, "latents_of", lambda *_: (Latent("z", torch.Size([D]), torch.float32, False),)
    )
    fit = fit_of(model, guide, x)
    found, seen = subjects_of(monkeypatch, [False, False], lambda: weigh(fit, x[:5], 0, 30))
    assert [subject.posteriors for subject in seen] == [5, 1]
    assert seen[1].density is None and found.sampled is None and found.worst == []


def test_the_rows_with_the_largest_khats_are_looked_at_besides() -> None:
    """Of those with unusable weights and outside the sample; a k-hat that is not a number comes first."""
    khat = np.array([0.9, 0.2, 1.5, math.nan, 0.8, *np.linspace(2, 3, 8)])
    told = Testimony(
        "Importance weights", doubt=np.where(khat < 0.7, 1.0, math.inf), numbers={"khat": khat}
    )
    assert room._worst(told, np.array([4, 12])).tolist() == [3, 11, 10, 9, 8, 7, 6, 5]
    few = room._worst(told, np.array([3, *range(5, 13)]))
    assert few.tolist() == [2, 0, 4]


def test_a_biased_encoder_has_the_weights_of_its_shift() -> None:
    """q = N(a, 1) for the posterior N(0, 1) (the decoder ignores z): the ELBO lacks KL = a^2 / 2."""
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(0)
        model = LinearVAE(P, 1)
        encoder = nn.Linear(P, 2)
        guide = AmortizedNormal(encoder, 1)
    with torch.no_grad():
        for parameter in (*model.parameters(), *encoder.parameters()):
            parameter.zero_()
        encoder.bias.copy_(torch.tensor([0.5, math.log(math.e - 1)]))  # softplus gives 1
    x = torch.zeros(2, P)
    found = weigh(fit_of(model, guide, x), x, 0, 4000)
    gap = found.bound - found.elbo
    np.testing.assert_allclose(gap, 0.125, atol=5 * 0.5 / math.sqrt(4000))
    np.testing.assert_allclose(found.mean, 0.5, rtol=1e-6)


class Flow(nn.Module):
    """A posterior of rows without moments in closed form."""

    observed, site = "x", "z"

    def posterior(self, x: Tensor) -> Any:
        class Unknown:
            @property
            def mean(self) -> Tensor:
                raise NotImplementedError

        return Unknown()


def test_moments_of_draws_where_there_is_no_closed_form() -> None:
    z = torch.randn(50, 3, D, generator=torch.Generator().manual_seed(0))
    for guide in (Flow(), nn.Linear(1, 1)):
        fit: Any = SimpleNamespace(guide=guide)
        mean, sd, exact = room._moments(fit, torch.zeros(3, P), z)
        np.testing.assert_allclose(mean, z.mean(0), rtol=1e-6)
        np.testing.assert_allclose(sd, z.std(0), rtol=1e-6)
        assert mean.dtype == sd.dtype == np.float64 and not exact


def test_evidence_where_the_model_sums_over_its_states() -> None:
    x = torch.zeros(3, P)

    def many(_: Tensor) -> Tensor:
        raise ModelError("too many states")

    def of(**methods: Any) -> np.ndarray | None:
        fit: Any = SimpleNamespace(model=SimpleNamespace(**methods))
        return room._evidence(fit, x)

    assert of() is None and of(log_evidence=3.0) is None and of(log_evidence=many) is None
    found = of(log_evidence=lambda rows: rows.sum(1) - 2)
    assert found is not None and found.tolist() == [-2.0] * 3
    assert found.dtype == np.float64


def test_discrete_rows_have_their_evidence_and_no_sample() -> None:
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(0)
        model = DiscreteVAE(P, 1, 3, ()).requires_grad_(False)
        guide = AmortizedCategorical(nn.Linear(P, 3), 1, 3)
    x = (torch.rand(4, P, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    found = weigh(fit_of(model, guide, x), x, 0, 300)
    assert found.discrete and found.sampled is None
    joint = model.log_joint(x).detach().double()
    log_q = guide.encoder(x).detach().double().log_softmax(-1)
    elbo = (log_q.exp() * (joint - log_q)).sum(-1)
    spread = (log_q.exp() * (joint - log_q - elbo[:, None]).square()).sum(-1).sqrt()
    assert (np.abs(found.elbo - elbo.numpy()) < 5 * spread.numpy() / math.sqrt(300)).all()
    assert not found.heard[enumeration.NAME].absent
    absent = {t.absent for t in found.heard.values() if t.absent}
    assert "latents that are not all real numbers" in absent


def test_names_count_the_numbers_of_every_site() -> None:
    latents = [
        Latent("z", torch.Size([2]), torch.float32, True),
        Latent("w", torch.Size([]), torch.float32, True),
        Latent("A", torch.Size([1, 2]), torch.float32, True),
    ]
    assert names_of(latents) == ["z[0]", "z[1]", "w[0]", "A[0]", "A[1]"]


def test_codes_are_those_of_the_encoder_and_nothing_else_is_known(linear: Any) -> None:
    model, _, x = linear
    with torch.random.fork_rng(), local_parameters():
        torch.manual_seed(0)
        guide = AmortizedDelta(nn.Linear(P, D), D)
    found = codes(fit_of(model, guide, x), x[:3])
    np.testing.assert_allclose(found.mean, guide.encoder(x[:3]).detach(), rtol=1e-6)
    assert (found.sd == 0).all() and found.sd.shape == (3, D)
    assert found.mean.dtype == np.float64
    for unknown in (found.elbo, found.bound, found.khat, found.khat_se):
        assert unknown.shape == (3,) and np.isnan(unknown).all()
    assert (found.draws, found.sampled, found.discrete) == (1, None, False)
    assert found.heard["Convergence"].words == (Status.CONVERGED.value,)
    assert list(found.names) == ["z[0]", "z[1]"]


def test_the_rows_that_lose_most_are_kept_with_what_they_lose() -> None:
    """Three at most, the largest share first; ends of chains with weights that sum to one, and draws."""
    rng = np.random.default_rng(0)
    values, ends = rng.standard_normal((1000, 5, 2)), rng.standard_normal((4, 5, 2))
    log_w = rng.standard_normal((4, 5)) + np.array([800.0, -800.0, 0.0, 3.0, 700.0])
    subject = Subject(
        "density",
        ["a", "b"],
        values,
        np.zeros(2, bool),
        annealed=Annealed(ends, log_w, np.zeros(5, bool), *[np.zeros((5, 2))] * 2),
    )
    rows = np.array([10, 11, 12, 13, 14])
    found = room._left_out(subject, np.array([0.2, 0.0, 0.5, 0.1, 0.3]), rows)
    assert [(one.row, one.share) for one in found] == [(12, 0.5), (14, 0.3), (10, 0.2)]
    for one, i in zip(found, (2, 4, 0), strict=True):
        w = np.exp(log_w[:, i] - log_w[0, i])
        np.testing.assert_allclose(one.weights, w / w.sum())
        np.testing.assert_array_equal(one.ends, ends[:, i])
        np.testing.assert_array_equal(one.draws, values[:400, i])
    (alone,) = room._left_out(subject, np.array([0.0, 0.0, 0.0, 1e-3, 0.0]), rows)
    assert alone.row == 13
    assert room._left_out(Subject("density", [], values, np.zeros(2, bool)), np.ones(5), rows) == ()
