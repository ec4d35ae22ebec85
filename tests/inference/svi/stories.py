"""Small stories that svi is run on, and moments of what it gives."""

import numpy as np
import pyro
import pyro.distributions as dist

import guidebook as gb
from guidebook.models.hierarchical import eight_schools

QUIET = {"compile": "graph", "progress": False}
SCHOOLS = {"sigma": np.array([15.0, 10, 16, 11, 9, 11, 10, 18]),
           "y": np.array([28.0, 8, -3, 7, -1, 1, 18, 12])}  # fmt: skip


DRAWS = 20_000  # the mean of so many draws is 0.007 sd off, their sd 0.5 %


def moments(fit, name, draws=DRAWS):
    values = fit.posterior(draws)["posterior"][name].values[0].astype(float)
    return values.mean(0), values.std(0), values


def normal_mean(y, sigma, prior):
    mu = pyro.sample("mu", dist.Normal(0.0, prior))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sigma), obs=y)


def schools(seed=0, guide=gb.guides.mean_field, **settings):
    settings = {"steps": 100} | QUIET | settings
    return gb.svi(eight_schools, guide(eight_schools), SCHOOLS, seed=seed, **settings)
