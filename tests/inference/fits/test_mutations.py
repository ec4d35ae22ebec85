"""A file that is not as it was written is refused, or is the same to all that read it."""

from collections import Counter

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import guidebook as gb
from guidebook.errors import FileError, GuidebookError
from guidebook.inference.fits.files import read, write_atomically
from guidebook.inference.fits.saving import FORMAT
from guidebook.programs.values.fingerprint import fingerprint
from tests.mutations import mutated, torn


def model(y=None):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("group", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(weights[0] + rate.sum(), 1.0), obs=y)


def by_hand(y=None):
    free = pyro.param("free", torch.ones(3), constraint=constraints.positive)
    pyro.sample("weights", dist.Dirichlet(free))
    network = pyro.module("network", torch.nn.Linear(1, 2))
    with pyro.plate("group", 2):
        pyro.sample("rate", dist.LogNormal(network(torch.ones(1).to(free)), 0.3))


Y = {"y": np.array([0.3, 0.9, 1.4])}
GUIDES = {
    "flow": lambda: gb.guides.flow(model, transforms=1, hidden=4, bins=4),
    "full_rank": lambda: gb.guides.full_rank(model),
    "by hand": lambda: by_hand,
    "chains": None,
}


@pytest.fixture(params=GUIDES)
def saved(request, made, tmp_path):
    """A file of each kind, and a function that loads it."""
    if GUIDES[request.param] is None:
        fit = made(model, gb.guides.full_rank(model), Y, draws=torch.randn(2, 5, 4).double())
        object.__setattr__(fit, "guide", None)
    else:
        fit = made(model, GUIDES[request.param](), Y)
    given = {"model": model, "data": Y} | ({"guide": by_hand} if request.param == "by hand" else {})
    return fit.save(tmp_path / "fit.pt"), lambda path: gb.load(path, **given)


def answers(fit):
    """All that the file says of a fit."""
    guide = fit.guide.state_dict() if fit.guide is not None else None
    facts = (
        fit.status.name,
        fit.seed,
        fit.seconds,
        fit.engine,
        fit.history,
        fit.notes,
        fit.draws_are,
    )
    return fingerprint((facts, guide, fit.draws, [repr(site) for site in fit.sites]))


def check_mutations(saved, count):
    path, load = saved
    rng, told = np.random.default_rng(0), Counter()
    whole, wanted = path.read_bytes(), answers(load(path))
    content = torch.load(path, weights_only=True)
    for _ in range(count):
        if rng.random() < 0.3:
            path.write_bytes(torn(whole, rng))
        else:
            torch.save(mutated(content, rng), path)
        try:
            assert answers(load(path)) == wanted
            told["the same"] += 1
        except FileError as error:
            told[
                "refused" if str(path) in str(error) and "\n" not in str(error) else str(error)
            ] += 1
    assert set(told) <= {"refused", "the same"}
    return told


def check_meaning(saved, count):
    """Changes that the checksum goes along with: what is no fit is refused as one, and nothing fails."""
    path, load = saved
    rng, told = np.random.default_rng(1), Counter()
    content = read(path, FORMAT)
    for _ in range(count):
        write_atomically(mutated(content, rng), path)
        try:
            load(path)
            told["a fit"] += 1
        except GuidebookError as error:
            told[type(error).__name__] += 1
    return told


def test_changes_are_refused_or_mean_nothing(saved):
    told = check_mutations(saved, 50)
    assert told["refused"] > 0.8 * 50


def test_what_is_no_fit_is_refused_where_its_checksum_is_right_too(saved):
    told = check_meaning(saved, 25)
    assert told["FileError"] > 0.4 * 25


@pytest.mark.slow
def test_ten_thousand_changes(saved):
    whole = saved[0].read_bytes()
    print(check_mutations(saved, 2500))
    saved[0].write_bytes(whole)
    print(check_meaning(saved, 2500))
