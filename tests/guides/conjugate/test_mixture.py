"""The mixture's guides: autodiff, Bishop's formulas, scikit-learn and brute force."""

import itertools
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import special, stats
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture

import guidebook as gb
from guidebook import Status
from guidebook.errors import DataError, GuideError
from guidebook.guides.conjugate.mixture import MixtureMeanField, hard_assignments
from guidebook.guides.exact.enumerated_mixture import EnumeratedMixture
from guidebook.inference.cavi import cavi
from guidebook.models.mixture import GaussianMixture, cholesky_of

COVARIANCES = ("unit", "diagonal", "full")


@pytest.fixture(autouse=True)
def seed():
    pyro.set_rng_seed(0)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def mixture(covariance, K=3, D=2, concentration=0.7):
    return GaussianMixture(K, D, covariance, concentration, 0.2, 0.5, D + 1.5, 1.3)


def started(covariance, **options):
    """A guide whose q is neither the prior nor a fit, and rows."""
    guide, x = MixtureMeanField(mixture(covariance, **options)), draw(12, 2) * 2 + 1
    guide.adopt(guide.initial_natural(x, 12, 0))
    return guide, x


def scores_by_bishop(guide, x):
    """E_q[log pi_k + log N(x_i | loc_k, precision_k)], (n, K): equations 10.46, 10.64 to 10.66."""
    h = {n: v.numpy() for n, v in guide.hyper().items()}
    K, D, rows = guide.model.K, guide.model.D, x.numpy()
    found = np.zeros((len(rows), K))
    for k in range(K):
        away = rows - h["loc"][k]
        if guide.model.covariance == "unit":
            squares = (away**2).sum(1) + D / h["mean_precision"][k]
            log_det = 0.0
        elif guide.model.covariance == "diagonal":
            mean = h["df"][k] / h["inverse_scale"][k]
            squares = (away**2 * mean + 1 / h["mean_precision"][k]).sum(1)
            log_det = (special.digamma(h["df"][k] / 2) - np.log(h["inverse_scale"][k] / 2)).sum()
        else:
            W = np.linalg.inv(h["inverse_scale"][k])
            squares = D / h["mean_precision"][k] + h["df"][k] * np.einsum(
                "ni,ij,nj->n", away, W, away
            )
            steps = (h["df"][k] - np.arange(D)) / 2
            log_det = special.digamma(steps).sum() + D * np.log(2) + np.linalg.slogdet(W)[1]
        found[:, k] = 0.5 * (log_det - squares - D * np.log(2 * np.pi))
    if "concentration" in h:
        a = h["concentration"]
        return found + special.digamma(a) - special.digamma(a.sum())
    return found - np.log(K)


# structure --------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_bound_and_responsibilities_are_those_of_bishop(covariance, concentration):
    guide, x = started(covariance, concentration=concentration)
    scores = scores_by_bishop(guide, x)
    bound, _ = guide.local(x, guide.expected(guide.natural))
    assert float(bound) == pytest.approx(special.logsumexp(scores, 1).sum(), rel=1e-11)
    found = guide.responsibilities(x)
    np.testing.assert_allclose(found, special.softmax(scores, 1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("concentration", [None, 0.7])
def test_the_message_of_rows_is_the_gradient_of_their_bound(covariance, concentration):
    guide, x = started(covariance, concentration=concentration)
    expected = {n: v.requires_grad_() for n, v in guide.expected(guide.natural).items()}
    matrix, offset = guide._scores(expected["components"])  # `local` itself works in place
    offset = offset + expected.get("weights", draw(1).new_tensor(-math.log(3)))
    bound = (guide._features(x) @ matrix + offset).logsumexp(-1).sum()
    gradient = dict(zip(expected, torch.autograd.grad(bound, list(expected.values())), strict=True))
    bound = bound.detach()
    found, message = guide.local(x, {n: v.detach() for n, v in expected.items()})
    assert float(found) == pytest.approx(float(bound), rel=1e-12)
    if covariance == "full":  # of a symmetric matrix: both halves share the derivative
        _, of_matrix, _, _ = guide.families["components"].split(gradient["components"])
        of_matrix.copy_((of_matrix + of_matrix.mT).clone() / 2)
    assert message.keys() == gradient.keys()
    for name, value in message.items():
        torch.testing.assert_close(value, gradient[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_messages_of_pieces_add_up(covariance):
    guide, x = started(covariance)
    expected = guide.expected(guide.natural)
    bound, message = guide.local(x, expected)
    pieces = [guide.local(piece, expected) for piece in x.split(5)]
    torch.testing.assert_close(sum(b for b, _ in pieces), bound, rtol=1e-12, atol=0)
    for name, value in message.items():
        total = sum(m[name] for _, m in pieces)
        torch.testing.assert_close(total, value, rtol=1e-12, atol=1e-12)


def test_rows_are_not_changed_by_reading_them():
    guide, x = started("full")
    before = x.clone()
    guide.local(x, guide.expected(guide.natural))
    guide.responsibilities(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_hyperparameters_and_natural_parameters_are_inverses(covariance):
    guide, _ = started(covariance)
    hyper = guide.hyper()
    back = guide.natural_of(hyper)
    for name, value in guide.natural.items():
        torch.testing.assert_close(back[name], value, rtol=1e-10, atol=1e-10)
    prior = guide.hyper(guide.prior)
    for name, value in guide.model.prior(draw(1)).items():
        torch.testing.assert_close(prior[name], value, rtol=1e-10, atol=1e-10)


def test_responsibilities_of_two_unit_components_by_hand():
    """Means N(-1, 1/2) and N(1, 1/2), equal weights: the log odds at x are 2 x."""
    guide = MixtureMeanField(GaussianMixture(2, 1, "unit", None))
    hyper = {"loc": torch.tensor([[-1.0], [1.0]]), "mean_precision": torch.tensor([2.0, 2.0])}
    guide.adopt(guide.natural_of({n: v.double() for n, v in hyper.items()}))
    found = guide.responsibilities(torch.tensor([[0.0], [0.5], [3.0]]))[:, 1]
    np.testing.assert_allclose(found, special.expit([0.0, 1.0, 6.0]), rtol=1e-12)


def test_update_by_hand():
    """Rows 0, 0, 6 of hard clusters: q(loc) = N(s / (1 + n), 1 / (1 + n)), counts 1 + n."""
    guide = MixtureMeanField(GaussianMixture(2, 1, "unit", 1.0))
    natural = guide.initial_natural(torch.tensor([[0.0], [0.0], [6.0]]).double(), 3, 0)
    hyper = guide.hyper(natural)
    order = hyper["loc"][:, 0].argsort()
    assert hyper["loc"][order, 0].tolist() == pytest.approx([0.0, 3.0], abs=1e-12)
    assert hyper["mean_precision"][order].tolist() == pytest.approx([3.0, 2.0])
    assert hyper["concentration"][order].tolist() == pytest.approx([3.0, 2.0])


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_as_a_pyro_guide_it_has_the_models_sites_and_q_s_moments(covariance):
    # 400 draws; every mean of loc within 5 standard errors, fixed seed.
    guide, x = started(covariance)
    trace = poutine.trace(guide).get_trace(x)
    assert set(guide.sites) == {n for n, v in trace.nodes.items() if v["type"] == "sample"
                                and n != "component"}  # fmt: skip
    drawn = torch.stack([guide(x)["loc"] for _ in range(400)])
    error = drawn.std(0) / math.sqrt(400)
    assert bool(((drawn.mean(0) - guide.hyper()["loc"]).abs() < 5 * error).all())


def test_k_means_gives_indicators_and_leaves_surplus_clusters_empty():
    x = torch.tensor([[0.0], [0.0], [5.0]])
    share = hard_assignments(x, 5, seed=2**40)
    assert share.shape == (3, 5) and share.sum(1).tolist() == [1, 1, 1]
    assert torch.equal(share[0], share[1]) and not torch.equal(share[0], share[2])


def test_a_foreign_model_is_refused():
    with pytest.raises(GuideError, match=r"no K, D.*GaussianMixture.*mean_field"):
        MixtureMeanField(lambda x=None: None)


def test_rows_of_another_width_are_refused():
    guide = MixtureMeanField(mixture("full"))
    with pytest.raises(DataError, match=r"needs \(rows, 2\)"):
        guide.initial_natural(draw(5, 3), 5, 0)


# scikit-learn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [2, 3])
def test_iris_agrees_with_scikit_learn(K):
    """Full covariances, the same priors, both converged far beyond what is compared."""
    x = load_iris().data
    model = GaussianMixture(K, 4, "full", 1 / K, x.mean(0), 1.0, 4.0, np.cov(x.T))
    fit = cavi(model, MixtureMeanField(model), {"x": x}, tolerance=1e-13, progress=False)
    theirs = BayesianGaussianMixture(
        n_components=K, weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=1 / K, mean_precision_prior=1.0, degrees_of_freedom_prior=4,
        tol=1e-12, max_iter=5000, reg_covar=0, random_state=0,
    ).fit(x)  # fmt: skip
    hyper = {n: v.numpy() for n, v in fit.guide.hyper().items()}
    ours, other = np.argsort(hyper["loc"][:, 0]), np.argsort(theirs.means_[:, 0])
    assert np.diff(np.sort(hyper["loc"][:, 0])).min() > 0.1
    covariances = hyper["inverse_scale"] / hyper["df"][:, None, None]
    pairs = {
        "means": (hyper["loc"], theirs.means_),
        "weights": (hyper["concentration"], theirs.weight_concentration_),
        "covariances": (covariances, theirs.covariances_),
        "mean precisions": (hyper["mean_precision"], theirs.mean_precision_),
        "degrees of freedom": (hyper["df"], theirs.degrees_of_freedom_),
    }
    for name, (a, b) in pairs.items():
        np.testing.assert_allclose(a[ours], b[other], rtol=1e-4, atol=1e-4, err_msg=name)
    found = fit.guide.responsibilities(torch.from_numpy(x)).numpy()[:, ours]
    np.testing.assert_allclose(found, theirs.predict_proba(x)[:, other], atol=1e-3)


# far from zero ----------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_data_far_from_zero_lose_no_digits(covariance):
    # multiples of 2^-20 are moved by 10^6 without rounding
    near = np.round(np.random.default_rng(0).normal(size=(80, 2)) * 2**20) / 2**20
    near[:40] += 5
    fits = []
    for shift in (0.0, 1e6):
        model = GaussianMixture(2, 2, covariance, 0.7, shift, 0.5, 3.5, 1.3)
        data = {"x": near + shift}
        fits.append(cavi(model, MixtureMeanField(model), data, progress=False))
    assert fits[0].history[-1] == pytest.approx(fits[1].history[-1], rel=1e-9)
    here, there = (fit.guide.hyper() for fit in fits)
    torch.testing.assert_close(there["loc"] - 1e6, here["loc"], rtol=0, atol=1e-8)
    for name in here.keys() - {"loc"}:
        torch.testing.assert_close(there[name], here[name], rtol=1e-8, atol=1e-8)


def test_responsibilities_follow_single_precision_rows_to_double():
    guide, x = started("full")
    single = guide.responsibilities(x.float())
    assert single.dtype is torch.float64
    torch.testing.assert_close(single, guide.responsibilities(x), rtol=1e-4, atol=1e-5)


# enumeration ------------------------------------------------------------------------------------


def brute_force(model, x):
    """log p(x) summed over assignments; a component's rows are jointly normal, column by column."""
    kappa, m = model.mean_precision, float(model.loc)
    terms = []
    for z in itertools.product(range(model.K), repeat=len(x)):
        total = -len(x) * math.log(model.K)
        for k in range(model.K):
            rows = x[[i for i, at in enumerate(z) if at == k]]
            if len(rows):
                covariance = np.eye(len(rows)) + np.ones((len(rows), len(rows))) / kappa
                normal = stats.multivariate_normal(np.full(len(rows), m), covariance)
                total += sum(normal.logpdf(column) for column in rows.T)
        terms.append(total)
    return special.logsumexp(terms)


@pytest.mark.parametrize(("K", "D", "n"), [(1, 2, 4), (2, 1, 5), (2, 2, 4), (3, 2, 4)])
def test_evidence_is_that_of_brute_force(K, D, n):
    model = GaussianMixture(K, D, "unit", None, 0.3, 0.4)
    x = np.random.default_rng(K).normal(size=(n, D)) * 2
    _, found = EnumeratedMixture(model).posterior(torch.from_numpy(x))
    assert float(found) == pytest.approx(brute_force(model, x), abs=1e-9)
    fit = gb.exact(model, EnumeratedMixture(model), {"x": x})
    assert fit.status is Status.EXACT
    assert fit.notes["log_evidence"] == pytest.approx(float(found), abs=1e-9)


def test_enumerated_moments_by_quadrature():
    model = GaussianMixture(2, 1, "unit", None, 0.0, 0.25)
    x = torch.tensor([[-1.5], [0.2], [1.0]], dtype=torch.float64)
    posterior, log_evidence = EnumeratedMixture(model).posterior(x)
    grid = torch.linspace(-12, 12, 601, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    prior = torch.distributions.Normal(a.new_zeros(()), 2.0)
    rows = torch.distributions.Normal(torch.stack([a, b], -1).unsqueeze(-2), 1.0).log_prob(x)
    log_joint = prior.log_prob(a) + prior.log_prob(b)
    log_joint = log_joint + (rows.logsumexp(-1) - math.log(2)).sum(-1)
    cell = float(grid[1] - grid[0]) ** 2
    assert float(log_joint.exp().sum()) * cell == pytest.approx(math.exp(log_evidence), rel=1e-8)
    density = (log_joint - log_evidence).exp()
    at = torch.stack([a, b], -1).unsqueeze(-1).reshape(-1, 2, 1)
    torch.testing.assert_close(posterior.log_prob(at).exp(), density.flatten(), rtol=1e-8,
                               atol=1e-12)  # fmt: skip
    for power in (1, 2):
        expected = float((density * a**power).sum()) * cell
        of_q = posterior.mean if power == 1 else posterior.variance + posterior.mean.square()
        assert float(of_q[0, 0]) == pytest.approx(expected, abs=1e-7)


def test_too_many_assignments_are_refused_with_the_number_that_is_not():
    model = GaussianMixture(3, 1, "unit", None)
    most = int(math.log(EnumeratedMixture.MOST, 3))
    with pytest.raises(DataError, match=rf"3\^{most + 1} .* at most {most} rows, or use gibbs"):
        EnumeratedMixture(model)(draw(most + 1, 1))
    assert EnumeratedMixture(model).posterior(draw(most, 1))[1].isfinite()


def test_one_component_has_one_assignment_however_many_rows():
    model = GaussianMixture(1, 1, "unit", None, 0.0, 1.0)
    x = draw(5000, 1)
    posterior, log_evidence = EnumeratedMixture(model).posterior(x)
    assert float(posterior.mean) == pytest.approx(float(x.sum() / 5001), abs=1e-12)
    # n iid rows given a normal mean: log det (I + 11') = log(1 + n), Woodbury for the square
    squares = float(x.square().sum() - x.sum() ** 2 / 5001)
    expected = -2500 * math.log(2 * math.pi) - 0.5 * math.log(5001) - 0.5 * squares
    assert float(log_evidence) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "model",
    [GaussianMixture(2, 1, "full", None), GaussianMixture(2, 1, "unit", 1.0), lambda x=None: None],
)
def test_other_mixtures_have_no_enumerated_posterior(model):
    with pytest.raises(GuideError, match="use gibbs as the reference"):
        EnumeratedMixture(model)


def test_mini_batches_are_refused():
    guide = EnumeratedMixture(GaussianMixture(2, 1, "unit", None))
    with pytest.raises(GuideError, match="all rows"):
        guide()
    with pytest.raises(GuideError, match="all rows"):
        guide(draw(3, 1), size=10)


def test_a_wrong_guide_is_found_out_by_exact():
    model = GaussianMixture(2, 1, "unit", None)
    with pytest.raises(GuideError, match="not the posterior"):
        gb.exact(model, MixtureMeanField(model), {"x": draw(4, 1)})


def test_q_of_the_full_covariance_has_the_wisharts_mean():
    # 400 draws; every entry within 5 standard errors, fixed seed.
    guide, x = started("full", K=2)
    factor = cholesky_of(torch.stack([guide(x)["log_cholesky"] for _ in range(400)]), 2)
    precision = factor @ factor.mT
    hyper = guide.hyper()
    mean = hyper["df"][:, None, None] * torch.linalg.inv(hyper["inverse_scale"])
    error = precision.std(0) / math.sqrt(400)
    assert bool(((precision.mean(0) - mean).abs() < 5 * error).all())
