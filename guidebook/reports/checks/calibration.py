"""What a page shows of calibrations: a part for every approximation that one was given with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidebook.diagnostics.numerics.calibration import FALSE_ALARM, LEVELS, Calibration
from guidebook.reports.elements.numbers import fixed, minus, number
from guidebook.reports.elements.section import Picture, Section, Table
from guidebook.reports.elements.style import colours
from guidebook.reports.figures.calibration import ecdf_differences, worst

if TYPE_CHECKING:
    from guidebook.diagnostics.compared import Compared


def calibration(comparison: Compared) -> Section | None:
    """The section; None where no calibration was given."""
    if not comparison.calibrations:
        return None
    palette = colours(comparison)
    parts = [
        Section(
            name,
            f"{one.sentence()} {one.caveats()}".strip(),
            tables=[_table(one)],
            pictures=[_picture(one, palette[name])],
            colour=palette[name],
        )
        for name, one in comparison.calibrations.items()
    ]
    return Section(
        "Calibration",
        "Known truths were ranked among the draws that the same engine or guide makes of data simulated "
        "from them. Ranks of exact posteriors are uniform. A calibration can speak against an "
        "approximation; one in which nothing was found does not speak for it.",
        parts=parts,
    )


def _picture(one: Calibration, colour: str) -> Picture:
    return Picture(
        "Distribution of the ranks",
        "Grey: the band in which the curves of all quantities of a calibrated approximation stay with a "
        f"probability of at least {1 - FALSE_ALARM / 3:.1%} (Säilynoja et al. 2022). A curve above zero: "
        "the draws are too high; below: too low; up, then down: too narrow; down, then up: too wide. A "
        "name in bold: off by this band or by a test of asymmetry or of width.",
        ecdf_differences(one, colour),
    )


def _table(one: Calibration) -> Table:
    rows = []
    for name in worst(one):
        numbers = one.table.loc[name]
        rows.append(
            [
                name,
                str(numbers["finding"]),
                minus(fixed(numbers["shift"])),
                fixed(numbers["sd_ratio"]),
                *(f"{numbers[f'coverage_{100 * level:.0f}']:.0%}" for level in LEVELS),
                number(one.tests[name].least, 2),
            ]
        )
    hidden = len(one.names) - len(rows)
    return Table(
        "",
        ["Quantity", "Finding", "Shift\nin sd of the draws", "sd ratio\ndraws / posterior",
         *(f"Coverage\nof {level:.0%} intervals" for level in LEVELS), "p-value\nsmallest of three"],
        rows,
        f"A quantity is off where a p-value is below {one.level:.1g}, so that a calibrated approximation has "
        f"any called off with a probability of {FALSE_ALARM:.0%}. Shift and sd ratio: of normal draws with "
        "such ranks." + (f" The {hidden} quantities with larger p-values are not shown." if hidden else ""),
    )  # fmt: skip
