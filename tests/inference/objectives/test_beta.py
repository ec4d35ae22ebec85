"""BetaELBO: Trace_ELBO at one, its parts add up, and schedules run inside the recorded step."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import guidebook as gb
from guidebook.errors import FileError, SettingError
from guidebook.inference.objectives.beta import BetaELBO
from guidebook.inference.objectives.given import differentiable
from guidebook.inference.objectives.objective import (
    Objective,
    check_number,
    observed_and_latent,
)
from guidebook.inference.objectives.schedules import constant, linear
from guidebook.inference.objectives.sticking import StickingTheLanding
from tests.inference.objectives.on_rows import X, Y, by_hand, gradients, normals, pair, value


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


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("particles", [1, 3])
def test_it_is_the_weighed_sum_of_densities_averaged_over_particles(particles, size):
    guide, noise, log_prior, log_likelihood = by_hand(particles)
    z = guide.a * Y + guide.b * noise
    log_q = dist.Normal(guide.a * Y, guide.b).log_prob(z)
    one = 2.5 * (log_q - log_prior(z)) - 0.5 * log_likelihood(z)
    expected = one.sum() / particles * (10 if size else 1)
    objective = BetaELBO(2.5, 0.5, particles)
    torch.manual_seed(1)
    found = objective.differentiable_loss(normals, guide, x=Y, size=size)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, list(guide.parameters()))
    torch.manual_seed(1)
    assert objective.loss_and_grads(normals, guide, x=Y, size=size) == pytest.approx(
        float(expected.detach())
    )
    for parameter, gradient in zip(guide.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_what_an_objective_is_by_itself():
    plain, weighed = Objective(), BetaELBO()
    assert (plain.num_particles, plain.max_plate_nesting, plain.numbers) == (1, 1, {})
    assert (weighed.num_particles, weighed.max_plate_nesting) == (1, 1)
    assert weighed.numbers == {"beta": 1.0, "reconstruction": 1.0}
    several = Objective(4, 2, weight=lambda t: 3 * t, other=0.5)
    assert (several.num_particles, several.max_plate_nesting) == (4, 2)
    assert several.numbers == {"weight": 3.0, "other": 0.5} and set(several.schedules) == {"weight"}
    assert several.at(weight=7.0).numbers == {"weight": 7.0, "other": 0.5}
    assert several.numbers["weight"] == 3.0
    with pytest.raises(SettingError, match="gamma"):
        several.at(gamma=1.0)
    with pytest.raises(SettingError, match="particles=0"):
        Objective(0)


def test_a_schedule_is_looked_at_from_its_start_to_its_end():
    seen = []
    check_number("beta", lambda t: seen.append(t) or 1.0, 0.0, "")
    np.testing.assert_allclose(seen, np.linspace(0, 1, 201), atol=1e-15)


@pytest.mark.parametrize("above", [False, True])
def test_a_number_is_finite_and_not_below_its_limit(above):
    for fine in (0.5 + 1e-9, 7, lambda t: 0.6 + t):
        check_number("beta", fine, 0.5, "", above)
    bad = [0.5 - 1e-9, -1.0, math.nan, math.inf, lambda t: 1 - t, "1"]
    for number in [*bad, *([0.5] if above else [])]:
        with pytest.raises(SettingError, match="beta") as error:
            check_number("beta", number, 0.5, "", above)
        assert ("schedule" in str(error.value)) == callable(number)
        assert ("above 0.5" in str(error.value)) == above
        assert ("at least 0.5" in str(error.value)) != above
    if not above:
        check_number("beta", 0.5, 0.5, "")


@pytest.mark.usefixtures("local")
def test_the_loss_of_an_enumerated_objective_is_pyros():
    """x_i ~ N(k_i, 1), k_i a fair coin that is summed out: no noise, whatever the particles."""

    def model(x):
        with pyro.plate("row", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.5)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    log_p = torch.stack([dist.Normal(k, 1.0).log_prob(Y) for k in (0.0, 1.0)])
    evidence = float((log_p.logsumexp(0) - math.log(2)).sum())
    for particles in (1, 3):
        loss = differentiable(TraceEnum_ELBO(num_particles=particles, max_plate_nesting=1))
        assert float(loss(model, lambda x: None, x=Y)) == pytest.approx(-evidence)
    mine = BetaELBO()
    assert differentiable(mine) == mine.differentiable_loss


@pytest.mark.usefixtures("local")
def test_densities_are_summed_by_what_is_observed():
    trace = pyro.poutine.trace(normals).get_trace(x=Y, size=30)
    z = trace.nodes["z"]["value"]
    observed, latent = observed_and_latent(trace)
    assert float(observed) == pytest.approx(10 * float(dist.Normal(z, 2.0).log_prob(Y).sum()))
    assert float(latent) == pytest.approx(10 * float(dist.Normal(0.0, 1.0).log_prob(z).sum()))
    assert observed_and_latent(pyro.poutine.trace(lambda: None).get_trace()) == (0.0, 0.0)
