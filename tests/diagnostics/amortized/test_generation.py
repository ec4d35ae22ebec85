"""Generation: SSIM against its definition, nearest neighbours, memorisation, held-out bound."""

import numpy as np
import pytest
import torch

import guidebook as gb
from guidebook.diagnostics.amortized.generation import Generation, generation
from guidebook.diagnostics.measures.information import Estimate
from guidebook.diagnostics.measures.similarity import ssim, warning_images
from guidebook.errors import DataError
from guidebook.guides import LinearGaussianPosterior
from guidebook.models import LinearVAE

RNG = np.random.default_rng(0)
IMAGE = RNG.random((24, 24))


def test_ssim_has_the_published_properties() -> None:
    other = RNG.random((24, 24))
    assert ssim(IMAGE, IMAGE) == pytest.approx(1.0)  # identity
    assert ssim(IMAGE, other) == pytest.approx(ssim(other, IMAGE))  # symmetry
    assert -1 <= ssim(IMAGE, 1 - IMAGE, 1.0) < ssim(IMAGE, other, 1.0) < 1  # bounded
    noisy = [float(ssim(IMAGE, IMAGE + s * (other - 0.5), 1.0)) for s in (0.0, 0.1, 0.3, 1.0)]
    assert noisy == sorted(noisy, reverse=True)  # monotone in the noise
    batch = ssim(np.stack([IMAGE, other]), np.stack([IMAGE, IMAGE]), 1.0)
    np.testing.assert_allclose(batch, [1.0, ssim(other, IMAGE, 1.0)])


def test_ssim_of_constants_is_the_luminance_term() -> None:
    a, b = np.full((8, 8), 0.2), np.full((8, 8), 0.6)
    c1 = 0.01**2
    assert ssim(a, b, 1.0) == pytest.approx((2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1))


def test_ssim_is_its_equation_pixel_by_pixel() -> None:
    """At one pixel far from the edges, by the sums of equation 13."""
    from guidebook.diagnostics.measures import similarity as module

    a, b = RNG.random((31, 31)), RNG.random((31, 31))
    at = np.arange(-5, 6)
    window = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(window, window) / np.outer(window, window).sum()
    A, B = a[10:21, 10:21], b[10:21, 10:21]
    ma, mb = (window * A).sum(), (window * B).sum()
    va, vb = (window * A * A).sum() - ma**2, (window * B * B).sum() - mb**2
    ab = (window * A * B).sum() - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * ma * mb + c1) * (2 * ab + c2) / (ma**2 + mb**2 + c1) / (va + vb + c2)
    found = module.ssim_map(a, b, 1.0)[15, 15]
    assert found == pytest.approx(expected, rel=1e-9)


def test_ssim_refuses_other_shapes() -> None:
    with pytest.raises(DataError, match="one shape"):
        ssim(IMAGE, IMAGE[:5])


def test_the_warning() -> None:
    images = gb.datasets.digits("train")["x"].numpy().reshape(-1, 8, 8)[:100]
    found = warning_images(images)
    np.testing.assert_allclose(found.squared["brighter"], found.squared["shifted"])
    for name, changed in found.changed.items():
        expected = np.square(changed - images).sum((1, 2))
        np.testing.assert_allclose(found.squared[name], expected)
        assert (found.similarity[name] < 1).all()
    # a good part of the digits are ordered differently by the two
    assert 0.05 < found.disagree.mean() < 0.95
    worse = found.squared["altered"] > found.squared["shifted"]
    alike = found.similarity["altered"] > found.similarity["shifted"]
    np.testing.assert_array_equal(found.disagree, worse == alike)
    # the piece that is missing is a quarter of the side
    assert ((found.changed["altered"] != images).sum((1, 2)) <= 4).all()


@pytest.fixture(scope="module")
def fit():
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(2, 6, generator=generator)
    x = torch.randn(600, 2, generator=generator) @ factors
    x = (x + 0.3 * torch.randn(600, 6, generator=generator)).double()
    model = LinearVAE.maximum_likelihood(x[:400], 2).double().requires_grad_(False)
    return gb.exact(model, LinearGaussianPosterior(model), {"x": x[:400]}), x[400:]


def test_held_out_rows_are_measured_by_the_exact_evidence(fit) -> None:
    fit, held_out = fit
    found = generation(fit, held_out=held_out)
    evidence = fit.guide.log_evidence(held_out).detach().numpy()
    assert found.held_out
    assert found.bound.value == pytest.approx(evidence.mean(), abs=1e-6)
    assert found.bound.se == pytest.approx(evidence.std(ddof=1) / np.sqrt(200), rel=1e-6)
    # decoded means lie in the plane, fresh rows beside it; neither is a copy
    assert 0.2 < found.ratio < 2 and "held-out rows" in found.sentence()
    nearest = np.linalg.norm(found.samples - found.neighbours, axis=1)
    np.testing.assert_allclose(found.sample_distance, nearest)
    train = fit.data["x"].numpy()
    every = np.linalg.norm(found.samples[:, None] - train, axis=2).min(1)
    np.testing.assert_allclose(found.sample_distance, every)


def test_without_held_out_rows_the_yardstick_is_the_data_themselves(fit) -> None:
    fit, _ = fit
    found = generation(fit)
    train = fit.data["x"].numpy()
    far = np.linalg.norm(train[:, None] - train, axis=2)
    np.fill_diagonal(far, np.inf)
    np.testing.assert_allclose(np.sort(found.fresh_distance), np.sort(far.min(1)))
    assert not found.held_out and "no held-out rows were given" in found.sentence()
    with pytest.raises(DataError, match="same shape"):
        generation(fit, held_out=np.zeros((4, 3)))


def test_copies_of_the_training_data_are_called_memorised() -> None:
    data = RNG.normal(size=(300, 5))
    none = Estimate(np.nan, np.nan)

    def made(samples: np.ndarray) -> Generation:
        far = np.linalg.norm(samples[:, None] - data, axis=2)
        fresh = np.linalg.norm(RNG.normal(size=(100, 5))[:, None] - data, axis=2).min(1)
        return Generation(
            True, none, Estimate(1.0, 0.1), samples, data[far.argmin(1)], far.min(1), fresh
        )

    copies = made(data[:48] + 0.01 * RNG.normal(size=(48, 5)))
    assert copies.memorised and "memorised" in copies.sentence()
    fresh = made(RNG.normal(size=(48, 5)))
    assert not fresh.memorised and fresh.ratio == pytest.approx(1.0, abs=0.3)
