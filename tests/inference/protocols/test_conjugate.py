"""A pass over rows in pieces: messages and bounds add up, the divergence is taken off once."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from guidebook.errors import DataError
from guidebook.guides.conjugate.exponential_family import Dirichlet, kl_divergence
from guidebook.guides.conjugate.mixture import MixtureMeanField
from guidebook.inference.cavi import cavi
from guidebook.inference.protocols.conjugate import divergence, observed, whole_pass
from guidebook.models.mixture import GaussianMixture

PRIOR = {n: Dirichlet().natural(torch.tensor([2.0, 1.0, 1.5]).double()) for n in ("a", "b")}
NATURAL = {
    "a": Dirichlet().natural(torch.tensor([3.0, 5.0, 1.0]).double()),
    "b": Dirichlet().natural(torch.tensor([0.7, 2.0, 4.0]).double()),
}


class Guide:
    families = dict.fromkeys(("a", "b"), Dirichlet())
    prior = PRIOR

    def expected(self, natural: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: self.families[name].mean(value) for name, value in natural.items()}

    def local(self, x: torch.Tensor, expected: Any) -> tuple[torch.Tensor, Any]:
        """Linear in the rows: its sum over pieces is that of all rows."""
        return x.sum() * expected["a"].sum(), {"a": x.sum(0), "b": -x.sum(0)}


def test_pieces_add_up_and_the_divergence_is_taken_off_once() -> None:
    x = torch.arange(12.0).double().reshape(4, 3)
    guide, steps = Guide(), SimpleNamespace(stopped=False)
    pieces = [{"x": x[:1]}, {"x": x[1:3]}, {"x": x[3:]}]
    found = whole_pass(guide, NATURAL, pieces, steps)  # type: ignore[arg-type]
    assert found is not None
    elbo, total = found
    kl = sum(float(kl_divergence(Dirichlet(), NATURAL[n], PRIOR[n])) for n in NATURAL)
    assert kl > 0.5
    assert float(divergence(guide, NATURAL, PRIOR)) == pytest.approx(kl)
    expected = float(x.sum() * Dirichlet().mean(NATURAL["a"]).sum()) - kl
    assert elbo == pytest.approx(expected)
    torch.testing.assert_close(total, {"a": x.sum(0), "b": -x.sum(0)})


def test_an_interrupted_pass_gives_nothing() -> None:
    pieces = [{"x": torch.ones(1, 3).double()}]
    stopped = SimpleNamespace(stopped=True)
    assert whole_pass(Guide(), NATURAL, pieces, stopped) is None  # type: ignore[arg-type]


def test_the_divergence_of_several_blocks_is_their_sum() -> None:
    many = {"a": torch.stack([NATURAL["a"], NATURAL["b"]])}
    of_each = [kl_divergence(Dirichlet(), NATURAL[n], PRIOR["a"]) for n in ("a", "b")]
    torch.testing.assert_close(divergence(Guide(), many, PRIOR), torch.stack(of_each).sum())


def test_the_array_of_the_rows() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    assert observed({"y": one, "x": other, "k": 3}) is other
    assert observed({"y": one, "k": 3}) is one
    for data in ({"y": one, "z": other}, {"k": 3}):
        with pytest.raises(DataError, match="rows must be called 'x'"):
            observed(data)


def test_twenty_thousand_rows_are_enough_to_start_from() -> None:
    """k-means reads that many of 20,050, which stand for all of them."""
    seen: list[tuple[int, int]] = []

    class Recorded(MixtureMeanField):
        def initial_natural(self, sample: torch.Tensor, count: int, seed: int) -> Any:
            seen.append((len(sample), count))
            self.begin(sample)
            return self.prior

    x = torch.linspace(-1, 1, 20_050).double().unsqueeze(-1)
    model = GaussianMixture(1, 1, "unit")
    cavi(model, Recorded(model), {"x": x}, sweeps=1, progress=False)
    assert seen == [(20_000, 20_050)]
