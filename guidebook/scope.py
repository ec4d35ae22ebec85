"""What is changed for the whole process while a program runs, by one thread at a time, and put back.

torch and Pyro keep one default dtype, one random state, one parameter store, one stack of handlers,
one set of validation flags and one answer to "is this being traced?" for all threads, and Python one
list of warning filters. Two threads that change them and put them back in turns leave them changed
for good. So every change in this library is made by a context of this file, and each of them holds
one re-entrant lock from the change to its return: a thread that wants to change something waits until
no other one has. An engine holds it (`alone`) from its first line to its last, so two fits in two
threads run one after the other, to the bits that they give one after the other.

A recorded graph reads none of this, so it may be run by threads that do not hold the lock (a sampler's
chains, while the thread that started them holds it and waits). They must not enter a context of this
file: they would wait for one that waits for them.

What another thread does with torch's random numbers or Pyro's handlers by itself, outside of this
library, no lock of ours can order.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.subsample_messenger import SubsampleMessenger

_lock = threading.RLock()


def _fresh_lock() -> None:
    """In a forked process the thread that held the lock may not exist."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other thread is in a context of this file inside the block; also a decorator, `@alone()`.

    The lock is re-entrant, an exception of any kind gives it back, and Ctrl-C ends the wait for it.
    """
    with _lock:
        yield


@contextlib.contextmanager
def local_parameters() -> Iterator[None]:
    """Parameters live in their modules, the global store is a fresh one, dropped at the end, and plates
    hold all of their rows, except inside `subsampling`.
    """
    with (
        alone(), pyro.settings.context(module_local_params=True), pyro.get_param_store().scope(),
        replaced(
            (SubsampleMessenger, "_subsample", staticmethod(_all_rows)),
            (pyro.nn.module, "_unconstrain", _unconstrained),
        ),
    ):  # fmt: skip
        yield


def _unconstrained(value: Any, constraint: Any) -> torch.nn.Parameter:
    """A parameter of a PyroModule with memory of its own, as Pyro's store makes it of an expanded value."""
    made = _pyros_parameter(value, constraint)
    return torch.nn.Parameter(made.detach().contiguous())


_pyros_parameter = pyro.nn.module._unconstrain
_pyros_rows = SubsampleMessenger._subsample
_subsampling = False


def holds_all_rows() -> bool:
    """Whether a plate that is made now holds all of its rows."""
    static = inspect.getattr_static(SubsampleMessenger, "_subsample")
    return getattr(static, "__func__", None) is _all_rows and not _subsampling


def _all_rows(
    name: str, size: Any = None, subsample_size: Any = None, subsample: Any = None, *device: Any
) -> Any:
    """As a plate takes its rows, with all of them where it would draw some.

    log p(x, z) is a sum over all rows. A plate with `subsample_size` estimates it from rows drawn anew at
    every run: what an objective may climb, and no density that two draws can be compared by.
    """
    if subsample is None and not _subsampling:
        subsample_size = None
    return _pyros_rows(name, size, subsample_size, subsample, *device)


@contextlib.contextmanager
def subsampling(on: bool = True) -> Iterator[None]:
    """Inside the block plates draw the rows that their `subsample_size` asks for (on), or hold all."""
    global _subsampling
    with alone():
        before, _subsampling = _subsampling, on
        try:
            yield
        finally:
            _subsampling = before


@contextlib.contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """torch's default dtype inside the block, so that constants in a model match its data."""
    with alone():
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def start_random(seed: int) -> None:
    """Random numbers of torch, NumPy and Python begin anew, as by pyro.set_rng_seed."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_elsewhere() -> tuple[Any, ...]:
    """The states of NumPy's and Python's random numbers, to be compared."""
    kind, key, *rest = np.random.get_state()
    return random.getstate(), kind, np.asarray(key).tobytes(), *rest


@contextlib.contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seeds torch, NumPy and Python inside the block and gives the user's random states back."""
    with alone():
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        of_numpy, of_python = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=devices):
                start_random(seed)
                yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


@contextlib.contextmanager
def validation(on: bool) -> Iterator[None]:
    """Whether Pyro and torch check the values of parameters, of draws and of traces."""
    with (
        alone(),
        pyro.settings.context(
            validate_poutine=on,
            validate_infer=on,
            validate_distributions_pyro=on,
            validate_distributions_torch=on,
        ),
    ):
        yield


@contextlib.contextmanager
def quiet(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Warnings of the category that begin with the message (a regular expression) are not shown."""
    with alone(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message, category=category)
        yield


@contextlib.contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes (owner, name, value) of modules and classes inside the block; the old ones come back."""
    with alone():
        before = [(o, name, inspect.getattr_static(o, name)) for o, name, _ in changes]
        try:
            for owner, name, value in changes:
                setattr(owner, name, value)
            yield
        finally:
            for owner, name, value in reversed(before):
                setattr(owner, name, value)
