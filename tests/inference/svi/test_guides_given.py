"""Guides and objectives that a user brings to svi, and several sites in one plate."""

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal

import guidebook as gb
from guidebook.errors import GuideError, SettingError
from guidebook.models.hierarchical import eight_schools
from guidebook.scope import precision, random_state
from tests.inference.svi.stories import QUIET, SCHOOLS, normal_mean
from tests.programs.laws.enumeration import DATA, guide_sums, mixture


def schools_by_hand(sigma, y=None):
    scale = constraints.positive
    pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(4.0)),
                                  pyro.param("s", torch.tensor(3.0), constraint=scale)))  # fmt: skip
    pyro.sample(
        "tau",
        dist.LogNormal(
            pyro.param("mt", torch.tensor(1.0)),
            pyro.param("st", torch.tensor(0.8), constraint=scale),
        ),
    )
    with pyro.plate("school", len(sigma)):
        pyro.sample(
            "theta_trans",
            dist.Normal(
                pyro.param("t", torch.zeros(8)), pyro.param("u", torch.ones(8), constraint=scale)
            ),
        )


def listed(model):
    guide = AutoGuideList(model)
    guide.append(AutoMultivariateNormal(pyro.poutine.block(model, expose=["mu", "tau"])))
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["theta_trans"])))
    return guide


@pytest.mark.slow
@pytest.mark.parametrize("compile", ["graph", False])
@pytest.mark.parametrize(
    "make",
    [AutoNormal, AutoMultivariateNormal, listed, lambda model: schools_by_hand],
    ids=["AutoNormal", "AutoMultivariateNormal", "AutoGuideList", "function"],
)
def test_guides_that_a_user_brings(make, compile):
    """All end near one ELBO: that of the non-centred schools, -31.6 (facts: mean-field)."""
    steps = 1500 if compile else 900
    fit = gb.svi(eight_schools, make(eight_schools), SCHOOLS, steps=steps, compile=compile,
                 optim=pyro.optim.Adam({"lr": 0.02}), progress=False)  # fmt: skip
    stats = fit.posterior(4000)["sample_stats"]
    elbo = float((stats["lp"] - stats["log_q"]).mean())
    assert elbo == pytest.approx(-31.6, abs=0.35)
    assert {site.name for site in fit.sites} == {"mu", "tau", "theta_trans"}


class ClassicVAE(torch.nn.Module):
    """As in Pyro's tutorial: one class, model and guide methods, pyro.module in both."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Linear(6, 4)
        self.decoder = torch.nn.Linear(2, 6)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            logits = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("compile", ["graph", False])
def test_the_classic_vae_class(compile):
    torch.manual_seed(0)
    vae = ClassicVAE()
    x = torch.rand(40, 6).round()
    x[:, 1] = x[:, 0]
    x[:, 2] = 1 - x[:, 0]
    before = [p.detach().clone() for p in vae.parameters()]
    fit = gb.svi(vae.model, vae.guide, {"x": x}, steps=300, compile=compile, progress=False,
                 optim=pyro.optim.Adam({"lr": 0.02}))  # fmt: skip
    assert fit.history[-50:].mean() < fit.history[:20].mean() - 20
    assert all(
        torch.equal(left, right) for left, right in zip(before, vae.parameters(), strict=True)
    )
    lp = fit.posterior(20)["sample_stats"]["lp"].values
    assert np.isfinite(lp).all()


@pytest.mark.parametrize("compile", ["graph", False])
def test_a_network_that_a_function_guide_registers(compile):
    """A global network is trained in the fit, and stays as it was for the user."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(1, 1).double()

    def model(x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(encoder(x[:, None])[:, 0], 0.2**0.5))

    x = np.random.default_rng(0).normal(size=20) * 1.25**0.5
    before = encoder.weight.item(), encoder.bias.item()
    fit = gb.svi(model, guide, {"x": x}, steps=800, compile=compile, progress=False,
                 optim=pyro.optim.Adam({"lr": 0.01}))  # fmt: skip
    assert (encoder.weight.item(), encoder.bias.item()) == before
    # z | x ~ N(x / 1.25, 0.2): the encoder's weight is 0.8 and its bias 0
    assert fit.guide.value("encoder$$$weight").item() == pytest.approx(0.8, abs=0.08)
    assert fit.guide.value("encoder$$$bias").item() == pytest.approx(0.0, abs=0.08)
    mean = fit.posterior(500)["posterior"]["z"].values[0].mean(0)
    np.testing.assert_allclose(mean, 0.8 * x, atol=0.25)
    assert len(list(pyro.get_param_store().keys())) == 0


@pytest.mark.parametrize(
    "objective", [Trace_ELBO(num_particles=4, vectorize_particles=True), TraceMeanField_ELBO()]
)
def test_other_objectives(objective):
    fit = gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, objective=objective,
                 steps=100, **QUIET)  # fmt: skip
    assert fit.notes["path"] == "captured"
    assert np.isfinite(fit.history).all()


def test_an_objective_without_differentiable_loss_takes_the_reference_path():
    objective = RenyiELBO(alpha=0.5, num_particles=4)
    with pytest.warns(UserWarning, match=r"RenyiELBO has no differentiable_loss"):
        fit = gb.svi(eight_schools, AutoNormal(eight_schools), SCHOOLS, objective=objective,
                     steps=10, **QUIET)  # fmt: skip
    assert fit.notes["path"] == "reference"


def test_a_guide_without_parameters_says_so():
    def guide(y, sigma, prior):
        pyro.sample("mu", dist.Normal(0.0, 1.0))

    data = {"y": np.ones(3), "sigma": 1.0, "prior": 1.0}
    with pytest.raises(SettingError, match=r"has a parameter to fit.*gb\.exact"):
        gb.svi(normal_mean, guide, data, steps=10, **QUIET)


# plates and enumerated sites ---------------------------------------------------------------------


def intercepts_and_slopes(group, x, y=None):
    spread = pyro.sample("spread", dist.HalfNormal(torch.tensor(1.0)))
    with pyro.plate("group", 3):
        intercept = pyro.sample("intercept", dist.Normal(0.0, spread))
        slope = pyro.sample("slope", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("row", len(x)):
        mean = intercept[group] + slope[group] * x
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank", "delta"])
def test_two_sites_in_one_plate(family):
    """Each plate of the model is one statement of the guide, whatever the number of its sites."""
    x = np.linspace(-1, 1, 12)
    data = {"group": np.arange(12) % 3, "x": x, "y": x + 1}
    guide = getattr(gb.guides, family)(intercepts_and_slopes)
    fit = gb.svi(intercepts_and_slopes, guide, data, steps=20, **QUIET)
    assert [site.name for site in fit.sites] == ["spread", "intercept", "slope"]
    assert np.isfinite(fit.history).all()


def two_clusters(x):
    with pyro.plate("component", 2):
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0), 3.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_enumerated_sites_are_summed_out_and_the_start_leaves_its_symmetry():
    """At the origin both means are one and the gradient keeps them so: a saddle, 35 nats too low."""
    x = np.concatenate([np.linspace(-4, -2, 5), np.linspace(2, 4, 5)])
    fit = gb.svi(two_clusters, gb.guides.mean_field(two_clusters), {"x": x}, steps=200, **QUIET)
    loc = np.sort(fit.posterior(500)["posterior"]["loc"].values.reshape(-1, 2).mean(0))
    exact = 5 * 3 / (5 + 1 / 9)  # of five rows around 3, and the prior
    np.testing.assert_allclose(loc, [-exact, exact], atol=0.15)


def test_a_site_marked_in_both_has_the_steps_of_pyro_by_the_remedy_that_the_refusal_names():
    """Pyro's TraceEnum_ELBO sums by the guide, whatever the model is marked."""
    settings = {"optim": pyro.optim.Adam({"lr": 0.05}), "steps": 5, "seed": 3, "progress": False}
    with pytest.raises(GuideError, match="the guide samples it") as refused:
        gb.svi(mixture, guide_sums, DATA, **settings)
    remedy = re.search(r"pyro\.poutine\.infer_config\(.*\)(?=\.$)", str(refused.value))[0]
    unmarked = eval(remedy, {"pyro": pyro, "model": mixture})
    fit = gb.svi(unmarked, guide_sums, DATA, **settings)
    assert fit.notes["path"] == "captured"
    with pyro.get_param_store().scope(), precision(torch.float64), random_state(3):
        steps = SVI(mixture, guide_sums, settings["optim"], TraceEnum_ELBO(max_plate_nesting=1))
        expected = [steps.step(DATA["y"].double()) for _ in range(5)]
    np.testing.assert_allclose(fit.history, expected, rtol=1e-9)
