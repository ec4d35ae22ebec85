"""A fit written to a file as it goes, and continued from it to the same result.

A checkpoint belongs to one fit. It is told by the operations of a step, as they are recorded; by the
constants they read, which are what model and guide close over, hold as buffers or read from elsewhere;
by the settings; and by the data: arrays whole (also those mapped from a file), anything else by value.
Of rows that are read as the fit goes (`guidebook.programs.rows.Rows`) their number and 200 of them,
evenly spread, tell; of an iterable of batches the first pass, as far as the fit came, which is read again.

Two fits are not told apart by the initial values of what is trained, which the checkpoint replaces, nor
by where a guide starts that is put at the mode: that is computed, and may differ in the last digit.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidebook.errors import FileError
from guidebook.inference.fits.files import read, write_atomically
from guidebook.inference.gradient.step import Step
from guidebook.programs.graphs.tape import constants
from guidebook.programs.values.fingerprint import fingerprint

FORMAT = "guidebook checkpoint 2"
REMEDY = "Give another path, or remove the file to start again."
PARTS = {"format", "signature", "state", "buffers", "batches", "random"}


def signature(step: Step) -> dict[str, Any]:
    """What a checkpoint and the fit that goes on from it must have in common, in words."""
    p = step.problem
    known = {_place(value) for value in (*p.starts, *_tensors(p.data)) if value.numel()}
    held = [value for value in constants(step.graph) if _place(value) not in known]
    given = {} if p.source is None else p.source.checksums()
    return {
        "names of parameters": step.names,
        "shapes of parameters": [list(s) for s in step.shapes],
        "steps": [step.steps, step.course.auto],
        "restarts": step.restarts,
        "seed": p.seed,
        "batch_size": p.rows.batch_size if p.rows else None,
        "number of rows": p.count,
        "particles": p.particles,
        "model, guide or objective": fingerprint((step.graph.code, type(p.objective).__name__)),
        "constants of model or guide": fingerprint(held),
        "optim": fingerprint(step.optimiser.settings()),
        "schedules": fingerprint(step.course.table()) if step.scheduled else None,
        **{f"data '{name}'": told for name, told in given.items()},
    }


def write(path: Path, told: dict[str, Any], step: Step) -> None:
    """State, buffers of model and guide and the random state, in one file, with the `signature`."""
    rows = step.problem.rows
    content = {
        "format": FORMAT,
        "signature": json.dumps(told),
        "state": {name: value.cpu() for name, value in step.state.items()},
        "buffers": {name: value.cpu() for name, value in step.joined.named_buffers()},
        "batches": list(rows.seen) if rows else [0, ""],
        "random": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        content["random_cuda"] = torch.cuda.get_rng_state()
    write_atomically(content, path)


def keep(path: Path, told: dict[str, Any], step: Step, failed: bool) -> bool:
    """Writes; where that fails the fit goes on, the first time with a warning. Whether any failed."""
    try:
        write(path, told, step)
    except FileError as error:
        if not failed:
            warnings.warn(
                f"The checkpoint of step {int(step.state['step']):,} was not written; the fit goes on, and "
                f"an earlier one is untouched, where there is one. {error} The next one will be tried again.",
                stacklevel=5,  # svi's caller
            )
        return True
    return failed


def restore(path: Path, told: dict[str, Any], step: Step) -> int:
    """Puts a checkpoint, where there is one, into the step; returns the steps already done.

    Raises:
        FileError: unreadable, or written by a fit of another model, guide, data or settings.
    """
    if not path.exists():
        return 0
    content = read(path, FORMAT, REMEDY)
    own = {"state": step.state, "buffers": dict(step.joined.named_buffers())}
    try:
        _check(content)
        theirs = json.loads(content["signature"])
        different = [k for k in {**told, **theirs} if k not in told or theirs.get(k) != told[k]]
        if not different:
            _check_tensors(content, own)
            torch.set_rng_state(content["random"])
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise FileError(
            f"checkpoint='{path}' is damaged: {' '.join(str(error).split())[:200]}. {REMEDY}"
        ) from error
    if not different and not _same_batches(step, *content["batches"]):
        different = ["the batches"]
    if different:
        raise FileError(
            f"checkpoint='{path}' belongs to another fit: it differs in {', '.join(different)}. {REMEDY}"
        )
    for part, values in own.items():
        for name, value in values.items():
            value.copy_(content[part][name])
    torch.set_rng_state(content["random"])
    if "random_cuda" in content and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(content["random_cuda"])
    return int(step.state["step"])


def _tensors(data: dict[str, Any]) -> list[Tensor]:
    return [value for value in data.values() if isinstance(value, Tensor)]


def _place(value: Tensor) -> Any:
    """Where the entries of a tensor lie. A view of more of the same memory lies elsewhere."""
    if value.layout is not torch.strided:
        return id(value)
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _check(content: dict[str, Any]) -> None:
    """ValueError where a part is missing or of another type."""
    if set(content) - {"random_cuda"} != PARTS:
        raise ValueError(f"it holds {sorted(map(str, content))}")
    number, told = content["batches"]
    if type(number) is not int or number < 0 or not isinstance(told, str):
        raise ValueError(f"its batches are {content['batches']}")


def _check_tensors(content: dict[str, Any], own: dict[str, dict[str, Tensor]]) -> None:
    """ValueError where the tensors of the file are not those of the step."""
    for part, values in own.items():
        found = {n: (v.shape, v.dtype) for n, v in content[part].items()}
        wanted = {n: (v.shape, v.dtype) for n, v in values.items()}
        if found != wanted:
            names = sorted(n for n in {**found, **wanted} if found.get(n) != wanted.get(n))
            raise ValueError(f"its {part} {names} do not fit")
    done, most = content["state"]["step"], len(content["state"]["history"])
    if not 0 <= int(done) <= most:
        raise ValueError(f"it is at step {int(done)} of {most}")


def _same_batches(step: Step, number: int, told: str) -> bool:
    """Whether the batches that were read are read again."""
    rows = step.problem.rows
    if rows is None or not number:
        return (number, told) == (0, "")
    rows.batch(number - 1)
    return rows.seen == (number, told)
