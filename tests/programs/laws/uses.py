"""What a user does with the fit of a program: saves it, and loads it in another process.

Run as a script in a new process: `python -m tests.programs.laws.uses FOLDER` loads every fit that lies
in the folder and prints, as JSON, what its draws are.
"""

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import guidebook as gb
from tests.programs.laws.lines import PROGRAMS
from tests.programs.laws.program import Program
from tests.programs.laws.pyros_own import made

DRAWS, SEED = 4, 3


def told(fit: gb.Fit) -> dict[str, Any]:
    """The draws by a seed to the bit, and what else a loaded fit has to be."""
    tree = fit.posterior(DRAWS, seed=SEED)
    digest = hashlib.sha256()
    for group in ("posterior", "sample_stats"):
        for name in sorted(tree[group].data_vars):
            digest.update(name.encode() + np.ascontiguousarray(tree[group][name].values).tobytes())
    return {"draws": digest.hexdigest(), "status": fit.status.name, "shown": repr(fit)}


def loaded(program: Program, path: Path) -> gb.Fit:
    model, guide = made(program)
    return gb.load(path, model=model, guide=guide, data=program.data)


def file_of(folder: Path, program: Program) -> Path:
    return folder / f"{list(PROGRAMS).index(program.name)}.pt"


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    for program in PROGRAMS.values():
        if not (path := file_of(folder, program)).is_file():
            continue
        try:
            found[program.name] = told(loaded(program, path))
        except Exception as error:
            found[program.name] = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
