"""The plate of a mini-batch: what a row weighs, and that the engine alone chooses the rows."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from guidebook.errors import SettingError
from guidebook.programs.plate import rows


def log_density(present: int, size: int | None, plate: str = "row") -> tuple[float, object]:
    """log N(1; 0, 1), summed over the plate, and the site of the trace."""

    def model() -> None:
        with rows(present, size, torch.device("cpu"), *([] if plate == "row" else [plate])):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([present]), obs=torch.ones(present))

    trace = pyro.poutine.trace(model).get_trace()
    return float(trace.log_prob_sum()), trace.nodes["x"]


ONE = float(dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0)))


@pytest.mark.parametrize(("present", "size", "weight"), [(4, None, 1), (4, 4, 1), (4, 12, 3)])
def test_each_row_weighs_size_over_present(present: int, size: int | None, weight: float) -> None:
    value, _ = log_density(present, size)
    assert value == pytest.approx(present * weight * ONE)


def test_a_batch_is_taken_as_given_and_draws_nothing() -> None:
    """The positions are 0, 1, 2, ...: a plate with a subsample size would shuffle them."""
    before = torch.get_rng_state()
    with rows(3, 100, torch.device("cpu")) as index:
        assert index.tolist() == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [None, 4, 9])
def test_the_plate_has_its_name(size: int | None) -> None:
    for name in ("row", "pixel"):
        _, site = log_density(4, size, name)
        (frame,) = site["cond_indep_stack"]  # type: ignore[index]
        assert frame.name == name and frame.size == 4


def test_fewer_than_present_is_refused() -> None:
    with pytest.raises(SettingError, match="size=3"):
        rows(4, 3, torch.device("cpu"))
