"""Amortised fits: the verdicts on three uses, held against row posteriors that are known.

    python -m benchmarks.amortised                # writes benchmarks/AMORTISED.md
    python -m benchmarks.amortised --seeds 0 --every 2 --out look.md

The models and the encoders are those of `benchmarks/row_stories.py`: row posteriors in closed form (linear)
or on a grid (one and two latent dimensions; one branch, two equal ones, two unequal ones, few rows of
two), encoders written down: normals with the posterior's own moments branch by branch, and these changed
in one way; of two models the exact posterior (`gb.guides.QuadraturePosterior`) and an encoder that
`gb.svi` trained. No amortised family of the library is a mixture: an encoder that holds two branches is
a guide of the user's own. Every fit has 100 rows and is judged as in `gb.compare`, at its defaults,
without a reference.

Truth, by the definitions of docs/verdicts.md. *Rows*: good where 99 % of the rows have every mean within
0.1 posterior standard deviations and every standard deviation within 20 %; reweightable where the weighted
draws (4,000 a row) are so for 95 % of the rows, or, where fewer rows are marked as usable in
`row_verdicts`, of the marked ones. *Codes*: good where the squared error of q's mean is at most 5 % of the
variance of the aggregate of the exact posteriors for 95 % of the rows; reweightable: the same of weighted
means. *Model*: good where the ELBO is within 0.1 nats a row of the exact log evidence; reweightable where
the page's log evidence is. Rates have the one-sided upper 95 % bound of Clopper and Pearson beside them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import guidebook as gb
from benchmarks.row_stories import Encoder, Story, encoders, stories
from benchmarks.timing import machine
from benchmarks.verdict_table import rate
from guidebook.diagnostics.amortized.assess import assess_rows
from guidebook.diagnostics.amortized.numbers import AmortizedNumbers
from guidebook.diagnostics.amortized.uses import CODE_LIMIT, CODES, EVIDENCE_LIMIT, MODEL, ROWS
from guidebook.diagnostics.evidence.testimony import MEAN_LIMIT, SD_HIGH, SD_LOW
from guidebook.diagnostics.numerics.psis import psis
from guidebook.guides import QuadraturePosterior
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.opening import opened
from guidebook.inference.fits.status import Status

OUTPUT = Path(__file__).resolve().parent / "AMORTISED.md"
DRAWS = 4_000
USES = (MODEL, CODES, ROWS)
TWINS = ("own moments", "near", "exact")


def names(story: Story) -> list[str]:
    """The encoders of a story: those that are written down, the exact posterior, and a trained one."""
    found = list(encoders(story))
    return [*found, "exact", "trained"] if story.trained else found


def fit_of(story: Story, name: str, seed: int) -> Fit:
    x = story.simulated(seed)
    if name == "trained":
        network = gb.models.mlp((x.shape[1], 32, 2 * story.size)).double()
        guide = gb.guides.AmortizedNormal(network, story.size)
        return gb.svi(story, guide, {"x": x}, seed=seed, progress=False)
    exact = name == "exact"
    written = QuadraturePosterior(story) if exact else Encoder(story, encoders(story)[name])
    with opened("written", story, written, {"x": x}, seed=0, device=None) as run:
        pass
    return run.fit(Status.CONVERGED)


# truth ---------------------------------------------------------------------------------------------


def truth(story: Story, fit: Fit, numbers: AmortizedNumbers, verdict: str) -> dict[str, Any]:
    """Of every use whether it is good and whether it is reweightable, and the errors."""
    assert fit.data is not None
    x = fit.data["x"]
    posterior, evidence = story.posterior(x)
    mean, sd = (a.numpy() for a in moments(posterior))
    with torch.no_grad():
        q = fit.guide.posterior(x)  # type: ignore[union-attr]
        own_mean, own_sd = _moments_of(q)
        elbo, weighted_mean, weighted_sd = _weighted(story, x, q)
    within = _within(own_mean, own_sd, mean, sd)
    mended = _within(weighted_mean, weighted_sd, mean, sd)
    assert numbers.row_verdicts is not None
    marked = numbers.row_verdicts != "reject"
    if verdict != "reweight" or marked.mean() >= 0.95:
        marked = np.ones(len(x), bool)
    unit = mean.var(0) + np.square(sd).mean(0)
    code, better = (
        float((np.square(m - mean) / unit).mean(1).__le__(CODE_LIMIT).mean())
        for m in (own_mean, weighted_mean)
    )
    gap = float((evidence.numpy() - elbo).mean())
    ledger = numbers.ledger
    assert ledger is not None
    off = float(ledger.evidence.mean() - evidence.numpy()[ledger.rows].mean())
    return {
        MODEL: (
            gap <= EVIDENCE_LIMIT,
            abs(off) <= EVIDENCE_LIMIT,
            f"gap {gap:.3f}, evidence off by {off:+.3f}",
        ),
        CODES: (code >= 0.95, better >= 0.95, f"{code:.1%}, weighted {better:.1%}"),
        ROWS: (
            within.mean() >= 0.99,
            mended[marked].mean() >= 0.95,
            f"{within.mean():.1%}, weighted {mended[marked].mean():.1%} of {marked.sum()}",
        ),
    }  # fmt: skip


def moments(posterior: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n, d) over all branches."""
    shares = posterior.shares[..., None]
    mean = (shares * posterior.means).sum(1)
    variance = posterior.factors.square().sum(-1) + (posterior.means - mean[:, None]).square()
    return mean, (shares * variance).sum(1).sqrt()


def _moments_of(q: Any) -> tuple[np.ndarray, np.ndarray]:
    return q.mean.numpy(), q.variance.sqrt().numpy()


def _weighted(story: Story, x: Tensor, q: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ELBO (n,) of every row, mean and standard deviation (n, d) of its weighted draws."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        z = q.sample(torch.Size((DRAWS,)))
    log_w = (story.log_joint(x, z) - q.log_prob(z)).numpy()
    found = np.empty((2, len(x), story.size))
    for i, column in enumerate(log_w.T):
        weights = psis(column)
        w = np.full(DRAWS, 1 / DRAWS) if weights is None else weights.weights
        values = z[:, i].numpy()
        found[0, i] = w @ values
        found[1, i] = np.sqrt(w @ np.square(values - found[0, i]))
    return log_w.mean(0), found[0], found[1]


def _within(mean: np.ndarray, sd: np.ndarray, of_p: np.ndarray, sd_p: np.ndarray) -> np.ndarray:
    """Which rows (n,) have all marginals within bounds."""
    ratio = sd / sd_p
    good = (np.abs(mean - of_p) / sd_p <= MEAN_LIMIT) & (ratio >= SD_LOW) & (ratio <= SD_HIGH)
    return np.asarray(good.all(1))


# judged --------------------------------------------------------------------------------------------


def judged(story: Story, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row for every use of a fit."""
    fit = fit_of(story, name, seed)
    began = time.process_time()
    _, numbers = assess_rows(fit)
    seconds = time.process_time() - began
    true = truth(story, fit, numbers, numbers.uses[ROWS].verdict.value)
    for use in USES:
        good, reweightable, said = true[use]
        yield {
            "story": story.name, "encoder": name, "seed": seed, "use": use,
            "verdict": numbers.uses[use].verdict.value, "good": bool(good),
            "reweightable": bool(reweightable), "truth": said, "seconds": seconds,
            "reason": numbers.uses[use].reason,
        }  # fmt: skip


def wrong(row: Mapping[str, Any]) -> str:
    """What is wrong with the verdict; "" where nothing is."""
    if row["verdict"] == "trust" and not row["good"]:
        return "WRONG TRUST"
    if row["verdict"] == "reweight" and not row["reweightable"]:
        return "WRONG REWEIGHT"
    return "not trusted" if row["good"] and row["verdict"] != "trust" else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--every", type=int, default=1, help="every so many fits: a first look")
    parser.add_argument("--out", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "svi runs by", UserWarning)
    torch.set_num_threads(1)
    command = f"--seeds {' '.join(map(str, arguments.seeds))} --every {arguments.every}"
    every = [(s, n, seed) for seed in arguments.seeds for s in stories() for n in names(s)]
    began, rows = time.process_time(), []
    for story, name, seed in every[:: arguments.every]:
        for row in judged(story, name, seed):
            rows.append(row)
            _report(row)
        text = document(rows, time.process_time() - began, command)
        arguments.out.write_text(text, encoding="utf-8")
    print(text.split("## Every")[0])


def _report(row: Mapping[str, Any]) -> None:
    mark = wrong(row)
    which = f"{row['story']} {row['seed']}: {row['encoder']}: {row['use']}"
    print(
        f"{which}: {row['verdict']}, truly {_truth(row)} "
        f"({row['truth']}; {row['seconds']:.1f} s) {mark and '<- ' + mark}",
        flush=True,
    )
    if mark:
        print("    ", row["reason"][:400], flush=True)


def _truth(row: Mapping[str, Any]) -> str:
    return "good" if row["good"] else "reweightable" if row["reweightable"] else "bad"


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """A line of the table: wrong trusts, wrong reweights, good ones trusted."""
    bad = [r for r in rows if not r["good"]]
    mended = [r for r in rows if r["verdict"] == "reweight"]
    good = [r for r in rows if r["good"]]
    twins = [r for r in good if r["encoder"] in TWINS]
    return [
        rate(sum(wrong(r) == "WRONG TRUST" for r in bad), len(bad)),
        rate(sum(wrong(r) == "WRONG REWEIGHT" for r in mended), len(mended)),
        rate(sum(r["verdict"] != "trust" for r in good), len(good)),
        rate(sum(r["verdict"] != "trust" for r in twins), len(twins)),
    ]


def document(rows: list[dict[str, Any]], seconds: float, command: str) -> str:
    of = {use: [r for r in rows if r["use"] == use] for use in USES}
    head = (
        "wrong trust, of those not good | wrong reweight, of all reweights | good ones not trusted"
    )
    lines = [
        "# Amortised fits against row posteriors that are known", "",
        __doc__.split("\n\n", 2)[2].strip(), "",
        f"Command: `python -m benchmarks.amortised {command}`, {len(of[ROWS])} fits, "
        f"{seconds / 60:.0f} minutes of CPU.",
        f"Machine: {machine()}.", "", "## Summary", "",
        f"| use | {head} | of sound twins ({', '.join(TWINS)}) not trusted |", "|" + "---|" * 5,
        *(f"| {use} | {' | '.join(summary(found))} |" for use, found in of.items()), "",
        "Each row's posterior, by model:", "", f"| model | {head} |", "|" + "---|" * 4,
    ]  # fmt: skip
    for story in dict.fromkeys(r["story"] for r in rows):
        own = [r for r in of[ROWS] if r["story"] == story]
        lines.append(f"| {story} | {' | '.join(summary(own)[:3])} |")
    lines += [
        "", "## Every fit", "",
        "Verdict and, in brackets, truth; the numbers are the true ones.", "",
        "| model | encoder | seed | model | codes | each row's posterior | gap of the ELBO; error of the "
        "page's evidence, nats a row | good codes | rows within bounds |", "|" + "---|" * 9,
    ]  # fmt: skip
    for i in range(0, len(rows), len(USES)):
        three = rows[i : i + len(USES)]
        cells = [three[0][k] for k in ("story", "encoder", "seed")]
        cells += [f"{r['verdict']} ({_truth(r)}){_bold(r)}" for r in three]
        cells += [r["truth"] for r in three]
        lines.append("| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |")
    return "\n".join([*lines, ""])


def _bold(row: Mapping[str, Any]) -> str:
    mark = wrong(row)
    return f" **{mark.lower()}**" if mark.isupper() else ""


if __name__ == "__main__":
    main()
