"""compare(..., calibration=): names and kinds are checked, and what was found reaches the verdict."""

from typing import Any

import numpy as np
import pytest
from arviz_base import from_dict

import guidebook as gb
from guidebook.errors import DataError, NameNotFound

RNG = np.random.default_rng(0)
DRAWS = from_dict(
    {"posterior": {"a": RNG.standard_normal((4, 500)), "b": RNG.standard_normal((4, 500))}}
)


def calibration(low: bool) -> gb.Calibration:
    """Ranks of `a` all in the lower half, or calibrated."""
    ranks = np.random.default_rng(1).integers(0, 401, (60, 2))
    ranks[:, 0] //= 2 if low else 1
    return gb.Calibration("posterior", "nuts", ["a", "b"], ranks, 400, 60)


def test_chains_that_agree_are_trusted_unless_their_calibration_speaks_against_them() -> None:
    fine = gb.compare({"mine": DRAWS}, calibration={"mine": calibration(False)})
    assert fine.verdicts["mine"] is gb.Verdict.TRUST
    assert any(
        "Calibration: No error was found given the data" in w for w in fine.witnesses["mine"]
    )
    assert fine.calibrations["mine"].off == []
    off = gb.compare({"mine": DRAWS}, calibration={"mine": calibration(True)})
    assert off.verdicts["mine"] is gb.Verdict.REJECT
    assert "a is biased high" in off.table.loc["mine", "reason"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"yours": calibration(False)}, NameNotFound, "calibration of 'yours' is of none.*mine"),
        ({"mine": 3}, DataError, "calibration of 'mine' is a int: give what gb.calibrate returned"),
        (calibration(False), DataError, "must be a dict from the name of an approximation"),
    ],
)
def test_what_is_no_calibration_is_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        gb.compare({"mine": DRAWS}, calibration=given)
