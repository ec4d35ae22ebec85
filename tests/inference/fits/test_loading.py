"""What loading needs besides the file, and what it refuses."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

import guidebook as gb
from guidebook.errors import DataError, FileError, GuideError, ModelError
from guidebook.guides.autoguides.normal import MeanField
from guidebook.inference.fits.files import read, write_atomically
from guidebook.inference.fits.loading import _given, _restore
from guidebook.inference.fits.saving import FORMAT
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression
from guidebook.programs.owned import Owned, copied
from guidebook.scope import local_parameters

FAMILIES = {
    "mean_field": gb.guides.mean_field,
    "full_rank": gb.guides.full_rank,
    "low_rank": lambda model: gb.guides.low_rank(model, rank=2),
    "flow": lambda model: gb.guides.flow(model, transforms=1, hidden=8, bins=4),
}
LEFT_OUT = "left out"
Y = {"y": np.array([0.3, 0.9, 1.4])}


def supports(y):
    """Simplex, ordered, interval, correlation, positive under a plate, a flat prior, a half line."""
    pyro.sample("weights", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample("L", dist.LKJCholesky(3, 2.0))
    pyro.sample("cuts", dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0).to_event(1), dist.transforms.OrderedTransform()))  # fmt: skip
    with pyro.plate("group", 2):
        pyro.sample("rates", dist.Gamma(2.0, 1.0))
    pyro.sample("above", dist.Pareto(torch.tensor(2.0), 3.0))
    centre = pyro.sample("centre", dist.Uniform(-1.0, 4.0))
    shift = pyro.sample("shift", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(centre + shift, 1.0), obs=y)


def garch(y):
    alpha = pyro.sample("alpha", dist.Uniform(0.0, 1.0))
    beta = pyro.sample("beta", dist.Uniform(0.0, 1.0 - alpha))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta, 0.3), obs=y)


def posterior(fit):
    return fit.posterior(50, seed=7)["posterior"].to_dataset()


def same(left, right, rounding=0.0):
    assert set(left.data_vars) == set(right.data_vars)
    for name in left.data_vars:
        np.testing.assert_allclose(left[name].values, right[name].values, rtol=rounding, atol=0)
        assert left[name].dims == right[name].dims


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_need_neither_model_nor_data(family, made, tmp_path):
    fit = made(supports, FAMILIES[family](supports), Y)
    again = gb.load(fit.save(tmp_path / "fit.pt"))
    left, right = posterior(again), posterior(fit)
    same(left, right[list(left.data_vars)], rounding=1e-12)  # vectorised otherwise
    assert {s.name for s in fit.sites} == set(left.data_vars)
    np.testing.assert_allclose(
        again.posterior(50)["sample_stats"]["log_q"], fit.posterior(50)["sample_stats"]["log_q"],
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"model=model, data=data"):
        _ = again.potential


def test_a_point_without_its_model_has_no_log_q(made, tmp_path):
    path = made(supports, gb.guides.delta(supports), Y).save(tmp_path / "fit.pt")
    tree = gb.load(path).posterior(5)
    assert tree["vi_fit"].attrs["kind"] == "point"
    assert "sample_stats" not in tree.children


def test_a_support_that_depends_on_others_needs_the_model(made, tmp_path):
    fit = made(garch, gb.guides.full_rank(garch), Y)
    path = fit.save(tmp_path / "fit.pt")
    same(posterior(gb.load(path, model=garch, data=Y)), posterior(fit))
    with pytest.raises(DataError, match=r"model=\.\.\., data=\.\.\."):
        gb.load(path).posterior(10)


def function_guide(X, y=None, size=None):
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    pyro.sample("intercept", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 0.3))
    pyro.sample("beta", dist.Normal(torch.zeros(2), scale).to_event(1))


class flow(torch.nn.Module):  # noqa: N801
    """A user's guide whose class has the name of one of our families."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(3))

    def forward(self, X, y=None, size=None):
        pyro.sample("intercept", dist.Normal(self.loc[0], 0.3))
        pyro.sample("beta", dist.Normal(self.loc[1:].to(X), 0.5).to_event(1))


class Narrow(MeanField):
    """A user's subclass of one of our families: half as wide."""

    def get_posterior(self, *args, **kwargs):
        return dist.Normal(self.shifted(), 0.5 * self.unit * self.scale).to_event(1)


def logistic_data():
    X = np.random.default_rng(0).normal(size=(30, 2))
    return {"X": X, "y": (X[:, 0] > 0).astype(float)}


GIVEN = {
    "AutoNormal": lambda: AutoNormal(logistic_regression),
    "AutoMultivariateNormal": lambda: AutoMultivariateNormal(logistic_regression),
    "function": lambda: function_guide,
    "named flow": flow,
    "subclass": lambda: Narrow(logistic_regression),
}


@pytest.mark.parametrize("name", GIVEN)
def test_guides_that_a_user_brings_are_given_again(name, made, tmp_path):
    data, make = logistic_data(), GIVEN[name]
    fit = made(logistic_regression, make(), data)
    path = fit.save(tmp_path / "fit.pt")
    fresh = make()
    before = list(fresh.parameters()) if isinstance(fresh, torch.nn.Module) else []
    again = gb.load(path, model=logistic_regression, guide=fresh, data=data)
    same(posterior(again), posterior(fit))
    if isinstance(fresh, torch.nn.Module):
        after = list(fresh.parameters())
        assert len(after) == len(before), "the guide given was changed"
        assert all(bool((one == 0).all()) for one in after), "the guide given was changed"
    with pytest.raises(GuideError, match=r"guide=\.\.\."):
        gb.load(path, model=logistic_regression, data=data)


def amortised(width=4, seed=0):
    torch.manual_seed(seed)
    model = gb.models.VAE(6, 2, (width,))
    guide = gb.guides.AmortizedNormal(torch.nn.Linear(6, 4), 2)
    return model, guide, {"x": torch.rand(20, 6).round()}


@pytest.fixture(scope="module")
def autoencoder(made, tmp_path_factory):
    fit = made(*amortised())
    return fit, fit.save(tmp_path_factory.mktemp("autoencoder") / "fit.pt")


def test_networks_get_their_weights_back_in_copies(autoencoder):
    fit, path = autoencoder
    *fresh, _ = amortised(seed=1)
    before = [p.detach().clone() for part in fresh for p in part.parameters()]
    again = gb.load(path, model=fresh[0], guide=fresh[1], data=fit.data)
    same(posterior(again), posterior(fit))
    np.testing.assert_array_equal(
        again.posterior(5)["sample_stats"]["lp"], fit.posterior(5)["sample_stats"]["lp"]
    )
    after = [p for part in fresh for p in part.parameters()]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_another_architecture_is_refused(autoencoder):
    fit, path = autoencoder
    model, guide, _ = amortised()
    with pytest.raises(ModelError, match="same architecture"):
        gb.load(path, model=amortised(width=5)[0], guide=guide, data=fit.data)
    other = gb.guides.AmortizedNormal(torch.nn.Linear(6, 5), 2, covariance="full")
    with pytest.raises(GuideError, match="same architecture"):
        gb.load(path, model=model, guide=other, data=fit.data)


@pytest.fixture(scope="module")
def content(made, tmp_path_factory):
    fit = made(eight_schools, gb.guides.mean_field(eight_schools), gb.datasets.eight_schools())
    path = fit.save(tmp_path_factory.mktemp("saved") / "fit.pt")
    return read(path, FORMAT)


def loaded(content, tmp_path, **changes):
    """A file of other content, with the checksum of that."""
    path = tmp_path / "fit.pt"
    parts = {
        k: v for k, v in (content | changes).items() if not isinstance(v, str) or v != LEFT_OUT
    }
    write_atomically(parts, path)
    return gb.load(path)


def test_a_file_that_lacks_a_part_is_refused(content, tmp_path):
    for part in ("sites", "status", "notes", "guide", "history", "seed"):
        with pytest.raises(FileError, match=r"damaged.*Save the fit again"):
            loaded(content, tmp_path, **{part: LEFT_OUT})


def test_a_file_with_a_part_that_means_nothing_is_refused(content, tmp_path):
    for changes in ({"status": "SPLENDID"}, {"notes": "{"}, {"sites": [{}]}):
        with pytest.raises(FileError, match=r"damaged.*Save the fit again"):
            loaded(content, tmp_path, **changes)


def test_a_family_of_a_newer_guidebook_names_the_remedy(content, tmp_path):
    guide = content["guide"] | {"family": "diffusion"}
    with pytest.raises(FileError, match=r"'diffusion'.*newer"):
        loaded(content, tmp_path, guide=guide)


def test_a_file_whose_parts_do_not_fit_together_is_refused(content, tmp_path):
    guide, (first, *others) = content["guide"], content["sites"]
    state = guide["state"]
    wrong = {
        "of the guide is in torch.float32": {
            "guide": guide | {"state": state | {"loc": state["loc"].float()}}
        },
        "holds NaN": {"guide": guide | {"state": state | {"loc": state["loc"] * torch.nan}}},
        "not over the 10 coordinates": {
            "guide": guide | {"state": state | {"center": torch.zeros(9)}}
        },
        "does not fit its parameters": {
            "guide": guide | {"state": state | {"loc": state["loc"][:9]}}
        },
        "two sites have one name": {"sites": [first, first, *others]},
        "lacks ['event_dim']": {
            "sites": [{k: v for k, v in first.items() if k != "event_dim"}, *others]
        },
        "holds ['more'], which mean nothing": {"more": 1},
        "'seed' of the file is a bool": {"seed": True},
        "its draws have the shape (1, 3, 9)": {"draws": torch.zeros(1, 3, 9)},
        "its draws hold NaN": {"draws": torch.full((1, 3, 10), torch.nan)},
    }
    for told, changes in wrong.items():
        with pytest.raises(FileError) as error:
            loaded(content, tmp_path, **changes)
        assert told in str(error.value) and "is damaged" in str(error.value), told
    draws = torch.zeros(1, 3, 10)
    assert loaded(content, tmp_path, draws=draws).approximation.kind == "chains"


class Called(torch.nn.Module):
    """A guide that has its parameters from the beginning, and is not to be called by a load."""

    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def forward(self, **_):
        raise AssertionError("called")


def test_only_a_guide_that_lacks_its_parameters_is_called():
    state = {"loc": torch.tensor([1.0, 2.0])}
    kept = {"family": "Called", "state": state, "statements": {}, "constraints": {}}
    found = _given(kept, Called(), {"y": np.zeros(3)})
    assert found.loc.tolist() == [1.0, 2.0] and not found.training


def test_parameters_of_a_function_are_put_into_the_one_given():
    kept = {
        "family": "f",
        "state": {},
        "statements": {"scale": torch.tensor(3.0)},
        "constraints": {"scale": ["positive"]},
    }
    found = _given(kept, Owned(function_guide), None)
    assert float(found.value("scale").detach()) == pytest.approx(3.0)
    with pytest.raises(GuideError, match="of your own"):
        _given(kept, None, None)


def test_parameters_of_a_module_are_refused_by_a_function():
    kept = {"state": {"weight": torch.zeros(1)}, "statements": {}, "constraints": {}}
    with pytest.raises(ModelError, match=r"it is a function, and \['weight'\] are a module's"):
        _restore(Owned(plain), kept, "model", None)
    _restore(None, kept, "model", None)  # a fit may be loaded without its model


def plain(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_lazy_autoguide_is_called_once_with_the_data_and_only_where_there_are_data():
    """AutoNormal makes its parameters at its first call; before it there is nothing to load into."""
    _, made = copied(plain, AutoNormal(plain))
    with local_parameters():
        made(torch.as_tensor(Y["y"]))
        state = {name: value + 0.7 for name, value in made.state_dict().items()}
    kept = {"family": "AutoNormal", "state": state, "statements": {}, "constraints": {}}
    _, untrained = copied(plain, AutoNormal(plain))
    guide = _given(kept, untrained, Y)
    for name, value in guide.state_dict().items():
        torch.testing.assert_close(value, state[name], check_dtype=False)
    _, untrained = copied(plain, AutoNormal(plain))
    with pytest.raises(GuideError, match="needs data="):
        _given(kept, untrained, None)


def test_a_model_made_in_float32_takes_the_parameters_of_a_fit_in_float64(tmp_path):
    """Gibbs sampling works in float64 whatever the machine was made in: nothing is rounded on the way."""
    pair = gb.pair("boltzmann-machine")
    engine, guide = pair.engines["gibbs"]
    model = pair.model()
    fit = engine(model, guide(model), pair.data(), draws=20, tune=5, chains=2, progress=False)
    path = fit.save(tmp_path / "fit")
    made = pair.model()
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    again = gb.load(path, model=made, guide=guide(made), data=pair.data())
    before, after = fit.posterior(5, seed=1), again.posterior(5, seed=1)
    np.testing.assert_array_equal(before["sample_stats"]["lp"], after["sample_stats"]["lp"])
