"""Pointwise log likelihoods of models whose discrete sites are summed out, against closed forms."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import logsumexp
from scipy.stats import norm

import guidebook as gb

Y = np.array([-2.1, 0.2, 1.9, np.nan])
SHARES, STAY = np.array([0.3, 0.7]), np.array([[0.9, 0.1], [0.4, 0.6]])
SUMMED = {"enumerate": "parallel"}


def means():
    with pyro.plate("state", 2):
        return pyro.sample("mean", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0))


def of_rows(y):
    mean = means()
    with pyro.plate("row", len(y)), pyro.poutine.mask(mask=~y.isnan()):
        z = pyro.sample("z", dist.Categorical(torch.tensor(SHARES).to(y)), infer=SUMMED)
        pyro.sample("y", dist.Normal(mean[z], 0.7), obs=y.nan_to_num())


def of_steps(y):
    mean, z, stay = means(), 0, torch.tensor(STAY).to(y)
    for t in pyro.markov(range(3)):
        z = pyro.sample(f"z_{t}", dist.Categorical(stay[z]), infer=SUMMED)
        pyro.sample(f"y_{t}", dist.Normal(mean[z], 0.7), obs=y[t])


def of_columns(y):
    """The rows of a column share its label."""
    mean = means()
    with pyro.plate("column", 2, dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.tensor(SHARES).to(y)), infer=SUMMED)
        with pyro.plate("row", 3, dim=-2):
            pyro.sample("y", dist.Normal(mean[z], 0.7), obs=y)


def drawn(model, y):
    tree = gb.laplace(model, {"y": y}).posterior(20, seed=1, log_likelihood=True)
    return tree, tree["posterior"]["mean"].values[0]  # (S, 2)


def test_of_rows_with_labels_of_their_own_it_is_that_of_a_mixture():
    tree, mean = drawn(of_rows, Y)
    each = np.log(SHARES) + norm.logpdf(np.nan_to_num(Y)[:, None], mean[:, None], 0.7)
    expected = np.where(np.isnan(Y), 0.0, logsumexp(each, -1))
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-10)


def test_of_a_chain_it_is_that_of_every_step_given_those_before():
    tree, mean = drawn(of_steps, Y[:3])
    state = np.tile([1.0, 0.0], (len(mean), 1))  # (S, 2), of the step before
    for t in range(3):
        joint = (state @ STAY) * norm.pdf(Y[t], mean, 0.7)
        found = tree["log_likelihood"][f"y_{t}"].values[0]
        np.testing.assert_allclose(found, np.log(joint.sum(-1)), rtol=1e-10)
        state = joint / joint.sum(-1, keepdims=True)


def test_of_rows_that_share_a_label_it_is_that_of_all_of_them():
    y = np.array([[-2.1, 1.0], [-1.7, 0.8], [0.2, 1.9]])
    tree, mean = drawn(of_columns, y)
    each = norm.logpdf(y[..., None], mean[:, None, None], 0.7).sum(1)  # (S, column, 2)
    found = tree["log_likelihood"]["y"]
    assert found.sizes == {"chain": 1, "draw": 20, "y_dim_0": 1, "column": 2}
    assert tree["observed_data"]["y"].dims == ("row", "column")
    expected = logsumexp(np.log(SHARES) + each, -1)
    np.testing.assert_allclose(found.values[0, :, 0], expected, rtol=1e-10)


def test_the_users_random_numbers_stay_as_they_were():
    fit = gb.laplace(of_columns, {"y": np.zeros((3, 2))})
    before = torch.get_rng_state()
    fit.posterior(20, seed=1, log_likelihood=True)
    assert torch.equal(before, torch.get_rng_state())
