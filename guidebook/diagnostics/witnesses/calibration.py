r"""Ranks of known truths among the draws that the same engine or guide makes of simulated data.

A calibration that rejects contradicts the raw draws. One that does not reject confirms nothing:

- from the prior it is an average over data sets, in which errors of opposite sign cancel, and these data
  may be among the few that are off;
- given the data its truths are draws of an approximation, and the posterior that it checks is that of
  twice the data. A mode that the approximation leaves out, it leaves out of the truths as well; a shift
  of the mean that shrinks as data double is not seen at all.

What counts against draws is an error of the size that matters: a shift of a tenth of a standard
deviation, or a ratio of 1.2 between standard deviations, moves the distribution function of p by 0.04
somewhere.

Sources: Yao, Vehtari, Simpson and Gelman 2018, "Yes, but did it work? Evaluating variational inference";
Säilynoja, Schmitt, Bürkner and Vehtari 2025, "Posterior SBC: simulation-based calibration checking
conditional on data".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.diagnostics.numerics.uniformity import counts, grid

NAME = "Calibration"
MATTERS = 0.04
"""Largest distance of an ECDF from uniform where the mean is off by 0.1 sd: 2 Phi(0.05) - 1 = 0.040; where
the standard deviation is off by a factor of 1.2: max_t Phi(1.2 t) - Phi(t) = 0.044."""


def hear(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """Contradicts where a quantity is off by more than a trust allows; silent without a calibration."""
    if subject.calibration is None:
        return Testimony(NAME)
    return of_calibration(subject.calibration, subject.names, subject.posteriors)


def of_calibration(calibration: Calibration, names: Sequence[str], posteriors: int) -> Testimony:
    """The testimony of a calibration on approximations with these marginals, the same for every row."""
    if not set(names) & set(calibration.names):
        return Testimony(NAME, absent="the calibration given is of other parameters")
    said = (calibration.sentence(), calibration.caveats())
    off = [name for name in calibration.off if distance(calibration, name) > MATTERS]
    return Testimony(
        NAME,
        words=tuple(words for words in said if words),
        against=[calibration.sentence()] * posteriors if off else (),
        detail=calibration,
    )


def distance(calibration: Calibration, name: str) -> float:
    """max |ECDF of p - uniform| of a quantity."""
    p = calibration.p[:, list(calibration.names).index(name)]
    return float(np.abs(counts(p) / len(p) - grid(len(p))).max())
