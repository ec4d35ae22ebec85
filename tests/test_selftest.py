"""The self-test passes here, and fails where a witness has gone blind."""

from collections.abc import Mapping

import numpy as np
import pytest

from guidebook import selftest as module
from guidebook.__main__ import main
from guidebook.diagnostics.evidence.subject import Subject
from guidebook.diagnostics.evidence.testimony import Testimony
from guidebook.diagnostics.witnesses import hearing, modes
from guidebook.diagnostics.witnesses.hearing import Witness
from guidebook.selftest import PLANTED, Planting


def chosen(*names: str) -> tuple[Planting, ...]:
    return tuple(one for one in PLANTED if one.name in names)


@pytest.mark.slow
def test_this_installation_judges_all_of_them_rightly(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PLANTED) + 2 and all(line.startswith("ok") for line in lines[1:-1])
    assert all(
        name in lines[0] for name in ("guidebook 0.1.0", "torch 2", "pyro-ppl", "arviz-stats")
    )


def blind(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
    """A search for modes that finds one, whatever there is."""
    return Testimony(modes.NAME, far=np.ones(1, bool), agreement=modes.AGREEMENT)


def test_a_blind_witness_makes_it_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mass that no draw visits is seen by the search for modes alone."""
    monkeypatch.setattr(module, "PLANTED", chosen("missing mode"))
    seen = tuple(Witness(w.name, blind) if w.name == modes.NAME else w for w in hearing.WITNESSES)
    assert main(["selftest"]) == 0
    monkeypatch.setattr(hearing, "WITNESSES", seen)
    assert main(["selftest"]) == 1
    out = capsys.readouterr().out
    assert "WRONG" in out and "missing mode: a mode of 30 % without a draw: trust" in out
    assert "cannot be relied on" in out


def test_a_judge_that_trusts_nothing_fails_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deaf(subject: Subject, heard: Mapping[str, Testimony]) -> Testimony:
        return Testimony("Deaf", against=["No."])

    monkeypatch.setattr(hearing, "WITNESSES", (*hearing.WITNESSES, Witness("Deaf", deaf)))
    monkeypatch.setattr(module, "PLANTED", chosen("exact"))
    assert main(["selftest"]) == 1
    assert "exact" in capsys.readouterr().out.splitlines()[-1]
