"""Programs that are captured, step for step what pyro.infer.SVI does; and why others are not."""

import warnings
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal

import guidebook as gb
from guidebook.errors import GuideError, ModelError
from guidebook.programs.potential import Potential

POSITIVE, SIMPLEX = dist.constraints.positive, dist.constraints.simplex
COIN = {"y": torch.tensor([1.0] * 6 + [0.0] * 4)}
Y = torch.tensor([-2.1, -1.8, -2.4, 0.1, 2.2, 1.9])
GROUPED = {"y": Y, "group": torch.tensor([0, 0, 0, 1, 2, 2])}


def coin(y):
    fairness = pyro.sample("fairness", dist.Beta(10.0, 10.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(fairness), obs=y)


def beta_guide(y):
    a = pyro.param("a", torch.tensor(15.0), constraint=POSITIVE)
    pyro.sample("fairness", dist.Beta(a, pyro.param("b", torch.tensor(9.0), constraint=POSITIVE)))


def rates(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))
    pyro.sample("y", dist.Poisson(rate * shares).to_event(1), obs=torch.tensor([3.0, 1.0, 2.0]))


def rates_guide(y):
    a = pyro.param("a", torch.tensor(3.0), constraint=POSITIVE)
    pyro.sample("rate", dist.Gamma(a, 1.0))
    shares = pyro.param("c", torch.tensor([2.0, 1.0, 3.0]), constraint=POSITIVE)
    pyro.sample("shares", dist.Dirichlet(shares))


def grouped(y, group):
    """Sizes that follow from the data: how many groups there are, and which rows count."""
    with pyro.plate("groups", int(group.max()) + 1):
        mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    kept = y > -2.3
    with pyro.plate("rows", int(kept.sum())):
        pyro.sample("y", dist.Normal(mean[group[kept]], 1.0), obs=y[kept])


def ordinal(y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    cuts = torch.tensor([-1.0, 1.0])
    with pyro.plate("rows", len(y)):
        levels = dist.OrderedLogistic(slope * y, cuts)
        pyro.sample("level", levels, obs=(y > -1).long() + (y > 1).long())


def components(y):
    means = pyro.sample("means", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("y", dist.Normal(means[z], 1.0), obs=y)


@config_enumerate
def components_guide(y):
    locs = pyro.param("locs", torch.tensor([-2.0, 2.0]))
    pyro.sample("means", dist.Normal(locs, 0.4).to_event(1))
    shares = pyro.param("shares", torch.full((len(y), 2), 0.5), constraint=SIMPLEX)
    with pyro.plate("rows", len(y)):
        pyro.sample("z", dist.Categorical(shares))


CASES = {
    "a Beta guide": (coin, beta_guide, COIN),
    "a guide of Gamma and Dirichlet": (rates, rates_guide, {"y": Y}),
    "sizes from the data": (grouped, AutoNormal(grouped), GROUPED),
    "an ordinal regression": (ordinal, AutoNormal(ordinal), {"y": Y}),
    "a site enumerated in the guide": (components, components_guide, {"y": Y}),
}


def run(model, guide, data, path, steps=5, **settings):
    optim = pyro.optim.Adam({"lr": 0.05})
    return gb.svi(
        model, guide, data, optim=optim, steps=steps, compile=path, progress=False, **settings
    )


@pytest.mark.parametrize("case", CASES)
def test_a_captured_step_is_that_of_pyro(case):
    model, guide, data = CASES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = run(model, guide, data, "graph")
    reference = run(model, guide, data, False)
    assert (captured.notes["path"], reference.notes["path"]) == ("captured", "reference")
    assert captured.history.tolist() == pytest.approx(reference.history.tolist(), rel=1e-9)


def test_the_density_of_a_model_of_sizes_from_the_data_is_recorded():
    """For nuts: log p(y, mean) = sum log N(mean; 0, 5) + sum over rows that count of log N(y; mean, 1)."""
    value, slope = Potential(grouped, GROUPED).single()(torch.tensor([-2.0, 0.5, 1.0]))
    rows, means = Y[[0, 1, 3, 4, 5]], torch.tensor([-2.0, -2.0, 0.5, 1.0, 1.0])
    expected = dist.Normal(0.0, 5.0).log_prob(torch.tensor([-2.0, 0.5, 1.0])).sum()
    expected = expected + dist.Normal(means, 1.0).log_prob(rows).sum()
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert float(slope[1]) == pytest.approx(0.1 - 0.5 - 0.5 / 25, rel=1e-5)


def test_sizes_from_a_mini_batch_take_the_reference_path_with_the_line_that_reads_them():
    def batched(y, group, size=None):
        with pyro.plate("groups", 3):
            mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
        scale = float(y.abs().max())
        with pyro.plate("rows", size or len(y), subsample=torch.arange(len(y))):
            pyro.sample("y", dist.Normal(mean[group], scale), obs=y)

    reason = r"reads the value of a tensor that changes .* in batched: scale = float\(y.abs"
    with pytest.warns(UserWarning, match=reason):
        fit = run(batched, AutoNormal(batched), GROUPED, "graph", steps=3, batch_size=3)
    assert fit.notes["path"] == "reference"


def test_the_sum_over_a_site_of_the_guide_is_the_objective_by_default_and_its_draws_are_kept():
    data = {"y": Y}
    by_default = run(components, components_guide, data, "graph")
    asked = run(
        components, components_guide, data, "graph", objective=TraceEnum_ELBO(max_plate_nesting=1)
    )
    assert by_default.history.tolist() == pytest.approx(asked.history.tolist(), rel=1e-12)
    tree = asked.posterior(draws=4)
    assert tree["posterior"]["z"].shape == (1, 4, 6)
    z = torch.as_tensor(tree["posterior"]["z"].values[0]).long()
    means = torch.as_tensor(tree["posterior"]["means"].values[0])
    locs, shares = asked.guide.value("locs").detach(), asked.guide.value("shares").detach()
    log_q = dist.Normal(locs, 0.4).log_prob(means).sum(-1)
    log_q += dist.Categorical(shares).log_prob(z).sum(-1)
    assert tree["sample_stats"]["log_q"].values[0] == pytest.approx(log_q.numpy())
    log_p = dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).log_prob(means).sum(-1)
    log_p += torch.where(z == 0, log(0.3), log(0.7)).sum(-1)
    log_p += dist.Normal(means.gather(1, z), 1.0).log_prob(Y.double()).sum(-1)
    assert tree["sample_stats"]["lp"].values[0] == pytest.approx(log_p.numpy(), rel=1e-6)


def test_a_site_summed_out_in_the_model_cannot_be_sampled_by_the_guide():
    with pytest.raises(GuideError, match=r"The model sums 'z' out .* and the guide samples it"):
        run(config_enumerate(components), components_guide, {"y": Y}, "graph")


def not_recorded(y=None):
    assert not torch._C._get_tracing_state()
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    pyro.sample("y", dist.Normal(mean, 1.0).expand([6]).to_event(1), obs=y)


def test_a_model_that_must_not_be_recorded_runs_as_it_is():
    """In svi, with the line in the warning; for its draws, its density and its predictions."""
    with pytest.warns(
        UserWarning, match=r"in not_recorded: assert not torch._C._get_tracing_state"
    ):
        fit = run(not_recorded, AutoNormal(not_recorded), {"y": Y}, "graph", steps=3)
    tree = fit.posterior(draws=3, log_likelihood=True, posterior_predictive=True)
    mean = torch.as_tensor(tree["posterior"]["mean"].values[0])
    expected = dist.Normal(0.0, 5.0).log_prob(mean)
    expected = expected + dist.Normal(mean[:, None], 1.0).log_prob(Y.double()).sum(-1)
    assert tree["sample_stats"]["lp"].values[0] == pytest.approx(expected.numpy(), rel=1e-6)
    assert tree["posterior_predictive"]["y"].shape == (1, 3, 6)


def counted(y):
    count = int(pyro.sample("count", dist.Poisson(3.0)))
    total = sum(
        (pyro.sample(f"z{i}", dist.Normal(0.0, 1.0)) for i in range(count)), torch.zeros(())
    )
    pyro.sample("y", dist.Normal(total, 1.0), obs=y)


def counted_guide(y):
    rate = pyro.param("rate", torch.tensor(3.0), constraint=POSITIVE)
    for i in range(int(pyro.sample("count", dist.Poisson(rate)))):
        pyro.sample(f"z{i}", dist.Normal(pyro.param(f"loc{i}", torch.zeros(())), 1.0))


def grows(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    if x > 0:
        x = x + pyro.sample("more", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def test_sites_that_change_from_run_to_run_are_refused_before_the_first_step():
    """By chance the sites are the same in all five runs of the guide at e^-15."""
    with pytest.raises(ModelError, match=r"latent sites change from run to run: 'z0' is there"):
        run(counted, counted_guide, {"y": Y[0]}, "graph")
    for fit in (gb.nuts, gb.laplace):
        with pytest.raises(ModelError, match=r"latent sites change from run to run: 'more'"):
            fit(grows, {"y": Y[0]})
