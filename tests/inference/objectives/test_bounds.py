"""Objectives against closed forms, against each other, and captured against pyro.infer.SVI."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO

import guidebook as gb
from guidebook.errors import FileError, GuideError, SettingError
from guidebook.guides.amortized.normal import AmortizedNormal
from guidebook.guides.exact.conjugate import LinearGaussianPosterior
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.importance import ImportanceWeightedELBO
from guidebook.inference.objectives.rows import row_log_weights
from guidebook.inference.objectives.schedules import constant, cyclic, exponential, linear
from guidebook.inference.objectives.sticking import StickingTheLanding
from guidebook.models.decoders.latent import VAE, LinearVAE
from guidebook.models.decoders.networks import mlp
from guidebook.programs.scope import local_parameters

X = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).round()


def pair():
    torch.manual_seed(0)
    return VAE(5, 2, (4,)).double(), AmortizedNormal(mlp((5, 6, 4)), 2).double()


@pytest.fixture
def local():
    with local_parameters():
        yield


def value(objective, model, guide, seed=1, **data):
    torch.manual_seed(seed)
    return objective.loss(model, guide, **data)


def gradients(objective, model, guide, seed=1, **data):
    torch.manual_seed(seed)
    parameters = dict(model.named_parameters()), dict(guide.named_parameters())
    loss = objective.differentiable_loss(model, guide, **data)
    flat = [*parameters[0].values(), *parameters[1].values()]
    found = torch.autograd.grad(loss, flat, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(flat, found, strict=True)]
    count = len(parameters[0])
    return [torch.cat([g.reshape(-1) for g in part]) for part in (found[:count], found[count:])]


# values -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("local")
def test_beta_of_one_is_trace_elbo_draw_by_draw():
    model, guide = pair()
    for data in ({"x": X}, {"x": X, "size": 80}):
        theirs = value(Trace_ELBO(), model, guide, **data)
        assert value(BetaELBO(), model, guide, **data) == pytest.approx(theirs, rel=1e-12)
        assert value(StickingTheLanding(), model, guide, **data) == pytest.approx(theirs, rel=1e-12)
    for mine, theirs in zip(
        gradients(BetaELBO(), model, guide, x=X),
        gradients(Trace_ELBO(), model, guide, x=X),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("local")
def test_weights_multiply_their_part():
    model, guide = pair()
    both = value(BetaELBO(), model, guide, x=X)
    kl = value(BetaELBO(reconstruction=0.0), model, guide, x=X)
    fit = value(BetaELBO(beta=0.0), model, guide, x=X)
    assert kl + fit == pytest.approx(both, rel=1e-12)
    weighed = value(BetaELBO(beta=4.0, reconstruction=0.3), model, guide, x=X)
    assert weighed == pytest.approx(4 * kl + 0.3 * fit, rel=1e-12)
    # the KL part is the closed form: N(m, s) against N(0, 1), 8 rows x 2 dimensions
    q = guide.posterior(X).base_dist
    exact = (0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()).sum().detach()
    draws = torch.tensor(
        [value(BetaELBO(reconstruction=0.0, particles=50), model, guide, s, x=X) for s in range(40)]
    )
    error = float(draws.std()) / math.sqrt(40)
    assert abs(float(draws.mean() - exact)) < 4 * error  # false alarm: 1 in 4,000 for 39 degrees


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("gradient", ["reparameterised", "doubly"])
@pytest.mark.parametrize("size", [None, 80])
def test_the_importance_weighted_bound_is_the_log_mean_weight_of_each_row(gradient, size):
    model, guide = pair()
    data = {"x": X} if size is None else {"x": X, "size": size}
    found = value(ImportanceWeightedELBO(6, gradient), model, guide, **data)
    torch.manual_seed(1)
    log_w = row_log_weights(model, guide, data, 6)
    expected = log_w.exp().mean(0).log().sum().item() * (1 if size is None else 10)
    assert -found == pytest.approx(expected, rel=1e-10)


@pytest.mark.usefixtures("local")
def test_at_the_exact_posterior_every_bound_is_the_evidence():
    torch.manual_seed(0)
    model = LinearVAE(5, 2).double()
    guide = LinearGaussianPosterior(model)
    evidence = guide.log_evidence(X).sum().item()
    for objective in (ImportanceWeightedELBO(4), ImportanceWeightedELBO(1, "doubly"), BetaELBO()):
        assert -value(objective, model, guide, x=X) == pytest.approx(evidence, abs=1e-8)


# gradients ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("local")
def test_the_doubly_reparameterised_gradient_of_the_model_is_the_usual_one():
    model, guide = pair()
    usual = gradients(ImportanceWeightedELBO(5), model, guide, x=X, size=80)
    doubly = gradients(ImportanceWeightedELBO(5, "doubly"), model, guide, x=X, size=80)
    torch.testing.assert_close(doubly[0], usual[0], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(doubly[1], usual[1])


@pytest.mark.usefixtures("local")
def test_with_one_particle_the_doubly_reparameterised_gradient_sticks_the_landing():
    model, guide = pair()
    doubly = gradients(ImportanceWeightedELBO(1, "doubly"), model, guide, x=X)
    landing = gradients(StickingTheLanding(), model, guide, x=X)
    for one, other in zip(doubly, landing, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ImportanceWeightedELBO(3), ImportanceWeightedELBO(3, "doubly")),
        (BetaELBO(), StickingTheLanding()),
    ],
)
def test_both_gradients_of_the_guide_have_one_mean(one, other):
    model, guide = pair()
    draws = [
        torch.stack([gradients(o, model, guide, s, x=X)[1] for s in range(600)])
        for o in (one, other)
    ]
    difference = draws[0] - draws[1]  # of the same random numbers
    error = difference.std(0) / math.sqrt(600)
    z = (difference.mean(0) / error.clamp(min=1e-12))[error > 1e-12]
    assert z.abs().max() < 5  # of 64 numbers: false alarm 4e-5


@pytest.mark.usefixtures("local")
def test_at_the_exact_posterior_sticking_the_landing_has_no_noise():
    torch.manual_seed(0)
    model = LinearVAE(5, 2).double()
    exact = LinearGaussianPosterior(model).posterior(X)
    d, width = 2, 5
    guide = AmortizedNormal(mlp((5, width)), d, covariance="full").double()
    with torch.no_grad():  # the exact posterior is affine in x, with one covariance
        tril = exact.scale_tril[0]
        m_inverse = LinearGaussianPosterior(model).posterior(torch.eye(5).double()).mean
        zero = LinearGaussianPosterior(model).posterior(torch.zeros(1, 5).double()).mean
        layer = guide.encoder[0]
        layer.weight.zero_()
        layer.weight[:d] = (m_inverse - zero).T
        layer.bias[:d] = zero[0]
        layer.bias[d : 2 * d] = torch.log(torch.expm1(tril.diagonal() - 1e-6))
        layer.bias[2 * d :] = tril[1, 0]
    torch.testing.assert_close(guide.posterior(X).mean, exact.mean, rtol=1e-10, atol=1e-10)
    landing = gradients(StickingTheLanding(), model, guide, x=X)[1]
    assert landing.abs().max() < 1e-9
    assert gradients(Trace_ELBO(), model, guide, x=X)[1].abs().max() > 0.1


# in svi -------------------------------------------------------------------------------------------

OBJECTIVES = [
    pytest.param(lambda: BetaELBO(beta=linear(0.0, 2.0, 0.5)), id="beta-schedule"),
    pytest.param(
        lambda: BetaELBO(beta=cyclic(0.0, 1.0, 2), reconstruction=exponential(0.1, 1.0)), id="both"
    ),
    pytest.param(lambda: BetaELBO(beta=2.0, particles=3), id="beta-particles"),
    pytest.param(lambda: ImportanceWeightedELBO(4), id="importance"),
    pytest.param(lambda: ImportanceWeightedELBO(4, "doubly"), id="doubly"),
    pytest.param(lambda: StickingTheLanding(2), id="landing"),
]


@pytest.mark.parametrize("make", OBJECTIVES)
def test_captured_is_pyros_svi_step_by_step(make):
    model, guide = pair()
    both = [
        gb.svi(
            model, guide, {"x": X}, objective=make(), steps=30, batch_size=4, progress=False,
            compile=how, seed=3,
        ).history
        for how in ("graph", False)
    ]  # fmt: skip
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)
    assert len(both[0]) == 30


def test_the_recorded_step_weighs_with_the_value_of_its_schedule():
    """Without movement, (L(beta_t) - L(0)) / (L(1) - L(0)) of the same draws is beta_t."""
    model, guide = pair()
    still = pyro.optim.Adam({"lr": 0.0})

    def history(beta):
        objective = BetaELBO(beta=beta)
        return gb.svi(
            model, guide, {"x": X}, objective=objective, optim=still, steps=21, progress=False,
            compile="graph",
        ).history  # fmt: skip

    low, high = history(0.0), history(1.0)
    warm = (history(linear(0.0, 1.0, 0.5)) - low) / (high - low)
    np.testing.assert_allclose(warm, np.minimum(1.0, np.linspace(0, 2, 21)), atol=1e-10)
    again = (history(constant(0.25)) - low) / (high - low)
    np.testing.assert_allclose(again, 0.25, atol=1e-10)


def test_restarts_and_a_checkpoint_keep_the_schedule(tmp_path):
    model, guide = pair()
    settings = {"steps": 40, "progress": False, "compile": "graph"}
    fit = gb.svi(model, guide, {"x": X}, objective=BetaELBO(linear(0, 1)), restarts=2, **settings)
    assert np.isfinite(fit.history).all()
    path = tmp_path / "fit"
    gb.svi(model, guide, {"x": X}, objective=BetaELBO(linear(0, 1)), checkpoint=path, **settings)
    with pytest.raises(FileError, match="schedules"):
        gb.svi(
            model, guide, {"x": X}, objective=BetaELBO(linear(0, 2)), checkpoint=path, **settings
        )


def of_mu(y):
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def guide_of_mu(y):
    loc = pyro.param("loc", torch.zeros((), dtype=y.dtype))
    scale = pyro.param("scale", torch.ones((), dtype=y.dtype), constraint=constraints.positive)
    pyro.sample("mu", dist.Normal(loc, scale))


@pytest.mark.parametrize("how", ["graph", False])
def test_sticking_the_landing_of_a_function_guide_reaches_the_closed_form(how):
    y = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64)
    fit = gb.svi(
        of_mu, guide_of_mu, {"y": y}, objective=StickingTheLanding(), steps=1500, compile=how,
        progress=False,
    )  # fmt: skip
    precision = 4 + 0.01
    draws = fit.posterior(20_000)["posterior"]["mu"].values
    # at the optimum the gradient has no noise, so only the draws have: 5 of their standard errors
    sd = precision**-0.5
    assert draws.mean() == pytest.approx(10 / precision, abs=5 * sd / math.sqrt(20_000))
    assert draws.std() == pytest.approx(sd, rel=5 / math.sqrt(40_000) + 0.01)


# what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BetaELBO(beta=-1.0), "beta is -1.0: give a finite number of at least 0"),
        (lambda: BetaELBO(reconstruction=math.inf), "reconstruction is inf"),
        (lambda: BetaELBO(beta=linear(1.0, -1.0)), "along its schedule"),
        (lambda: ImportanceWeightedELBO(0), "particles=0"),
        (lambda: ImportanceWeightedELBO(2, "score"), "'reparameterised' or 'doubly'"),
        (lambda: BetaELBO().at(gamma=1.0), "no weight or temperature"),
        (lambda: linear(0, 1, 0.0), "share=0.0"),
        (lambda: exponential(0.0, 1.0), "positive numbers"),
        (lambda: cyclic(0, 1, 0), "cycles=0"),
    ],
)
def test_settings_out_of_range(make, said):
    with pytest.raises(SettingError, match=said):
        make()


@pytest.mark.usefixtures("local")
def test_draws_without_a_gradient_are_refused():
    def model(x):
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(len(x))))
            pyro.sample("x", dist.Normal(x.new_zeros(len(x)), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Bernoulli(0.5 * x.new_ones(len(x))))

    for objective in (BetaELBO(), ImportanceWeightedELBO(2), StickingTheLanding()):
        with pytest.raises(GuideError, match="no gradient"):
            objective.loss(model, guide, x=X)
