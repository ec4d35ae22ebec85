"""Mutation testing of what must never be wrong: `make mutants`, about forty minutes of one core.

    python -m benchmarks.mutants                          # all files of PLAN
    python -m benchmarks.mutants guidebook/programs       # those whose path starts so
    python -m benchmarks.mutants --every 10               # every tenth mutant: a first look

Small faults are put into each file, one at a time (`benchmarks.mutations`), and the tests that pin the
file are run until one fails (`benchmarks.mutant_trials`). A mutant that no test notices has survived, and
needs a reason in `benchmarks/survivors.json` (nothing could notice it), or a test. Exits with 1 while
one has neither. MUTANTS.md holds what was run last.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from benchmarks.mutant_trials import Trial, Trials
from benchmarks.mutations import mutants_of

ROOT = Path(__file__).resolve().parent.parent
REASONS = ROOT / "benchmarks" / "survivors.json"

PLAN: dict[str, tuple[str, ...]] = {
    "guidebook/diagnostics/judging/verdict.py": (
        "tests/diagnostics/judging/test_limits.py",
        "tests/diagnostics/judging/test_rows.py",
        "tests/diagnostics/judging/test_verdict.py",
        "tests/diagnostics/judging/test_pooling.py",
        "tests/diagnostics/judging/test_words.py",
    ),
    "guidebook/diagnostics/judging/reasons.py": (
        "tests/diagnostics/judging/test_limits.py",
        "tests/diagnostics/judging/test_rows.py",
        "tests/diagnostics/judging/test_verdict.py",
        "tests/diagnostics/judging/test_pooling.py",
        "tests/diagnostics/judging/test_words.py",
    ),
    "guidebook/diagnostics/judging/shares.py": (
        "tests/diagnostics/judging/test_limits.py",
        "tests/diagnostics/judging/test_rows.py",
    ),
    "guidebook/diagnostics/judging/assessment.py": (
        "tests/diagnostics/judging/test_assessment.py",
    ),
    "guidebook/diagnostics/judging/advice.py": ("tests/diagnostics/judging/test_advice.py",),
    "guidebook/diagnostics/assess.py": (
        "tests/diagnostics/test_assess.py",
        "tests/diagnostics/test_effort.py",
    ),
    "guidebook/diagnostics/amortized/weights.py": (
        "tests/diagnostics/amortized/test_row_weights.py",
    ),
    "guidebook/diagnostics/amortized/uses.py": ("tests/diagnostics/amortized/test_uses.py",),
    "guidebook/diagnostics/evidence/testimony.py": (
        "tests/diagnostics/evidence/test_testimony.py",
    ),
    "guidebook/diagnostics/evidence/subject.py": ("tests/diagnostics/evidence/test_subject.py",),
    "guidebook/diagnostics/numerics/psis.py": ("tests/diagnostics/numerics/psis",),
    "guidebook/diagnostics/witnesses/importance.py": (
        "tests/diagnostics/witnesses/importance",
        "tests/diagnostics/numerics/psis",
        "tests/diagnostics/judging/test_limits.py",
    ),
    "guidebook/diagnostics/witnesses/stein.py": (
        "tests/diagnostics/witnesses/test_stein.py",
        "tests/diagnostics/witnesses/test_stein_errors.py",
        "tests/diagnostics/judging/test_limits.py",
    ),
    "guidebook/diagnostics/witnesses/transport.py": (
        "tests/diagnostics/witnesses/hamiltonian",
        "tests/diagnostics/witnesses/test_transport.py",
    ),
    "guidebook/diagnostics/numerics/modes.py": (
        "tests/diagnostics/numerics/mode_search",
        "tests/diagnostics/numerics/basins",
        "tests/diagnostics/test_effort.py",
    ),
    "guidebook/diagnostics/numerics/drift.py": (
        "tests/diagnostics/numerics/test_drift.py",
        "tests/diagnostics/witnesses/hamiltonian",
        "tests/diagnostics/witnesses/test_transport.py",
    ),
    "guidebook/diagnostics/numerics/matching.py": ("tests/diagnostics/numerics/test_matching.py",),
    "guidebook/diagnostics/numerics/shells.py": (
        "tests/diagnostics/numerics/test_shells.py",
        "tests/diagnostics/numerics/test_along.py",
    ),
    "guidebook/diagnostics/numerics/calibration.py": (
        "tests/diagnostics/numerics/test_calibration.py",
    ),
    "guidebook/diagnostics/numerics/uniformity.py": (
        "tests/diagnostics/numerics/test_uniformity.py",
    ),
    "guidebook/diagnostics/witnesses/calibration.py": (
        "tests/diagnostics/witnesses/test_calibration.py",
    ),
    "guidebook/diagnostics/numerics/basins.py": ("tests/diagnostics/numerics/basins",),
    "guidebook/diagnostics/witnesses/modes.py": (
        "tests/diagnostics/witnesses/test_modes.py",
        "tests/diagnostics/witnesses/test_mode_words.py",
    ),
    "guidebook/diagnostics/witnesses/beyond.py": ("tests/diagnostics/witnesses/test_beyond.py",),
    "guidebook/diagnostics/witnesses/annealed.py": (
        "tests/diagnostics/witnesses/test_annealed.py",
    ),
    "guidebook/programs/graphs/tape.py": ("tests/programs/graphs/test_tape.py",),
    "guidebook/diagnostics/witnesses/hearing.py": ("tests/diagnostics/test_assess.py",),
    "guidebook/diagnostics/witnesses/reference.py": (
        "tests/diagnostics/witnesses/test_reference.py",
    ),
    "guidebook/diagnostics/witnesses/chains.py": ("tests/diagnostics/witnesses/test_chains.py",),
    "guidebook/diagnostics/witnesses/enumeration.py": (
        "tests/diagnostics/witnesses/test_enumeration.py",
    ),
    "guidebook/programs/rows.py": ("tests/programs/test_rows.py",),
    "guidebook/programs/batches/minibatches.py": ("tests/programs/batches/test_minibatches.py",),
    "guidebook/programs/batches/source.py": ("tests/programs/batches/test_admission.py",),
    "guidebook/programs/batches/stream.py": ("tests/programs/batches/test_stream.py",),
    "guidebook/programs/plate.py": ("tests/programs/test_plate.py",),
    "guidebook/programs/sites.py": (
        "tests/programs/test_unconstrained.py",
        "tests/programs/test_sites.py",
    ),
    "guidebook/programs/potential.py": (
        "tests/programs/test_potential.py",
        "tests/programs/test_unconstrained.py",
    ),
    "guidebook/programs/nodes.py": (
        "tests/programs/test_potential.py",
        "tests/programs/test_unconstrained.py",
    ),
    "guidebook/programs/labels.py": ("tests/programs/test_labels.py",),
    "guidebook/programs/start/gaussian.py": ("tests/programs/test_gaussian.py",),
    "guidebook/inference/objectives/rows.py": (
        "tests/inference/objectives/test_rows.py",
        "tests/inference/objectives/test_row_densities.py",
    ),
    "guidebook/inference/objectives/objective.py": ("tests/inference/objectives/test_beta.py",),
    "guidebook/inference/objectives/beta.py": ("tests/inference/objectives/test_beta.py",),
    "guidebook/inference/objectives/importance.py": (
        "tests/inference/objectives/test_importance.py",
    ),
    "guidebook/inference/objectives/sticking.py": ("tests/inference/objectives/test_sticking.py",),
    "guidebook/inference/objectives/fixed.py": ("tests/inference/objectives/test_sticking.py",),
    "guidebook/inference/objectives/score.py": (
        "tests/inference/objectives/test_score.py",
        "tests/inference/objectives/test_score_estimator.py",
    ),
    "guidebook/inference/objectives/enumerated.py": ("tests/inference/objectives/discrete",),
    "guidebook/inference/objectives/relaxed.py": ("tests/inference/objectives/discrete",),
    "guidebook/inference/objectives/schedules.py": (
        "tests/inference/objectives/test_schedules.py",
    ),
    "guidebook/inference/objectives/wake_sleep.py": ("tests/inference/test_wake_sleep.py",),
    "guidebook/guides/conjugate/exponential_family.py": (
        "tests/guides/conjugate/test_exponential_family.py",
        "tests/guides/conjugate/test_leading_dimensions.py",
    ),
    "guidebook/guides/conjugate/mixture.py": (
        "tests/guides/conjugate/test_mixture_steps.py",
        "tests/guides/conjugate/test_mixture.py",
        "tests/guides/conjugate/test_chains.py",
    ),
    "guidebook/guides/conjugate/mixture_mode.py": ("tests/guides/conjugate/test_mixture_mode.py",),
    "guidebook/inference/protocols/conjugate.py": ("tests/inference/protocols/test_conjugate.py",),
    "guidebook/guides/conjugate/factor.py": ("tests/guides/conjugate/factor",),
    "guidebook/guides/conjugate/gaussian_mean.py": (
        "tests/guides/conjugate/gaussian_mean",
        "tests/guides/conjugate/test_chains.py",
    ),
    "guidebook/guides/conjugate/moments.py": ("tests/guides/conjugate/test_moments.py",),
    "guidebook/guides/conjugate/sites.py": ("tests/guides/conjugate/test_sites.py",),
    "guidebook/guides/exact/conjugate.py": ("tests/guides/exact/test_conjugate.py",),
    "guidebook/guides/exact/normal_gamma.py": (
        "tests/guides/conjugate/gaussian_mean",
        "tests/guides/conjugate/test_chains.py",
    ),
    "guidebook/guides/exact/quadrature.py": (
        "tests/guides/exact/test_grid.py",
        "tests/guides/exact/test_quadrature.py",
    ),
    "guidebook/inference/fits/files.py": ("tests/inference/fits/test_files.py",),
    "guidebook/inference/fits/saving.py": ("tests/inference/fits/test_saving.py",),
    "guidebook/inference/fits/loading.py": (
        "tests/inference/fits/test_loading.py",
        "tests/inference/fits/test_saving.py",
    ),
    "guidebook/inference/fits/supports.py": ("tests/inference/fits/test_supports.py",),
}
"""A file, and the test files that pin it; for a folder all its test files."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paths", nargs="*", help="only files whose path starts with one of these")
    parser.add_argument("--every", type=int, default=1, help="every so many-th mutant")
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    plan = {
        Path(path): [file for test in tests for file in files_of(Path(test))]
        for path, tests in PLAN.items()
        if not chosen.paths or path.startswith(tuple(chosen.paths))
    }
    start = time.perf_counter()
    trials = tried(plan, chosen.every, chosen.workers)
    print(table(trials))
    unexplained = [one for one in trials.done if _lives(one) and not reason_of(one)]
    cpu = sum(one.seconds for one in trials.done)
    print(f"\n{time.perf_counter() - start:.0f} s, of which {cpu:.0f} CPU s in the mutants.")
    if trials.left_out:
        print(f"Not asked, too long: {', '.join(trials.left_out)}")
    print(f"{len(unexplained)} survivors without a reason in {REASONS.name}.")
    return int(bool(unexplained))


def files_of(test: Path) -> list[Path]:
    return sorted(test.glob("test_*.py")) if test.is_dir() else [test]


def tried(plan: dict[Path, list[Path]], every: int, workers: int) -> Trials:
    """Tries the mutants of the files in one pytest process."""
    mutants = [one for path in plan for one in mutants_of(path)][::every]
    trials = Trials(ROOT, plan, mutants, workers, partial(print, flush=True))
    files = sorted({str(test) for tests in plan.values() for test in tests})
    code = pytest.main(["-p", "no:terminal", "-p", "no:cacheprovider", *files], plugins=[trials])
    if not trials.done:
        raise SystemExit(int(code) or 1)
    return trials


def table(trials: Trials) -> str:
    """A line a file and what survived, as Markdown."""
    lines = ["", "| file | tried | killed | survived |", "|---|---:|---:|---:|"]
    total: Counter[str] = Counter()
    for path in trials.plan:
        counts = Counter(one.outcome for one in trials.done if one.mutant.path == path)
        lines.append(_row(f"`{path}`", counts))
        total += counts
    lines += [_row("**all**", total), ""]
    for one in filter(_lives, trials.done):
        where = f"{one.mutant.path}:{one.mutant.line}"
        lines.append(f"- {where} `{one.before}` -> `{one.after}`: {reason_of(one) or 'NO REASON'}")
    return "\n".join(lines)


def _row(name: str, counts: Counter[str]) -> str:
    killed = counts["killed"] + counts["timeout"]
    lived = counts["survived"] + counts["untested"]
    return f"| {name} | {killed + lived} | {killed} | {lived} |"


def _lives(one: Trial) -> bool:
    return one.outcome in ("survived", "untested")


def reason_of(one: Trial) -> str:
    """Why nothing could notice this mutant, as noted; "" where nothing is."""
    for noted in reasons():
        if (noted["file"], noted["was"], noted["becomes"]) == (
            str(one.mutant.path), one.before, one.after,
        ):  # fmt: skip
            return noted["reason"]
    return ""


def reasons() -> Sequence[dict[str, str]]:
    if not REASONS.exists():
        return []
    noted: list[dict[str, str]] = json.loads(REASONS.read_text(encoding="utf-8"))
    return noted


if __name__ == "__main__":
    sys.exit(main())
