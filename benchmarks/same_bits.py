"""Do two versions of the library give the same fits, bit for bit? A check sum a fit, on every pair.

    python -m benchmarks.same_bits before.json               # in a checkout of the version before
    python -m benchmarks.same_bits after.json --against before.json

Each line of a pair is fitted with few steps; the sum covers the objective's history, the trained
parameters and 64 draws with their densities. Pairs that only one version has are listed apart.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import guidebook as gb

try:  # where the shelf's fitting lives in this version
    from guidebook.shelf import fitting
except ImportError:
    import guidebook.fitting as fitting

STEPS, DRAWS = 60, 64
SLOW = ("flow",)


def checksum(fit: Any) -> str:
    total = hashlib.sha256()

    def add(array: Any) -> None:
        values = np.asarray(array.detach().cpu().numpy() if hasattr(array, "detach") else array)
        total.update(
            str((values.dtype, values.shape)).encode() + np.ascontiguousarray(values).tobytes()
        )

    add(fit.history)
    for part in (fit.model, fit.guide):
        if isinstance(part, torch.nn.Module):
            for name, value in sorted(part.state_dict().items()):
                total.update(name.encode())
                add(value)
    try:
        tree = fit.posterior(DRAWS, 3)
    except gb.GuidebookError as error:
        total.update(type(error).__name__.encode())
        return total.hexdigest()[:16]
    for group in ("posterior", "sample_stats", "unconstrained"):
        if group in tree.children:
            for name in sorted(map(str, tree[group].data_vars)):
                add(tree[group][name].values)
    return total.hexdigest()[:16]


def fits_of(pair: Any, folder: Path) -> dict[str, str]:
    settings = {"seed": 5, "steps": STEPS, "compile": "graph", "progress": False}
    settings |= {k: v for k, v in pair.settings.items() if k != "steps"}
    data = pair.data()
    model = fitting.trained_model(pair, data, **settings)
    found: dict[str, str] = {}
    for name in fitting.chosen_guides(pair, None):
        found[name] = _one(
            lambda name=name: fitting.fit_guide(
                pair, name, model, data, folder / f"{pair.name}-{name}", **settings
            )
        )
    sampling = {"draws": 100, "tune": 100, "progress": False} if pair.truth == "NUTS" else {}
    found["reference"] = _one(
        lambda: (fitting.fit_reference(pair, model, data, seed=5, device=None, **sampling) or [0, None])[1]
    )  # fmt: skip
    return found


def _one(make: Any) -> str:
    try:
        fit = make()
        return checksum(fit) if fit is not None else "none"
    except Exception as error:  # a version that refuses is compared as one that refuses
        return f"{type(error).__name__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--pairs", nargs="*", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.pairs or gb.PAIRS:
            started = time.perf_counter()
            found[name] = fits_of(gb.pair(name), Path(folder))
            print(f"{name:28} {time.perf_counter() - started:6.1f} s  {found[name]}", flush=True)
            given.out.write_text(json.dumps(found, indent=1))
    if given.against is None:
        return
    before = json.loads(given.against.read_text())
    changed = [
        (p, g) for p in found for g in found[p] if p in before and before[p].get(g) != found[p][g]
    ]
    same = sum(len(found[p]) for p in found if p in before) - len(changed)
    print(f"{same} fits are the same bit for bit; {len(changed)} are not: {changed}")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
