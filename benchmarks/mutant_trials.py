"""A mutant is tried in a fork of one pytest process: nothing is imported twice, so it costs little.

The process collects the tests and runs none. Every test is run once in a fork of its own, which gives
its seconds, the functions that it enters and the modules that it imports on the way; the process then
imports these too, once for all forks. A mutant's fork puts the mutated functions in place of the
imported ones and runs the tests that enter them, the quickest first, until one fails.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutations import Mutant

LONGEST = 3.0
"""CPU seconds of a test; longer ones are not asked."""

MOST = 8.0
"""CPU seconds of all tests together that are asked of one mutant."""

SLOWER = 5.0
"""Times its usual duration, and two seconds more: a mutant that takes longer counts as killed."""


@dataclass(frozen=True)
class Test:
    """A collected test, its CPU seconds and the functions it enters, as (file, qualified name)."""

    item: Any
    seconds: float
    entered: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Trial:
    """What became of a mutant: killed, survived, timeout, untested, or invalid (cannot be put in)."""

    mutant: Mutant
    outcome: str
    before: str = ""
    after: str = ""
    seconds: float = 0.0


@dataclass
class Trials:
    """The plugin: `plan` names for each file the test files that pin it."""

    root: Path
    plan: Mapping[Path, Sequence[Path]]
    mutants: Sequence[Mutant]
    workers: int = 1
    said: Callable[[str], None] = print
    done: list[Trial] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: Any) -> bool:
        tests = list(self._measured(session))
        jobs = []
        for mutant in self.mutants:
            asked = self._asked(mutant, tests)
            if asked:
                jobs.append((mutant, asked))
            else:
                self.done.append(Trial(mutant, "untested", *changed_lines(mutant)))
        trials = _forked([self._job(*job, session) for job in jobs], self.workers)
        for (mutant, _), (status, told, seconds) in zip(jobs, trials, strict=True):
            outcome = told.get("outcome", "timeout" if status else "survived")
            lines = changed_lines(mutant) if outcome != "killed" else ("", "")
            self.done.append(Trial(mutant, outcome, *lines, seconds))
            if outcome not in ("killed", "timeout"):
                name = f"{mutant.path}:{mutant.line} {mutant.function}"
                self.said(f"{outcome}: {name}\n    - {lines[0]}\n    + {lines[1]}")
        return True

    def _measured(self, session: Any) -> Iterator[Test]:
        """Each test that passes by itself within LONGEST."""
        files = {str(self.root / path) for path in self.plan}

        def measure(item: Any) -> Callable[[], dict[str, Any]]:
            def run() -> dict[str, Any]:
                entered: set[tuple[str, str]] = set()
                before = set(sys.modules)

                def look(frame: types.FrameType, event: str, _: Any) -> None:
                    if event == "call" and frame.f_code.co_filename in files:
                        entered.add((frame.f_code.co_filename, frame.f_code.co_qualname))

                threading.setprofile(look)
                sys.setprofile(look)
                start = time.process_time()
                failed = _run(session, [item])
                sys.setprofile(None)
                children = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds = time.process_time() - start + children.ru_utime + children.ru_stime
                told = {"failed": failed, "seconds": seconds, "entered": sorted(entered)}
                return told | {"imported": sorted(set(sys.modules) - before)}

            return run

        items = list(session.items)
        for again in (True, False):  # some are slow only while modules have to be imported
            jobs, slow = [(measure(item), 3 * LONGEST) for item in items], []
            for item, (_, told, _) in zip(items, _forked(jobs, self.workers), strict=True):
                _import(told.get("imported", ()))
                if told.get("failed") and told["seconds"] <= LONGEST:
                    raise pytest.UsageError(f"{item.nodeid} fails without any mutant")
                if not told or told["seconds"] > LONGEST:
                    slow.append(item)
                else:
                    yield Test(item, told["seconds"], frozenset(map(tuple, told["entered"])))
            items = slow
            if not again:
                self.left_out += [item.nodeid for item in slow]

    def _asked(self, mutant: Mutant, tests: Sequence[Test]) -> list[Test]:
        """The tests of the mutant's file that enter its function, the quickest first, up to MOST."""
        listed = {str(self.root / path) for path in self.plan[mutant.path]}
        place = str(self.root / mutant.path)

        def enters(test: Test) -> bool:
            if str(test.item.path) not in listed:
                return False
            if not mutant.function:  # a constant or a default: whoever reads it
                return True
            return any(
                path == place
                and (name == mutant.function or name.startswith(f"{mutant.function}."))
                for path, name in test.entered
            )

        asked, total = [], 0.0
        for test in sorted(filter(enters, tests), key=lambda test: test.seconds):
            total += test.seconds
            if total <= MOST or not asked:
                asked.append(test)
        return asked

    def _job(
        self, mutant: Mutant, asked: Sequence[Test], session: Any
    ) -> tuple[Callable[[], dict[str, Any]], float]:
        def run() -> dict[str, Any]:
            try:
                put_in_place(self.root / mutant.path, mutant.code())
            except Exception as error:  # it cannot even be imported
                return {"outcome": "invalid", "error": repr(error)}
            failed = _run(session, [test.item for test in asked])
            return {"outcome": "killed" if failed else "survived"}

        return run, 2 + SLOWER * sum(test.seconds for test in asked)


def _run(session: Any, items: Sequence[Any]) -> bool:
    """Whether one of the tests fails; those after it are not run."""
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
    return False


def _import(names: Sequence[str]) -> None:
    """Import what a fork has imported, and leave it out of what the collector goes through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    if names:
        gc.freeze()


def _forked(
    jobs: Sequence[tuple[Callable[[], dict[str, Any]], float]], workers: int
) -> Iterator[tuple[int, dict[str, Any], float]]:
    """(exit status, what it told, CPU seconds) of each job, in order, each in a fork of its own."""
    running: dict[int, tuple[int, int]] = {}
    finished: dict[int, tuple[int, dict[str, Any], float]] = {}
    waiting = list(enumerate(jobs))[::-1]
    following = 0
    while following < len(jobs):
        while waiting and len(running) < workers:
            place, (work, limit) = waiting.pop()
            reader, writer = os.pipe()
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2**20)  # all that a child tells
            child = os.fork()
            if not child:
                _child(work, limit, writer)
            os.close(writer)
            running[child] = place, reader
        child, status, usage = os.wait4(-1, 0)
        if child in running:
            place, reader = running.pop(child)
            with os.fdopen(reader) as pipe:
                text = pipe.read()
            seconds = usage.ru_utime + usage.ru_stime
            finished[place] = status, json.loads(text) if text else {}, seconds
        while following in finished:
            yield finished.pop(following)
            following += 1


def _child(work: Callable[[], dict[str, Any]], limit: float, writer: int) -> None:
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        whole = int(limit) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
        threading.Timer(20 * limit, os._exit, (1,)).start()  # it may wait for ever, too
        told = work()
        os.write(writer, json.dumps(told).encode())
        code = 0
    finally:
        os._exit(code)


# putting a mutant in place ----------------------------------------------------------------------


def put_in_place(path: Path, code: str) -> None:
    """Change an imported module to what it would be, had its file this text.

    Statements that differ are run in a copy of the module's namespace; functions and methods give
    their code and defaults to those imported, and constants go to every module that took them.
    """
    module = next(
        one for one in list(sys.modules.values()) if getattr(one, "__file__", None) == str(path)
    )
    old = ast.parse(path.read_text(encoding="utf-8")).body
    new = ast.parse(code).body
    for one, other in zip(old, new, strict=True):
        if ast.dump(one) == ast.dump(other):
            continue
        space = dict(vars(module))
        flags = annotations.compiler_flag  # as `from __future__ import annotations` above
        exec(compile(ast.Module([other], []), str(path), "exec", flags, True), space)
        for name, value in space.items():
            before = vars(module).get(name)
            if value is not before and name != "__builtins__":
                _exchange(name, before, value)


def _exchange(name: str, before: Any, value: Any) -> None:
    if isinstance(before, type) and isinstance(value, type):
        for key, member in vars(value).items():
            own = vars(before).get(key)
            if _function(own) is not None:
                _give(_function(member), _function(own))
            elif isinstance(member, int | float | str | tuple) and member != own:
                setattr(before, key, member)
    elif _function(before) is not None:
        _give(_function(value), _function(before))
    else:
        for module in list(sys.modules.values()):
            if isinstance(module, types.ModuleType) and vars(module).get(name) is before:
                setattr(module, name, value)


def _function(one: Any) -> types.FunctionType | None:
    """The function behind a function, a method, a property, or a decorated one."""
    for inside in ("fget", "func", "__func__", "__wrapped__"):
        if not isinstance(one, type) and getattr(one, inside, None) is not None:
            return _function(getattr(one, inside))
    return one if isinstance(one, types.FunctionType) else None


def _give(giver: types.FunctionType | None, taker: types.FunctionType | None) -> None:
    if giver is None or taker is None:
        return
    taker.__code__ = giver.__code__
    taker.__defaults__ = giver.__defaults__
    taker.__kwdefaults__ = giver.__kwdefaults__


def changed_lines(mutant: Mutant) -> tuple[str, str]:
    """The line before and after."""
    old, new = mutant.module.code.split("\n"), mutant.code().split("\n")
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    one, other = old[start : len(old) - end], new[start : len(new) - end]
    return tuple(" ".join(line.strip() for line in lines) for lines in (one, other))  # type: ignore[return-value]
