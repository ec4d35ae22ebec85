"""What the commands do: list the shelf, report a pair, fit one guide, compare files of draws, test itself.

Heavy modules are imported when a command needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidebook.errors import SettingError
from guidebook.reports.files import read_draws, writable_folder, write_netcdf, write_table

if TYPE_CHECKING:
    from guidebook.inference.fits.fit import Fit
    from guidebook.reports.comparison import Comparison
    from guidebook.shelf.pair import Pair

QUICK_STEPS = 500
QUICK_DRAWS = 500
DRAWS = 4000
DRAWS_OF_ROWS, QUICK_DRAWS_OF_ROWS = 200, 50
"""Where every row of the data has latents of its own: files of 10, not 200 MB."""


def list_pairs(options: argparse.Namespace) -> None:
    """Print the shelf: a pair, what it is, its guides, how the truth is known, its source."""
    from guidebook.catalogue import PAIRS

    for pair in PAIRS.values():
        print(pair.name)
        for label, text in (
            ("", pair.summary),
            *([("guides", ", ".join(pair.guides))] if pair.guides else []),
            *([("engines", ", ".join(pair.engines))] if pair.engines else []),
            ("truth", pair.truth),
            ("source", pair.source),
        ):
            print(_entry(label, text))
    print("\nguidebook report PAIR --out DIR fits all guides of a pair and writes the page.")


def report(options: argparse.Namespace) -> None:
    """Fit every guide of a pair and its reference; write the page, the table and the draws."""
    from guidebook.catalogue import pair as find_pair
    from guidebook.diagnostics.amortized.rows import is_amortized
    from guidebook.reports.comparison import compare as compare_fits
    from guidebook.shelf.fitting import chosen_guides

    pair = find_pair(options.pair)
    guides = chosen_guides(pair, options.guides)
    folder = writable_folder(options.out)  # before the minutes of fitting
    options.interrupted = (
        f"Checkpoints of the fits are in {folder}; the same command continues from them."
    )
    checkpoints = {name: folder / f"{pair.name}-{name}.checkpoint" for name in guides}
    fits, reference = _fitted(pair, checkpoints, options)
    by_row = any(map(is_amortized, fits.values()))
    comparison = compare_fits(
        fits,
        reference=reference,
        seed=options.seed,
        labels=pair.labels() if pair.labels and by_row else None,
        held_out=pair.held_out() if pair.held_out and by_row else None,
        effort="quick" if options.quick else "full",
        say=_stage,
    )
    _stage("figures, and what the fits say of the model")
    page = _written(pair, comparison, folder)
    _stage("files of draws")
    for name, done in fits.items():
        draws = done.posterior(draws=_draws(pair, options), seed=options.seed)
        write_netcdf(draws, folder / f"{pair.name}-{_file_name(name)}.nc")
    for checkpoint in checkpoints.values():
        _remove(checkpoint)
    print(f"\n{comparison}")
    if options.quick:
        print(
            "\n--quick: few steps and draws; a verdict may change with the default number of steps."
        )
    print(f"\n{page}")


def _fitted(
    pair: Pair, checkpoints: dict[str, Path], options: argparse.Namespace
) -> tuple[dict[str, Fit], str | None]:
    """The fits of a pair by name, its reference last, and the name of the reference."""
    from guidebook.shelf.fitting import fit_guide, fit_reference, trained_model

    data = pair.data()
    settings = _settings(pair, options)
    if pair.exact is not None:
        print(f"{pair.name}: fitting the parameters of the model, where it has any", flush=True)
    model = trained_model(pair, data, **settings)
    fits: dict[str, Fit] = {}
    for name, checkpoint in checkpoints.items():
        print(f"{pair.name}: {name}", flush=True)
        fits[name] = fit_guide(pair, name, model, data, checkpoint, **settings)
        print(f"  {_outcome(fits[name])}")
    short = {"draws": QUICK_DRAWS, "tune": QUICK_DRAWS} if options.quick else {}
    truth = fit_reference(pair, model, data, seed=options.seed, device=options.device, **short)
    if truth is None:
        return fits, None
    reference, fits[truth[0]] = truth
    print(f"{pair.name}: {reference}, the reference\n  {_outcome(fits[reference])}")
    return fits, reference


def _written(pair: Pair, comparison: Comparison, folder: Path) -> Path:
    """Write the page, with the pair's own sections, and the table; give the path of the page."""
    page = comparison.to_html(
        folder / f"{pair.name}.html",
        title=pair.name,
        command=_command_line(),
        sections=pair.sections,
    )
    write_table(comparison.table, folder / f"{pair.name}.csv")
    return page


def fit(options: argparse.Namespace) -> None:
    """Fit one guide of a pair; write its draws (FILE.nc) or the fit itself (FILE.pt)."""
    from guidebook.catalogue import pair as find_pair
    from guidebook.shelf.fitting import chosen_guides, fit_guide, trained_model

    pair = find_pair(options.pair)
    name = chosen_guides(pair, [options.guide])[0]
    if options.out.suffix not in (".nc", ".pt"):
        raise SettingError(
            f"--out {options.out}: end the name in .nc for draws that `guidebook compare` and "
            "ArviZ read, or in .pt for a fit that `guidebook.load` reads."
        )
    writable_folder(options.out.parent)
    checkpoint = options.out.with_suffix(".checkpoint")
    options.interrupted = f"The same command continues from {checkpoint}."
    data = pair.data()
    settings = _settings(pair, options)
    model = trained_model(pair, data, **settings)
    done = fit_guide(pair, name, model, data, checkpoint, **settings)
    if options.out.suffix == ".nc":
        write_netcdf(done.posterior(draws=_draws(pair, options), seed=options.seed), options.out)
    else:
        done.save(options.out)
    _remove(checkpoint)
    print(f"{done.status.value}\n{options.out}")


def _remove(checkpoint: Path) -> None:
    """Remove the checkpoint of a fit that is written; what is written stays good where that fails."""
    try:
        checkpoint.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        print(f"{checkpoint} is not needed any more, and cannot be removed ({reason}).")


def compare(options: argparse.Namespace) -> None:
    """Compare approximations that come as netCDF files, from any tool that writes ArviZ groups."""
    from guidebook.reports.comparison import compare as compare_draws

    folder = None if options.out is None else writable_folder(options.out)
    paths = list(options.files)
    if options.reference is not None and options.reference not in paths:
        paths.append(options.reference)
    names = _names(paths)
    trees = {names[path]: read_draws(path) for path in paths}
    reference = None if options.reference is None else names[options.reference]
    comparison = compare_draws(trees, reference=reference, seed=options.seed)
    print(comparison)
    if folder is not None:
        title = " and ".join(names[path] for path in options.files)
        page = comparison.to_html(folder / "comparison.html", title=title, command=_command_line())
        write_table(comparison.table, folder / "comparison.csv")
        print(f"\n{page}")


def selftest(options: argparse.Namespace) -> int:
    """Judge planted failures and their sound twins; the exit code says whether all were judged rightly."""
    from guidebook.selftest import selftest as judge_planted

    return 0 if judge_planted() else 1


# ---------------------------------------------------------------------------------------- settings


def _settings(pair: Pair, options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `svi`: the pair's, then the command's."""
    settings = {**pair.settings, "seed": options.seed, "device": options.device}
    if options.quick:
        settings["steps"] = QUICK_STEPS
    if options.steps is not None:
        settings["steps"] = options.steps
    return settings


def _draws(pair: Pair, options: argparse.Namespace) -> int:
    if options.draws is not None:
        draws: int = options.draws
        return draws
    if pair.held_out is None:
        return QUICK_DRAWS if options.quick else DRAWS
    return QUICK_DRAWS_OF_ROWS if options.quick else DRAWS_OF_ROWS


# ------------------------------------------------------------------------------------------- names


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name a file by its stem, or by its whole path where stems collide."""
    stems = [path.stem for path in dict.fromkeys(paths)]
    return {path: path.stem if stems.count(path.stem) == 1 else str(path) for path in paths}


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


# ------------------------------------------------------------------------------------ the terminal


def _stage(words: str) -> None:
    """Nothing is silent for long, also where the output is a file."""
    print(f"  {words} ...", flush=True)


def _outcome(fitted: Fit) -> str:
    return f"{fitted.seconds:.1f} s. {fitted.status.value}"


def _entry(label: str, text: str) -> str:
    margin = f"    {label:<8}" if label else "    "
    return textwrap.fill(
        text,
        100,
        initial_indent=margin,
        subsequent_indent=" " * len(margin),
        break_on_hyphens=False,
    )


def _command_line() -> str:
    return shlex.join(["guidebook", *sys.argv[1:]])
