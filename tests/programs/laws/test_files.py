"""A fit of any program, saved here, is in another process what it was: to the bit, under a seed."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.programs.laws.conftest import SHORT, fitted
from tests.programs.laws.lines import PROGRAMS
from tests.programs.laws.pyros_own import made
from tests.programs.laws.uses import file_of, told

ROOT = Path(__file__).parents[3]
KEPT = {
    "encoder",
    "pyro_method",
    "LocScaleReparam",
    "AutoNormalMessenger",
    "semi-supervised, labels",
}


@pytest.mark.parametrize(
    "names",
    [KEPT, pytest.param(set(PROGRAMS) - KEPT, marks=pytest.mark.slow)],
    ids=["short", "all"],
)
def test_a_saved_fit_is_the_same_in_a_new_process(names: set[str], tmp_path: Path) -> None:
    before = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(names):
            program = PROGRAMS[name]
            if program.how != "refused":
                fit = fitted(program, *made(program))
                fit.save(file_of(tmp_path, program))
                before[name] = told(fit)
    asked = [sys.executable, "-m", "tests.programs.laws.uses", str(tmp_path)]
    run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == before


def test_the_short_list_is_of_programs() -> None:
    assert set(PROGRAMS) >= SHORT | KEPT
