"""A fit as an ArviZ DataTree: groups, dimensions, and numbers against SciPy."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
import xarray as xr

import guidebook as gb
from guidebook.errors import DataError, SettingError
from guidebook.models.hierarchical import eight_schools
from guidebook.models.regression import logistic_regression
from guidebook.programs.data import arguments
from guidebook.reports.files import read_draws, write_netcdf

DATA = {"sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
        "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12])}  # fmt: skip
FAST = {"steps": 60, "compile": "graph", "progress": False}


@pytest.fixture(scope="module")
def fit():
    return gb.svi(eight_schools, gb.guides.full_rank(eight_schools), DATA, **FAST)


@pytest.fixture(scope="module")
def tree(fit):
    return fit.posterior(400, seed=1, log_likelihood=True, posterior_predictive=True)


def test_groups_and_dimensions(tree):
    assert set(tree.children) == {
        "posterior", "sample_stats", "unconstrained", "log_likelihood", "posterior_predictive",
        "observed_data", "constant_data", "vi_fit",
    }  # fmt: skip
    posterior = tree["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["theta_trans"].dims == posterior["theta"].dims == ("chain", "draw", "school")
    assert dict(posterior.sizes) == {"chain": 1, "draw": 400, "school": 8}
    assert tree["observed_data"]["y"].dims == ("school",)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "school")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "school")
    position = tree["unconstrained"]["position"]
    labels = [str(c) for c in position.coords[position.dims[-1]].values]
    assert labels == ["mu", "tau", *[f"theta_trans[{i}]" for i in range(8)]]
    assert tree["vi_fit"]["objective"].dims == ("step",)
    np.testing.assert_array_equal(tree["observed_data"]["y"], DATA["y"])
    np.testing.assert_array_equal(tree["constant_data"]["sigma"], DATA["sigma"])


SCHOOLS = list("ABCDEFGH")
LABELLED = {
    "a table": pd.DataFrame(DATA, index=SCHOOLS),
    "columns": dict(pd.DataFrame(DATA, index=pd.Index(SCHOOLS, name="school")).items()),
    "a dimension": {n: xr.DataArray(v, dims="school", coords={"school": SCHOOLS}) for n, v in DATA.items()},
}  # fmt: skip


@pytest.mark.parametrize("case", LABELLED)
def test_labels_of_the_data_are_coordinates_of_the_plate(fit, case, tmp_path):
    """In a file, too; everything else is as without them."""
    tree = fit.posterior(20, seed=1)
    found = replace(fit, data=arguments(eight_schools, LABELLED[case])).posterior(20, seed=1)
    write_netcdf(found, tmp_path / "draws.nc")
    for kept in (found, read_draws(tmp_path / "draws.nc")):
        for group, name in (("posterior", "theta"), ("observed_data", "y")):
            assert kept[group][name].coords["school"].values.tolist() == SCHOOLS
            np.testing.assert_array_equal(kept[group][name].values, tree[group][name].values)
    assert found["posterior"].sizes == tree["posterior"].sizes


def test_labels_of_no_plate_or_of_two_are_left_out():
    def square(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 2, dim=-2), pyro.plate("column", 2, dim=-1):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    one = gb.laplace(square, {"y": pd.DataFrame(np.eye(2), index=["a", "b"])})
    assert one.posterior(10)["observed_data"]["y"].coords["row"].values.tolist() == [0, 1]
    named = pd.DataFrame(np.eye(2), index=pd.Index(["a", "b"], name="row"))
    two = gb.laplace(square, {"y": named}).posterior(10)["observed_data"]["y"]
    assert two.coords["row"].values.tolist() == ["a", "b"]
    assert two.coords["column"].values.tolist() == [0, 1]


def test_what_the_model_masks_is_not_observed_and_has_no_likelihood():
    def story(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 4), pyro.poutine.mask(mask=~y.isnan()):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y.nan_to_num())

    y = np.array([0.5, np.nan, -1.0, 2.0])
    found = gb.laplace(story, {"y": y}).posterior(50, log_likelihood=True)
    np.testing.assert_array_equal(found["observed_data"]["y"], y)
    m = found["posterior"]["m"].values[..., None]
    expected = np.where(np.isnan(y), 0.0, scipy.stats.norm.logpdf(np.nan_to_num(y), m))
    np.testing.assert_allclose(found["log_likelihood"]["y"], expected, rtol=1e-10)


def test_groups_come_on_request(fit):
    plain = set(fit.posterior(10).children)
    assert "log_likelihood" not in plain
    assert "posterior_predictive" not in plain
    assert "log_likelihood" in set(gb.to_arviz(fit, 10, log_likelihood=True).children)


def test_draws_obey_their_constraints_and_derived_values_follow(tree):
    p = tree["posterior"]
    assert (p["tau"].values > 0).all()
    np.testing.assert_allclose(p["theta"], p["mu"] + p["tau"] * p["theta_trans"], rtol=1e-12)


def test_lp_is_the_log_joint(tree):
    p = {name: values.values[0] for name, values in tree["posterior"].data_vars.items()}
    expected = (
        scipy.stats.norm(0, 5).logpdf(p["mu"])
        + scipy.stats.halfcauchy(scale=5).logpdf(p["tau"])
        + scipy.stats.norm.logpdf(p["theta_trans"]).sum(1)
        + scipy.stats.norm(p["theta"], DATA["sigma"]).logpdf(DATA["y"]).sum(1)
    )
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], expected, rtol=1e-10)


def test_log_q_is_the_guides_density_on_the_constrained_scale(fit, tree):
    p = tree["posterior"]
    u = np.column_stack([p["mu"].values[0], np.log(p["tau"].values[0]), p["theta_trans"].values[0]])
    np.testing.assert_allclose(tree["unconstrained"]["position"].values[0], u, atol=1e-12)
    q = fit.guide.get_posterior()
    normal = scipy.stats.multivariate_normal(
        q.mean.detach().numpy(), q.covariance_matrix.detach().numpy()
    )
    expected = normal.logpdf(u) - np.log(p["tau"].values[0])
    np.testing.assert_allclose(tree["sample_stats"]["log_q"].values[0], expected, rtol=1e-8)


def test_gradient_is_that_of_the_unconstrained_density(tree):
    p = {name: values.values[0] for name, values in tree["posterior"].data_vars.items()}
    residual = (DATA["y"] - p["theta"]) / DATA["sigma"] ** 2
    gradient = tree["unconstrained"]["gradient"].values[0]
    np.testing.assert_allclose(gradient[:, 0], -p["mu"] / 25 + residual.sum(1), rtol=1e-9)
    by_theta = p["tau"][:, None] * residual - p["theta_trans"]
    np.testing.assert_allclose(gradient[:, 2:], by_theta, rtol=1e-9, atol=1e-12)
    prior = -2 * p["tau"] / (25 + p["tau"] ** 2)
    by_log_tau = p["tau"] * (prior + (residual * p["theta_trans"]).sum(1)) + 1
    np.testing.assert_allclose(gradient[:, 1], by_log_tau, rtol=1e-9, atol=1e-11)


def test_log_likelihood_and_predictions(fit, tree):
    theta = tree["posterior"]["theta"].values[0]
    expected = scipy.stats.norm(theta, DATA["sigma"]).logpdf(DATA["y"])
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-10)
    replicated = tree["posterior_predictive"]["y"].values[0]
    z = (replicated - theta) / DATA["sigma"]
    # 3,200 independent standard normals: Kolmogorov-Smirnov at a false-alarm rate of 1e-3
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3


def test_a_seed_decides_the_draws(fit):
    one, again, other = (fit.posterior(20, seed=s)["posterior"]["mu"].values for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fit.posterior(20, seed=5, posterior_predictive=True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_net_cdf_and_back(tree, tmp_path):
    path = tmp_path / "fit.nc"
    write_netcdf(tree, path)
    xr.testing.assert_equal(read_draws(path), tree)
    attributes = read_draws(path)["vi_fit"].attrs
    assert attributes["engine"] == "svi"
    assert (attributes["kind"], attributes["family"]) == ("density", "full_rank")
    assert json.loads(attributes["notes"])["steps"] == 60


def test_arviz_reads_it(tree):
    from arviz_stats import loo, summary

    table = summary(tree, var_names=["mu", "tau", "theta"], kind="stats", round_to="none")
    assert list(table.index)[:3] == ["mu", "tau", "theta[0]"]
    np.testing.assert_allclose(table["mean"]["mu"], tree["posterior"]["mu"].values.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # k-hat of eight influential schools
        assert np.isfinite(loo(tree, var_name="y").elpd)


@pytest.mark.parametrize("draws", [0, -3, 2.5, True, "many"])
def test_draws_out_of_range(fit, draws):
    with pytest.raises(SettingError, match=r"draws=.*whole number"):
        fit.posterior(draws)


def test_plates_of_event_shapes_and_nested_plates():
    def model(x, y=None):
        with pyro.plate("country", 2, dim=-2), pyro.plate("year", 3, dim=-1):
            effect = pyro.sample("effect", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.deterministic("total", effect.sum(-1))
        mean = pyro.deterministic("mean", effect.mean())
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(mean * x, 1.0), obs=y)

    data = {"x": np.ones(5), "y": np.zeros(5)}
    fit = gb.svi(model, gb.guides.mean_field(model), data, **FAST)
    posterior = fit.posterior(10)["posterior"]
    assert posterior["effect"].dims == ("chain", "draw", "country", "year", "effect_dim_2")
    assert posterior["effect"].shape == (1, 10, 2, 3, 4)
    assert posterior["mean"].dims == ("chain", "draw")
    np.testing.assert_allclose(posterior["mean"], posterior["effect"].mean(
        ["country", "year", "effect_dim_2"]), rtol=1e-12)  # fmt: skip


def test_a_model_whose_data_cannot_be_left_out_says_so():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", 3):
            pyro.sample("seen", dist.Normal(mu, 1.0), obs=2 * y)

    fit = gb.svi(model, gb.guides.mean_field(model), {"y": np.ones(3)}, **FAST)
    with pytest.raises(DataError, match=r"left out.*y=None"):
        fit.posterior(10, posterior_predictive=True)


def test_mini_batch_fits_are_exported_on_all_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    data = {"X": X, "y": (X[:, 0] + rng.normal(size=50) > 0).astype(float)}
    fit = gb.svi(logistic_regression, gb.guides.full_rank(logistic_regression), data,
                 batch_size=10, **FAST)  # fmt: skip
    tree = fit.posterior(20, log_likelihood=True)
    assert tree["log_likelihood"]["y"].shape == (1, 20, 50)
    p = tree["posterior"]
    beta, intercept = p["beta"].values[0], p["intercept"].values[0]
    logits = intercept[:, None] + beta @ X.T
    expected = scipy.stats.norm(0, 2.5).logpdf(np.column_stack([intercept, beta])).sum(
        1
    ) + np.where(data["y"], -np.logaddexp(0, -logits), -np.logaddexp(0, logits)).sum(1)
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], expected, rtol=1e-10)


def test_a_point_has_draws_and_no_log_q(made):
    tree = made(eight_schools, gb.guides.delta(eight_schools), DATA).posterior(5)
    assert tree["vi_fit"].attrs["kind"] == "point"
    assert np.ptp(tree["posterior"]["mu"].values) == 0
    assert set(tree["sample_stats"].data_vars) == {"lp"}


def test_local_latents_of_an_amortised_guide():
    torch.manual_seed(0)
    model = gb.models.VAE(6, 2, (4,))
    x = torch.rand(9, 6).round()
    guide = gb.guides.AmortizedNormal(torch.nn.Linear(6, 4), 2)
    fit = gb.svi(model, guide, {"x": x}, **FAST)
    tree = fit.posterior(30)
    z = tree["posterior"]["z"]
    assert z.dims == ("chain", "draw", "row", "z_dim_1")
    with torch.no_grad():
        q = fit.guide.posterior(x)
        p = fit.model.decode(torch.as_tensor(z.values[0], dtype=torch.float32))
    expected = scipy.stats.norm(q.base_dist.loc, q.base_dist.scale).logpdf(z.values[0]).sum((1, 2))
    np.testing.assert_allclose(tree["sample_stats"]["log_q"].values[0], expected, rtol=1e-4)
    joint = scipy.stats.norm.logpdf(z.values[0]).sum((1, 2))
    joint = joint + scipy.stats.bernoulli(p.double()).logpmf(x.numpy()).sum((1, 2))
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], joint, rtol=1e-4)


@pytest.mark.parametrize("draws_are", ["chains", "particles"])
def test_draws_of_an_engine_are_shown_as_they_are(draws_are, made):
    full = made(eight_schools, gb.guides.full_rank(eight_schools), DATA)
    u = torch.randn(2, 6, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    notes = {"diverging": [[0, 1, 0, 0, 0, 0], [0] * 6]}
    fit = replace(full, guide=None, draws=u, draws_are=draws_are, notes=notes)
    tree = fit.posterior(1000)
    assert tree["vi_fit"].attrs["kind"] == draws_are
    np.testing.assert_array_equal(tree["posterior"]["mu"], u[..., 0])
    np.testing.assert_allclose(tree["posterior"]["tau"], u[..., 1].exp(), rtol=1e-12)
    assert set(tree["sample_stats"].data_vars) == {"lp", "diverging"}
    assert int(tree["sample_stats"]["diverging"].sum()) == 1


def labelled(y):
    """A row belongs to one of two centres; scaled, which is no part of log p(y | z)."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("row", len(y)), pyro.poutine.scale(scale=0.5):
        label = pyro.sample("label", dist.Bernoulli(share), infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(4 * label - 2, 1.0), obs=y)


def test_log_likelihood_of_a_mixture_sums_over_the_labels():
    y = np.array([-2.5, -1.0, 0.3, 2.2])
    tree = gb.laplace(labelled, {"y": y}).posterior(20, seed=1, log_likelihood=True)
    share = tree["posterior"]["share"].values[0][:, None]
    at = scipy.stats.norm(0, 1).pdf
    expected = np.log((1 - share) * at(y + 2) + share * at(y - 2))
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-10)
    prior = scipy.stats.beta(2, 2).logpdf(share[:, 0])
    np.testing.assert_allclose(
        tree["sample_stats"]["lp"].values[0], prior + 0.5 * expected.sum(1), rtol=1e-10
    )
