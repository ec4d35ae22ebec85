"""Leave-one-out on the page: expected log predictive densities, k-hat by row, calibration by LOO-PIT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import kstwo

from guidebook.diagnostics.measures.leave_one_out import LeaveOneOut
from guidebook.reports.elements.numbers import fixed, minus
from guidebook.reports.elements.section import Section, Table, drawn
from guidebook.reports.elements.style import (
    FAINT,
    INK,
    colours,
    figure,
    gridlines,
    shorten,
    styled,
)

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared

BAND = 0.94
"""Of the simultaneous band around a uniform distribution function."""
DEPARTS = 0.01
"""p-value of the Kolmogorov-Smirnov test below which LOO-PIT are called not uniform."""
HEADINGS = (
    "Approximation", "elpd\nnats ± se", "Effective\nparameters", "k-hat\nlargest of rows",
    "Rows above\nthe k-hat limit", "LOO-PIT\np-value",
)  # fmt: skip


def leave_one_out(comparison: Compared) -> Section | None:
    """The section of the page; None where no usable approximation has rows to leave out."""
    found = comparison.leave_one_out
    if not found:
        return None
    first = next(iter(found.values()))
    words = (
        f"Each of the {len(first.rows):,} rows of the plate '{first.plate}' predicted from all others, "
        "by Pareto-smoothed importance sampling with the weights log p(x, z) − log q(z) − log p(x_i | z), "
        "which correct the error of the approximation too. elpd, the sum of log p(x_i | x without row i), "
        "compares models on the same data: higher is better. "
    )
    words += " ".join(sentence for name, one in found.items() for sentence in sentences(name, one))
    table = Table("", HEADINGS, [_row(name, one) for name, one in found.items()])
    pictures = drawn(
        "Rows left out",
        _caption(any(one.pit is not None for one in found.values())),
        rows_left_out(comparison, found),
    )
    return Section("Leave-one-out prediction", words, [table], pictures)


def _caption(with_pit: bool) -> str:
    khat = (
        "k-hat of the weights of each row; above the dashed line its predictive density cannot be "
        "estimated from these draws."
    )
    if not with_pit:
        return khat[0].upper() + khat[1:]
    return (
        f"Left: {khat} Right: distribution function of the LOO-PIT p(x̃_i ≤ x_i | x without row i) minus that "
        f"of a uniform one, with the simultaneous {BAND:.0%} band of the Kolmogorov–Smirnov test. Positive "
        "throughout: predictions are too high; negative throughout: too low; positive, then negative: too "
        "narrow; negative, then positive: too wide."
    )


def sentences(name: str, found: LeaveOneOut) -> list[str]:
    """What the k-hats and the LOO-PIT of one approximation say."""
    said = []
    count, total = found.unreliable, len(found.rows)
    if count:
        worst = int(np.argmax(np.nan_to_num(found.khat, nan=np.inf)))
        said.append(
            f"{name}: k-hat of {count} of {total:,} rows exceeds {found.limit:.2f} (the largest: row "
            f"{worst}), so elpd is unreliable by them; fit again without these rows, or check whether "
            "the model can produce them."
        )
    else:
        said.append(f"{name}: k-hat of every row is below {found.limit:.2f}, so elpd is reliable.")
    if found.pit is not None and found.pit_pvalue < DEPARTS:
        said.append(
            f"{name}: the LOO-PIT are not uniform (Kolmogorov–Smirnov p = {found.pit_pvalue:.2g}): the "
            "model does not predict the rows as they are distributed; compare the predictive check."
        )
    return said


def _row(name: str, found: LeaveOneOut) -> list[str]:
    return [
        name,
        minus(f"{found.elpd:,.1f} ± {found.elpd_se:,.1f}"),
        minus(fixed(found.parameters, 1)),
        minus(fixed(float(np.nanmax(found.khat)))),
        f"{found.unreliable:,} of {len(found.rows):,}",
        "–" if found.pit is None else f"{found.pit_pvalue:.2g}",
    ]


@styled
def rows_left_out(comparison: Compared, found: dict[str, LeaveOneOut]) -> Figure:
    """k-hat by row, and the distribution of the LOO-PIT where there are some."""
    palette = colours(comparison)
    with_pit = {n: one.pit for n, one in found.items() if one.pit is not None}
    shown = figure(3.4)
    axes, *rest = shown.subplots(1, 2 if with_pit else 1, squeeze=False)[0]
    for name, one in found.items():
        axes.plot(
            np.arange(len(one.khat)), one.khat, "o", ms=3.5, alpha=0.75, color=palette[name],
            label=shorten(name),
        )  # fmt: skip
    limit = min(one.limit for one in found.values())
    top = max(float(np.nanmax(one.khat)) for one in found.values())
    axes.axhline(limit, color=INK, lw=1.0, ls="--")
    axes.set_ylim(top=max(limit + 0.1, top + 0.1))
    axes.set(xlabel="row", ylabel="Pareto k-hat", title=f"k-hat by row (limit {limit:.2f})")
    gridlines(axes, "y")
    for panel in rest:
        _pit(panel, with_pit, palette)
    handles, names = axes.get_legend_handles_labels()
    shown.legend(handles, names, loc="outside upper left", ncols=min(5, len(names)))
    return shown


def _pit(axes: Axes, pits: dict[str, np.ndarray], palette: dict[str, str]) -> None:
    """Distribution functions minus the uniform one, with their band."""
    count = min(len(pit) for pit in pits.values())
    half = float(kstwo.ppf(BAND, count))
    axes.axhspan(-half, half, color=FAINT, lw=0, zorder=0)
    axes.axhline(0.0, color=INK, lw=0.8, zorder=0.5)
    for name, pit in pits.items():
        at = np.concatenate([[0.0], np.sort(pit), [1.0]])
        share = np.concatenate([np.arange(len(pit) + 1) / len(pit), [1.0]])
        axes.step(at, share - at, where="post", color=palette[name], lw=1.3)
    axes.set(
        xlabel="LOO-PIT", ylabel="share below, minus uniform", xlim=(0, 1),
        title=f"calibration of predictions, {BAND:.0%} band",
    )  # fmt: skip
    gridlines(axes, "y")
