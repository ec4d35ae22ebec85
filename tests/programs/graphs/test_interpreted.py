"""The interpreter gives the bits, the random numbers and the errors of the graph."""

import pytest
import torch
from torch.linalg import LinAlgError

from guidebook.programs.graphs.interpreted import interpreted
from guidebook.programs.graphs.recorded import record


def step(x: torch.Tensor, state: torch.Tensor) -> dict[str, torch.Tensor]:
    """Writes in place, draws, and gives a dict."""
    noise = torch.randn(3, dtype=x.dtype)
    state.mul_(0.9).add_(x * noise)
    factor = (x.outer(x) + torch.eye(3, dtype=x.dtype)).tril()
    solved = torch.linalg.solve_triangular(factor, noise[:, None], upper=False)
    return {"sum": solved.exp().sum(), "first": state[0] * 2}


X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


def test_twenty_steps_have_the_same_bits() -> None:
    graph = record(step, X, torch.zeros_like(X))
    fast = interpreted(graph, X, torch.zeros_like(X))
    assert fast is not graph
    found = []
    for call in (graph, fast):
        torch.manual_seed(7)
        state = torch.zeros_like(X)
        results = [call(X * (1 + i / 10), state) for i in range(20)]
        found.append((state, *(r[name] for r in results for name in ("sum", "first"))))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_taking_it_neither_draws_nor_writes_nor_keeps_gradients() -> None:
    graph, state = record(step, X, torch.zeros_like(X)), torch.ones_like(X)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    weight = X.clone().requires_grad_(True)
    fast = interpreted(graph, weight, state)
    assert torch.equal(torch.get_rng_state(), before)
    assert state.tolist() == [1.0, 1.0, 1.0]
    assert not fast(weight, state)["sum"].requires_grad


def test_the_check_of_a_factorisation_is_kept() -> None:
    """TorchScript would drop it, since nothing reads its result: such a graph stays in Python."""
    graph = record(lambda a: torch.linalg.cholesky(a) * 2, torch.eye(2))
    fast = interpreted(graph, torch.eye(2))
    with pytest.raises(LinAlgError, match="not positive-definite"):
        fast(-torch.eye(2))
    torch.testing.assert_close(fast(4 * torch.eye(2)), 4 * torch.eye(2))


def test_an_error_of_linear_algebra_keeps_its_kind() -> None:
    """eigh checks by itself, inside of the interpreter."""
    graph = record(lambda a: torch.linalg.eigh(a)[0] * 2, torch.eye(3))
    fast = interpreted(graph, torch.eye(3))
    bad = torch.full((3, 3), torch.nan)
    for call in (graph, fast):
        with pytest.raises(LinAlgError, match="ill-conditioned"):
            call(bad)


def test_another_error_stays_what_it_is() -> None:
    pair = X, X.clone()
    fast = interpreted(record(lambda a, b: a + b, *pair), *pair)
    with pytest.raises(RuntimeError, match="must match the size") as told:
        fast(X, X[:2])
    assert not isinstance(told.value, LinAlgError)


def test_what_torchscript_cannot_take_runs_as_it_is() -> None:
    graph = record(lambda x: (3, x * 2), X)  # a number is no result of a script
    run = interpreted(graph, X)
    number, twice = run(X.clone().requires_grad_(True))
    assert number == 3 and torch.equal(twice, 2 * X) and not twice.requires_grad
