"""A model's structure: its sites, priors and plates, or the reason why there is none."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from guidebook.diagnostics.structure import Structure, structure_of
from guidebook.models import eight_schools


def found(model: object, **data: object) -> Structure:
    structure = structure_of(model, data)  # type: ignore[arg-type]
    assert structure.reason == ""
    return structure


def crossed() -> None:
    user, item = pyro.plate("user", 5, dim=-2), pyro.plate("item", 7, dim=-1)
    with user:
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with item:
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with user, item:
        pyro.sample("y", dist.Normal(u * v, 1.0), obs=torch.zeros(5, 7))


def vectors() -> None:
    scale = torch.tensor([1.0, 2.0, 3.0])
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), scale).to_event(1))
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    kind = pyro.sample("kind", dist.Bernoulli(logits=torch.tensor(0.5)))
    pyro.sample("y", dist.Normal(beta @ weights, 1.0 + kind), obs=torch.tensor(0.0))


def schools(sigma: torch.Tensor, y: torch.Tensor | None = None) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("school", len(sigma)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * z)
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def test_priors_and_likelihood() -> None:
    structure = found(schools, sigma=torch.ones(8), y=torch.zeros(8))
    sites = {site.name: site for site in structure.sites}
    assert sites["mu"].distribution == "Normal(loc = 0, scale = 5)"
    assert sites["tau"].distribution == "HalfCauchy(scale = 5)"
    assert sites["theta"].kind == "deterministic"
    assert set(sites["theta"].parents) == {"mu", "tau", "z"}
    assert (sites["y"].kind, sites["y"].parents) == ("likelihood", ("theta",))
    assert (sites["y"].shape, sites["y"].plates) == ((8,), ("school",))
    (plate,) = structure.plates
    assert (plate.name, plate.size) == ("school", 8)
    assert set(plate.members) == {"z", "theta", "y"}


def test_the_models_of_the_shelf_have_one() -> None:
    names = {
        site.name for site in found(eight_schools, sigma=torch.ones(8), y=torch.zeros(8)).sites
    }
    assert {"mu", "tau", "y"} <= names


def test_crossed_plates_come_by_their_names() -> None:
    assert {plate.name for plate in found(crossed).plates} == {"user", "item"}
    assert {plate.size for plate in found(crossed).plates} == {5, 7}


def test_only_given_parameters_are_written() -> None:
    sites = {site.name: site.distribution for site in found(vectors).sites}
    assert sites["beta"] == "Normal(loc = 0, scale = 3 values, 1 to 3)"
    assert sites["weights"] == "Dirichlet(concentration = 1)"
    assert sites["kind"] == "Bernoulli(logits = 0.5)"
    assert sites["y"] == "Normal(loc, scale)"


def test_no_structure_has_a_reason() -> None:
    def broken(x: torch.Tensor) -> None:
        raise ValueError("x has the wrong shape\nand more")

    def empty() -> None:
        return None

    assert "made from files" in structure_of(None, None).reason
    structure = structure_of(broken, {"x": torch.zeros(2)})
    assert structure.sites == ()
    assert "ValueError: x has the wrong shape" in structure.reason
    assert "more" not in structure.reason
    assert structure_of(empty, {}).reason == "the model has no random variable"


def test_the_users_state_is_left_alone() -> None:
    def learned() -> None:
        scale = pyro.param("scale", torch.tensor(1.0))
        pyro.sample("z", dist.Normal(0.0, scale))

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found(learned)
    torch.testing.assert_close(torch.rand(3), expected)
    assert len(pyro.get_param_store()) == 0


def test_a_network_reads_data_in_its_own_precision() -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 1).double()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> None:
            shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
            with pyro.plate("row", len(x)):
                pyro.sample("y", dist.Normal(self.linear(x).squeeze(-1) + shift, 1.0), obs=y)

    data = {"x": np.ones((3, 2), np.float32), "y": np.zeros(3, np.float32)}
    assert [site.name for site in found(Network(), **data).sites] == ["shift", "y"]


def test_a_flat_prior_and_rows_that_a_plate_draws_are_no_hindrance() -> None:
    def drawn(y: torch.Tensor) -> None:
        flat = dist.ImproperUniform(dist.constraints.real, (), ())
        level = pyro.sample("level", flat)
        for i in pyro.plate("row", len(y), subsample_size=2):
            pyro.sample(f"y_{int(i)}", dist.Normal(level, 1.0), obs=y[i])

    sites = found(drawn, y=torch.zeros(5)).sites
    assert [site.name for site in sites] == ["level", *(f"y_{i}" for i in range(5))]
