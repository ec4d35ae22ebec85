"""What is changed for the process is changed by one thread at a time, and put back."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

from guidebook.programs.graphs.recorded import record, recording
from guidebook.scope import (
    alone,
    local_parameters,
    precision,
    quiet,
    random_elsewhere,
    random_state,
    replaced,
    validation,
)


def state():
    """Everything that a program's run changes for the whole process."""
    return {
        "dtype": torch.get_default_dtype(),
        "tracing": torch._C._get_tracing_state,
        "settings": pyro.settings.get(),
        "filters": list(warnings.filters),
        "parameters": dict(pyro.get_param_store().items()),
        "handlers": list(pyro.poutine.runtime._PYRO_STACK),
        "module": pyro.module,
        "random": torch.get_rng_state().tolist(),
        "random elsewhere": random_elsewhere(),
        "warn_if_nan": pyro.infer.trace_elbo.warn_if_nan,
        "expectation": pyro.infer.util.Dice.compute_expectation,
    }


EVERYTHING = (
    alone,
    local_parameters,
    lambda: precision(torch.float64),
    lambda: random_state(3),
    lambda: validation(False),
    quiet,
    recording,
    lambda: replaced((pyro, "module", None)),
)


@pytest.fixture(autouse=True)
def threads_end():
    """A lock that is not given back would stop every later test: none is."""
    yield
    got = threading.Event()

    def take():
        with alone():
            got.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert got.wait(10), "the lock is still held"


def in_threads(*functions):
    """Runs the functions at the same time and returns what they raised."""
    raised = []

    def run(function):
        try:
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a deadlock"
    return raised


@pytest.mark.parametrize("context", EVERYTHING)
def test_each_leaves_everything_as_it_was(context):
    pyro.get_param_store().clear()
    before = state()
    with context():
        pass
    assert state() == before
    with pytest.raises(KeyboardInterrupt), context():
        raise KeyboardInterrupt
    assert state() == before


def test_nested_and_twice_they_leave_everything_as_it_was():
    before = state()
    with local_parameters(), precision(torch.float64), random_state(0), recording():
        inside = state()
        again = recording(), random_state(1), precision(torch.float16), local_parameters()
        with contextlib.ExitStack() as stack:
            for context in (*again, validation(True), quiet()):
                stack.enter_context(context)
            pyro.param("here", torch.zeros(1))
        assert state() == inside
    assert state() == before
    assert inside["dtype"] is torch.float64
    assert inside["settings"]["module_local_params"]
    assert not inside["settings"]["validate_distributions_torch"]
    assert inside["tracing"] is not before["tracing"]


def test_flags_of_pyro_and_torch_that_differ_are_put_back_as_they_were():
    with pyro.settings.context(validate_distributions_torch=False):
        before = state()
        with validation(True):
            assert pyro.settings.get("validate_distributions_torch")
        assert state() == before


def test_overlapping_threads_leave_everything_as_it_was():
    """The first thread leaves while the second one waits to come in; without a lock this never ended well."""
    before = state()
    inside, seen = threading.Event(), []

    def first():
        with precision(torch.float64), recording():
            inside.set()
            threading.Event().wait(0.2)  # the second thread comes to the lock in the meantime
            seen.append(torch.get_default_dtype())

    def second():
        inside.wait()
        with precision(torch.float16), recording():
            seen.append(torch.get_default_dtype())

    assert in_threads(first, second) == []
    assert seen == [torch.float64, torch.float16]
    assert state() == before


@pytest.mark.parametrize("context", EVERYTHING)
def test_no_two_threads_are_inside_at_once(context):
    present, most = [0], [0]

    def work():
        for _ in range(5):
            with context():
                present[0] += 1
                most[0] = max(most[0], present[0])
                threading.Event().wait(0.001)
                present[0] -= 1

    before = state()
    assert in_threads(work, work, work) == []
    assert most == [1]
    assert state() == before


def test_a_thread_that_raises_gives_the_lock_back():
    before = state()

    def fail():
        with local_parameters(), precision(torch.float64), random_state(0), recording():
            pyro.param("left", torch.zeros(1))
            raise ValueError("of the model")

    def work():
        with local_parameters(), precision(torch.float64), recording():
            pass

    raised = in_threads(fail, work, fail, work)
    assert [str(error) for error in raised] == ["of the model"] * 2
    assert state() == before


def test_seeded_draws_are_the_same_whatever_other_threads_draw():
    def draw(found, seed):
        for _ in range(20):
            with random_state(seed):
                found.append(torch.randn(50))

    alone_, one, two = [], [], []
    draw(alone_, 1)
    in_threads(lambda: draw(one, 1), lambda: draw(two, 2))
    assert all(torch.equal(values, alone_[0]) for values in one)
    assert not torch.equal(two[0], one[0])


def test_graphs_recorded_side_by_side_are_those_recorded_one_after_the_other():
    def density(x):
        return (
            dist.Normal(0.0, 1.0).log_prob(x).sum() + dist.Gamma(2.0, 1.0).log_prob(x.exp()).sum()
        )

    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    expected = record(density, x).code
    found = []
    assert in_threads(*[lambda: found.append(record(density, x).code)] * 3) == []
    assert found == [expected] * 3


def test_a_recorded_graph_runs_in_a_thread_while_the_one_that_waits_holds_the_lock():
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    found = []
    with precision(torch.float64), recording():
        graph = record(lambda x: x.exp().sum(), x)
        assert in_threads(lambda: found.append(graph(x))) == []
    assert torch.equal(found[0], x.exp().sum())


@pytest.mark.skipif(sys.platform == "win32", reason="no signal ends a wait for a lock there")
def test_ctrl_c_ends_the_wait_for_the_lock():
    inside, done = threading.Event(), threading.Event()

    def hold():
        with alone():
            inside.set()
            done.wait(30)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    inside.wait()
    interrupt = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of xdist ignore it
    interrupt.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), precision(torch.float64):
        pass
    assert time.monotonic() - begin < 15  # and not the 30 seconds that the other thread would take
    signal.signal(signal.SIGINT, before)
    done.set()
    thread.join()
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="no fork there")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have():
    inside, done = threading.Event(), threading.Event()

    def hold():
        with alone():
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    inside.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of forking with threads
        child = multiprocessing.get_context("fork").Process(target=enter)
        child.start()
    child.join(30)
    code = child.exitcode
    child.kill()
    done.set()
    thread.join()
    assert code == 0


def enter():
    with alone():
        pass
