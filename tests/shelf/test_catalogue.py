"""The shelf: every pair is complete, its guides fit its model, and its truth is the truth."""

import inspect

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from guidebook.catalogue import PAIRS, pair
from guidebook.errors import NameNotFound
from guidebook.guides.exact.conjugate import ConjugateRegression
from guidebook.models.regression import linear_regression
from guidebook.programs.nodes import plate_nesting, sample_nodes
from guidebook.programs.potential import Potential

MACHINES = ("ising", "boltzmann-machine", "hopfield")
EVERY = pytest.mark.parametrize("name", PAIRS)


@pytest.fixture(autouse=True)
def scoped():
    pyro.set_rng_seed(0)
    with pyro.get_param_store().scope():
        yield


def sites(trace, observed):
    return {
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample"
        and type(node["fn"]).__name__ != "_Subsample"
        and not node["infer"].get("_deterministic")
        and not node["infer"].get("is_auxiliary")
        and node["infer"].get("enumerate") is None  # summed out
        and node["is_observed"] == observed
    }


def first_rows(data, count):
    # All tensors of the shelf's data have one row for each row of the data set.
    return {name: value[:count] for name, value in data.items()}


def test_the_shelf_goes_from_regressions_to_machines():
    names = list(PAIRS)
    assert names[0] == "eight-schools" and names[-1] == "hopfield"
    assert len(names) == len(set(names)) == 25


@EVERY
def test_a_pair_is_complete(name):
    entry = pair(name)
    assert entry.name == name
    assert len({*entry.guides, *entry.engines, entry.truth}) >= 3
    assert entry.summary.endswith(".")
    assert entry.source
    assert (entry.exact is not None) == (entry.truth == "exact")
    known = {"steps", "batch_size", "objective", "optim", "weight_decay"}
    assert set(entry.settings) <= known
    model = entry.model()
    story = model.forward if isinstance(model, torch.nn.Module) else model
    assert set(entry.data()) <= set(inspect.signature(story).parameters)


@EVERY
def test_guides_sample_the_latent_sites_of_the_model(name):
    entry = pair(name)
    model, data = entry.model(), entry.data()
    latent = sites(poutine.trace(model).get_trace(**data), observed=False)
    guides = dict(entry.guides) | ({"exact": entry.exact} if entry.exact else {})
    for label, make in guides.items():
        found = sites(poutine.trace(make(model)).get_trace(**data), observed=False)
        assert found == latent, label


@EVERY
def test_every_guide_parameter_gets_a_finite_gradient(name):
    entry = pair(name)
    model, data = entry.model(), first_rows(entry.data(), 50)
    for label, make in entry.guides.items():
        guide = make(model)
        depth = plate_nesting(sample_nodes(model, data))
        elbo = Trace_ELBO() if depth is None else TraceEnum_ELBO(max_plate_nesting=depth)
        elbo.differentiable_loss(model, guide, **data).backward()
        assert list(guide.parameters()), label
        for parameter_name, parameter in guide.named_parameters():
            assert parameter.grad is not None, (label, parameter_name)
            assert torch.isfinite(parameter.grad).all(), (label, parameter_name)


@pytest.mark.parametrize("name", [name for name, entry in PAIRS.items() if entry.exact])
@torch.no_grad()
def test_exact_guides_have_constant_weights_on_the_pairs_own_data(name):
    entry = pair(name)
    model = entry.model()
    model = model.double() if isinstance(model, torch.nn.Module) else model
    data = {key: value.double() for key, value in entry.data().items()}
    guide = entry.exact(model)
    known = guide.elbo if entry.name in MACHINES else guide.log_evidence
    expected = known(**data).sum().item()
    for _ in range(3):
        drawn = poutine.trace(guide).get_trace(**data)
        joint = poutine.trace(poutine.replay(model, drawn)).get_trace(**data)
        if all(
            node["infer"].get("enumerate") is None
            for node in joint.nodes.values()
            if node["type"] == "sample"
        ):
            log_joint = joint.log_prob_sum()
        else:
            potential = Potential(model, data)
            values = {site.name: drawn.nodes[site.name]["value"][None] for site in potential.sites}
            log_joint = potential(potential.unconstrain(values))[0][0]
        weight = (log_joint - drawn.log_prob_sum()).item()
        assert weight == pytest.approx(expected, rel=1e-12, abs=1e-8)


@pytest.mark.parametrize("name", ["linear-vae", "vae"])
def test_networks_start_alike_at_every_call_and_leave_the_random_state(name):
    entry = pair(name)
    before = torch.get_rng_state()
    models = [entry.model(), entry.model()]
    guides = [make(models[0]) for make in [*entry.guides.values()] * 2]
    assert torch.equal(torch.get_rng_state(), before)
    half = len(guides) // 2
    for first, second in [models, *zip(guides[:half], guides[half:], strict=True)]:
        for left, right in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(left, right)
            assert left is not right


@pytest.mark.parametrize("name", ["linear-vae", "vae"])
def test_labels_and_pictures_match_the_rows(name):
    entry = pair(name)
    data, held_out = entry.data()["x"], entry.held_out()["x"]
    assert len(entry.labels()) == len(data)
    assert len(entry.held_out_labels()) == len(held_out)
    height, width = entry.image_shape
    assert height * width == data.shape[1] == held_out.shape[1]


def test_the_exact_guide_and_the_model_have_the_same_default_prior():
    model = inspect.signature(linear_regression).parameters
    guide = inspect.signature(ConjugateRegression).parameters
    assert {name: guide[name].default for name in guide} == {
        name: model[name].default for name in guide
    }


def test_an_unknown_pair_names_the_near_ones():
    with pytest.raises(NameNotFound, match="Did you mean 'eight-schools'"):
        pair("eight_school")
    with pytest.raises(NameNotFound, match=r"Known names: .*'eight-schools'"):
        pair("zzz")
