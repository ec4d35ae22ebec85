"""The comparison of approximations with its ways out: the table, the page, the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidebook.diagnostics.compare import Say, compared
from guidebook.diagnostics.compared import Compared
from guidebook.diagnostics.evidence.subject import Effort
from guidebook.diagnostics.numerics.calibration import Calibration
from guidebook.errors import SettingError
from guidebook.inference.fits.fit import Fit
from guidebook.inference.fits.running import check_whole
from guidebook.reports.elements.section import Section
from guidebook.reports.page import fragment, to_html
from guidebook.reports.terminal import table
from guidebook.scope import alone

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Comparison(Compared):
    """Approximations side by side (see `Compared` for what it holds), shown as page or table."""

    def to_html(
        self,
        path: str | Path,
        *,
        title: str | None = None,
        command: str | None = None,
        sections: Sequence[Callable[[Compared], Section | None]] = (),
    ) -> Path:
        """Writes one self-contained page; see `guidebook.reports.page`.

        Arguments:
            path: the file to write.
            title: heading of the page; the model's name where None.
            command: the command line that makes the page again, shown at its end.
            sections: further sections, such as a pair's own: functions of the comparison that
                return a `guidebook.reports.elements.section.Section`, or None.

        Raises:
            FileError: the directory cannot be made or written.
        """
        return to_html(self, path, title=title, command=command, sections=sections)

    def _repr_html_(self) -> str:
        return fragment(self)

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:  # a dataclass would print every draw
        return Compared.__repr__(self)


def compare(
    fits: Mapping[str, Fit | xr.DataTree],
    reference: str | Fit | xr.DataTree | None = None,
    seed: int = 0,
    labels: Any = None,
    held_out: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Calibration] | None = None,
    effort: Effort = "full",
    say: Say = lambda stage: None,
) -> Comparison:
    """Assesses every approximation and puts them side by side.

    Arguments:
        fits: name to Fit, or to a DataTree (or ArviZ's InferenceData) from any tool. Draws of a DataTree
            are judged by what it holds: sample_stats with lp = log p(x, z) and log_q = log q(z) on the
            constrained scale; unconstrained with position and gradient; several chains.
        reference: the name of one of them, or further draws, to compare with. Verdicts do not rest
            on it, but a sound reference that contradicts one overrules it.
        seed: of the draws.
        labels: a class of each row, to colour the latent space of amortised fits by.
        held_out: the model's keyword arguments for rows kept apart: the bound, the reconstructions
            and the nearest neighbours of amortised fits are then of these.
        calibration: name to what `guidebook.calibrate` returned for the engine and guide of that
            approximation. It may speak against it, and never for it.
        effort: "full", or "quick": by the same rules on fewer draws, with shorter searches and runs, less
            annealing, and without moment matching. What is left out for time is said beside the checks.
        say: called with every stage in a few words, before it begins: `print` for a long comparison.

    Raises:
        DataError: nothing to compare, a DataTree that cannot be read (see docs/data.md), other parameters
            or other data in one of them, rows kept apart that a guide cannot read, or labels that are not
            one a row. Both warn where no fit is amortised: they have no use.
        NameNotFound: a reference or a calibration whose name is not among the fits.
        SettingError: an `effort` of another name; a seed that is not a whole number of at least 0.
    """
    if effort not in ("quick", "full"):
        raise SettingError(f"effort={effort!r}: give 'quick' or 'full'.")
    check_whole(seed=(seed, 0))
    with alone():  # ArviZ, too, changes the warning filters of the process
        found = compared(fits, reference, int(seed), labels, held_out, calibration, effort, say)
    return Comparison(**{one.name: getattr(found, one.name) for one in fields(found)})
