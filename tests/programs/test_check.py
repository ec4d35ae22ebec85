"""The run before the recording: what does not fit is said in one sentence."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook.errors import DataError, GuideError, ModelError
from guidebook.programs.check import check_model, check_pair, outside_support
from guidebook.programs.owned import copied
from guidebook.scope import local_parameters, validation

Y = torch.tensor([0.5, 1.5, 2.5])


def model(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", 3):
        pyro.sample("y", dist.Normal(loc, scale), obs=y)


def guide(y=None):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("scale", dist.LogNormal(0.0, 1.0))


def without(name):
    return pyro.poutine.block(guide, hide=[name])


def with_extra(y=None, **options):
    guide()
    pyro.sample("more", dist.Normal(0.0, 1.0), **options)


def misspelt(y=None):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("scales", dist.LogNormal(0.0, 1.0))


def wide(y=None):
    pyro.sample("loc", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("scale", dist.LogNormal(0.0, 1.0))


def negative(y=None):
    pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("scale", dist.Delta(torch.tensor(-1.0)))


def broken(y=None):
    raise RuntimeError("out of coffee")


def test_a_pair_that_fits_passes():
    check_pair(model, guide, {"y": Y})
    check_model(model, {"y": Y})


def test_a_lazy_guide_is_built():
    with local_parameters():
        auto = AutoNormal(model)
        check_pair(model, auto, {"y": Y})
    assert len(list(auto.parameters())) == 4


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (without("scale"), "no site for 'scale'"),
        (misspelt, "no site for 'scale'.*It has 'scales': rename it"),
        (with_extra, r"samples 'more', which is not a latent site .*'loc', 'scale'"),
        (wide, r"'loc': the guide gives shape \(2,\), the model has \(\)"),
        (negative, "'scale': the guide gives a value outside the model's support"),
        (broken, "The guide fails when it is run on the data: RuntimeError: out of coffee"),
    ],
)
def test_a_guide_that_does_not_fit(family, message):
    with pytest.raises(GuideError, match=message):
        check_pair(model, family, {"y": Y})


def test_an_auxiliary_site_is_the_guides_own():
    check_pair(model, lambda y: with_extra(y, infer={"is_auxiliary": True}), {"y": Y})


def test_an_enumerated_site_needs_no_site_in_the_guide():
    def mixture(y=None):
        model(y)
        with pyro.plate("other", 3):
            pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})

    check_pair(mixture, guide, {"y": Y})


def counts(y=None):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    with pyro.plate("row", 3):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def rate_guide(y=None):
    pyro.sample("rate", dist.Gamma(1.0, 1.0))


@pytest.mark.parametrize("look", [lambda data: check_model(counts, data),
                                  lambda data: check_pair(counts, rate_guide, data)])  # fmt: skip
def test_observations_that_cannot_be(look):
    look({"y": torch.tensor([0.0, 1.0, 2.0])})
    with pytest.raises(ModelError, match="outside the support"):
        look({"y": torch.tensor([0.0, -1.0, 2.0])})
    with pytest.raises((DataError, ModelError), match="shape"):
        look({"y": torch.tensor(1.0)})


def nothing_latent(y=None):
    pyro.sample("y", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=y)


def test_a_model_without_latents_or_that_fails():
    for look in (
        lambda: check_model(nothing_latent, {"y": Y}),
        lambda: check_pair(nothing_latent, lambda y: None, {"y": Y}),
    ):
        with pytest.raises(ModelError, match="no latent site"):
            look()
    with pytest.raises(ModelError, match=r"The model fails .* out of coffee"):
        check_model(broken, {"y": Y})


def test_errors_of_the_library_and_interrupts_come_through_unchanged():
    def refusing(y=None):
        raise DataError("as it is")

    def stopped(y=None):
        raise KeyboardInterrupt

    with pytest.raises(DataError, match=r"^as it is$"):
        check_model(refusing, {"y": Y})
    with pytest.raises(KeyboardInterrupt):
        check_model(stopped, {"y": Y})


def test_parameters_are_validated_whatever_the_user_has_set():
    def impossible(y=None):
        pyro.sample("z", dist.Normal(0.0, torch.tensor(-1.0)))

    with validation(False):
        with pytest.raises(ModelError, match="scale"):
            check_model(impossible, {"y": Y})
        assert not pyro.settings.get("validate_distributions_torch")


def test_a_support_that_the_guide_must_meet_is_named():
    def inside(y=None):
        pyro.sample("p", dist.Beta(2.0, 2.0))

    def outside(y=None):
        pyro.sample("p", dist.Delta(torch.tensor(1.5)))

    with pytest.raises(GuideError, match=str(constraints.unit_interval).replace("(", r"\(")[:8]):
        check_pair(inside, outside, {"y": Y})


def normal_guide_of_a_scale(center: float):
    """A scale with a positive support, and a guide of it that is a Normal."""

    def model(y):
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.linalg.cholesky(
            sigma * torch.eye(2)
        )), obs=y)  # fmt: skip

    def guide(y):
        pyro.sample("sigma", dist.Normal(center, 0.2))

    return model, guide, {"y": torch.zeros(2)}


def test_a_guide_that_can_leave_the_support_is_named_before_any_draw_does():
    """Three standard deviations from zero: 0.13 % of the draws; ten: none of 100,000."""
    model, guide, data = normal_guide_of_a_scale(0.6)
    assert "Site 'sigma': 0.001" in outside_support(model, guide, data)
    with pytest.raises(GuideError, match=r"Site 'sigma': 0.001\d* of the draws.*LogNormal"):
        check_pair(model, guide, data)
    model, guide, data = normal_guide_of_a_scale(2.0)
    assert outside_support(model, guide, data) == ""
    check_pair(model, guide, data)


def test_a_fitted_pair_that_no_longer_runs_is_left_to_its_status():
    """A Cholesky factor of a matrix that is not a number."""
    model, guide, data = normal_guide_of_a_scale(float("nan"))
    assert outside_support(model, guide, data) == ""


# which part failed, and where -------------------------------------------------------------------


def fails_inside(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    wrong = torch.zeros(3) + torch.zeros(4)  # the line to be named
    pyro.sample("y", dist.Normal(loc + wrong, 1.0).to_event(1), obs=y)


def fails_to_score(y=None):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(loc, 1.0).expand([7]).to_event(1), obs=y)


def of_loc(y=None):
    pyro.sample("loc", dist.Normal(0.0, 1.0))


class Module(pyro.nn.PyroModule):
    def forward(self, y=None):
        return fails_inside(y)


module = Module()
LINE = r"test_check.py, line \d+, in fails_inside: wrong = torch.zeros\(3\) \+ torch.zeros\(4\)"


@pytest.mark.parametrize(
    ("program", "family"),
    [
        (fails_inside, of_loc),
        (fails_inside, AutoNormal(fails_inside)),
        (fails_inside, gb.guides.mean_field(fails_inside)),
        (pyro.infer.config_enumerate(fails_inside), AutoNormal(fails_inside)),
        (pyro.poutine.scale(fails_inside, scale=2.0), of_loc),
        (module, AutoNormal(module)),
    ],
    ids=["function", "auto", "ours", "decorated", "handled", "module"],
)
def test_a_model_that_fails_is_blamed_with_its_own_line(program, family):
    """Whichever program runs it: a guide that is built by running the model is not what failed."""
    program, family = copied(program, family)
    with local_parameters(), pytest.raises(ModelError, match=f"^The model fails .*{LINE}"):
        check_pair(program, family, {"y": Y})
    with local_parameters(), pytest.raises(ModelError, match=f"^The model fails .*{LINE}"):
        check_model(program, {"y": Y})


@pytest.mark.parametrize("family", [of_loc, AutoNormal(fails_to_score)], ids=["function", "auto"])
def test_a_site_that_cannot_be_scored_is_named(family):
    with local_parameters(), pytest.raises(ModelError, match=r"The model fails .* at site 'y'"):
        check_pair(fails_to_score, family, {"y": Y})


def test_a_guide_that_fails_is_blamed_with_its_own_line():
    def divides(y=None):
        pyro.sample("loc", dist.Normal(0.0, 1 / 0))

    where = r"test_check.py, line \d+, in divides: pyro.sample\(\"loc\""
    for program in (model, fails_inside):  # the guide comes first
        with pytest.raises(GuideError, match=f"^The guide fails .*ZeroDivisionError.*{where}"):
            check_pair(program, divides, {"y": Y})


def by_itself(y):
    """The level is known up to noise that no statement names."""
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level + torch.randn(()), 1.0), obs=y)


def hidden(y):
    with pyro.poutine.block():
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0))
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level + noise, 1.0), obs=y)


def of_numpy(y):
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level + float(np.random.randn()), 1.0), obs=y)


def of_its_own_generator(y, generator=np.random.default_rng(0)):  # noqa: B008
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level + generator.normal(), 1.0), obs=y)


def draws_and_does_not_use(y):
    torch.rand(3)
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level, 1.0), obs=y)


def summed(y):
    level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(level + z, 1.0), obs=y)


@pytest.mark.parametrize("model", [by_itself, hidden, of_numpy, of_its_own_generator])
def test_a_density_that_differs_from_run_to_run_is_refused(model):
    """By engines that need log p before they begin; by a fit of svi, which does not, when it is asked for."""
    data = {"y": torch.zeros(5)}
    with pytest.raises(ModelError, match="in one run of the model and"):
        gb.laplace(model, data)
    with pytest.raises(ModelError, match="in one run of the model and"):
        gb.svi(model, gb.guides.mean_field(model), data, steps=5, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # by the reference path, where the numbers are not torch's
        fit = gb.svi(model, AutoNormal(model), data, steps=5, progress=False)
    with pytest.raises(ModelError, match="in one run of the model and"):
        _ = fit.potential


@pytest.mark.parametrize("model", [draws_and_does_not_use, summed])
def test_one_that_draws_and_stays_the_same_is_not(model):
    assert gb.laplace(model, {"y": torch.zeros(5)}).status.good
