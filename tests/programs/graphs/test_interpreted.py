"""The interpreter gives the bits, the random numbers and the errors of the graph."""

import pytest
import torch
from torch.linalg import LinAlgError

from guidebook.programs.graphs import interpreted as room
from guidebook.programs.graphs.interpreted import AFTER_CALLS, interpreted
from guidebook.programs.graphs.recorded import record


def step(x: torch.Tensor, state: torch.Tensor) -> dict[str, torch.Tensor]:
    """Writes in place, draws, and gives a dict."""
    noise = torch.randn(3, dtype=x.dtype)
    state.mul_(0.9).add_(x * noise)
    factor = (x.outer(x) + torch.eye(3, dtype=x.dtype)).tril()
    solved = torch.linalg.solve_triangular(factor, noise[:, None], upper=False)
    return {"sum": solved.exp().sum(), "first": state[0] * 2}


X = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the interpreter at the first call."""
    monkeypatch.setattr(room, "AFTER_CALLS", 1)


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was taken into the interpreter, None where it could not be."""
    made: list[object] = []
    script = room._script

    def noted(*arguments):
        made.append(script(*arguments))
        return made[-1]

    monkeypatch.setattr(room, "_script", noted)
    return made


def test_twenty_steps_have_the_same_bits(scripts: list[object]) -> None:
    """In Python, and with the interpreter from the tenth on."""
    graph = record(step, X, torch.zeros_like(X))
    fast = interpreted(graph)
    found = []
    for call in (graph, fast):
        torch.manual_seed(7)
        state = torch.zeros_like(X)
        results = [call(X * (1 + i / 10), state) for i in range(20)]
        found.append((state, *(r[name] for r in results for name in ("sum", "first"))))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert len(scripts) == 1 and scripts[0] is not None


def test_it_pays_from_the_tenth_call_on(scripts: list[object]) -> None:
    fast = interpreted(record(lambda x: x * 2, X))
    for call in range(1, 2 * AFTER_CALLS):
        assert torch.equal(fast(X), 2 * X)
        assert len(scripts) == (call >= AFTER_CALLS)


def test_taking_it_neither_draws_nor_writes_nor_keeps_gradients(
    at_once: None, scripts: list[object]
) -> None:
    graph, state = record(step, X, torch.zeros_like(X)), torch.ones_like(X)
    weight = X.clone().requires_grad_(True)
    torch.manual_seed(3)
    result = interpreted(graph)(weight, state)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    other = torch.ones_like(X)
    with torch.no_grad():
        expected = graph(X, other)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.equal(state, other) and torch.equal(result["sum"], expected["sum"])
    assert not result["sum"].requires_grad and scripts[0] is not None


def test_the_check_of_a_factorisation_is_kept(at_once: None) -> None:
    """TorchScript would drop it, since nothing reads its result: such a graph stays in Python."""
    fast = interpreted(record(lambda a: torch.linalg.cholesky(a) * 2, torch.eye(2)))
    with pytest.raises(LinAlgError, match="not positive-definite"):
        fast(-torch.eye(2))
    torch.testing.assert_close(fast(4 * torch.eye(2)), 4 * torch.eye(2))


def test_an_error_of_linear_algebra_keeps_its_kind(at_once: None, scripts: list[object]) -> None:
    """eigh checks by itself, inside of the interpreter."""
    graph = record(lambda a: torch.linalg.eigh(a)[0] * 2, torch.eye(3))
    fast = interpreted(graph)
    fast(torch.eye(3))
    assert scripts[0] is not None
    bad = torch.full((3, 3), torch.nan)
    for call in (graph, fast):
        with pytest.raises(LinAlgError, match="ill-conditioned"):
            call(bad)


def test_another_error_stays_what_it_is(at_once: None) -> None:
    fast = interpreted(record(lambda a, b: a + b, X, X.clone()))
    fast(X, X)
    with pytest.raises(RuntimeError, match="must match the size") as told:
        fast(X, X[:2])
    assert not isinstance(told.value, LinAlgError)


def test_what_torchscript_cannot_take_runs_as_it_is(at_once: None, scripts: list[object]) -> None:
    graph = record(lambda x: (3, x * 2), X)  # a number is no result of a script
    number, twice = interpreted(graph)(X.clone().requires_grad_(True))
    assert number == 3 and torch.equal(twice, 2 * X) and not twice.requires_grad
    assert scripts == [None]
