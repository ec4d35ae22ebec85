"""A comparison as one self-contained HTML file, and as the fragment a notebook shows."""

import contextlib
import datetime
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from guidebook.diagnostics.model_kinds.mixtures import mixture_numbers
from guidebook.diagnostics.witnesses.importance import khat_limit
from guidebook.diagnostics.witnesses.testimony import MEAN_LIMIT, SD_HIGH, SD_LOW
from guidebook.errors import FileError
from guidebook.programs.owned import Owned
from guidebook.reports.elements.numbers import (
    count,
    fixed,
    listing,
    minus,
    seconds,
    span,
    with_error,
)
from guidebook.reports.elements.section import encoded
from guidebook.reports.elements.style import colours
from guidebook.reports.elements.summaries import names_of, sample_size, unsound, verdict_word
from guidebook.reports.figures.curves import MANY_DRAWS
from guidebook.reports.figures.graph import model_graph
from guidebook.reports.provenance import data_rows, seeds, versions
from guidebook.reports.sections import energy as energy_pictures
from guidebook.reports.sections import general as gallery
from guidebook.reports.sections import mixture as mixture_figures
from guidebook.reports.sections.amortized import datum_by_datum
from guidebook.reports.sections.forms import forms_table
from guidebook.reports.sections.gap_tables import tables

if TYPE_CHECKING:
    from guidebook.diagnostics.compare import Compared

_MISSING = "–"


@dataclass(frozen=True)
class _Cell:
    """One number of the table; `off` where beyond what the verdict allows; `note` below it."""

    text: str
    off: bool = False
    note: str = ""


@dataclass(frozen=True)
class _Row:
    """One approximation, as its card, its row of the table and its witnesses show it."""

    name: str
    colour: str
    word: str
    warning: str
    reason: str
    next: str
    facts: list[tuple[str, str]]
    cells: list[_Cell]
    witnesses: list[str]


def to_html(
    comparison: "Compared",
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """Writes the comparison as one HTML file without links, scripts or other files; returns its
    path.

    The directory is made where it is missing. The file appears when it is complete: an interrupted
    call leaves an earlier page as it was.

    Args:
        comparison: what `guidebook.compare` returned.
        path: the file to write.
        title: heading of the page; the model's name where None.
        command: the command line that makes the page again, shown at its end.

    Raises:
        FileError: the directory cannot be made or written.
    """
    target = Path(path)
    text = _render(comparison, title=title, command=command, whole=True)
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileError(
            f"The report cannot be written to '{target}' ({reason}). "
            "Give a file name in a directory that you may write to, on a disk with room."
        ) from error
    finally:
        # Nothing half-written stays, whatever stopped the writing.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return target


def fragment(comparison: "Compared") -> str:
    """The verdicts, the table and the first figures, for a notebook's `_repr_html_`."""
    return _render(comparison, title=None, command=None, whole=False)


def _render(comparison: "Compared", *, title: str | None, command: str | None, whole: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("guidebook.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [_row(comparison, name) for name in names_of(comparison)]
    names = list(comparison.amortized) if whole else []
    sections = [gallery.general(comparison, whole)]
    sections += [datum_by_datum(comparison.amortized[name]) for name in names]
    sections.append(energy_pictures.pictures(comparison) if whole else [])
    mixture = mixture_numbers(comparison) if whole else None
    sections.append(mixture_figures.pictures(comparison, mixture) if mixture is not None else [])
    graph, reason = model_graph(comparison.model, comparison.data) if whole else (None, "")
    sections.append(gallery.model_drawing(graph) if graph is not None else [])
    if graph is not None and not sections[-1]:
        reason = f"its {len(graph.sites)} sites are too many for a drawing"
    images = encoded(sections)
    content: dict[str, Any] = {
        "whole": whole,
        "title": title or _title(comparison),
        "subtitle": _subtitle(comparison),
        "headline": _headline(rows),
        "rows": rows,
        "columns": _columns(comparison),
        "limits": _limits(comparison),
        "pictures": images[0],
        "amortized": [
            (n, colours(comparison)[n], i, tables(comparison.amortized[n]))
            for n, i in zip(names, images[1:], strict=False)
        ],
        "energy": images[-3],
        "mixture": images[-2],
        "labelling": mixture_figures.labelling(mixture) if mixture is not None else "",
        "forms": forms_table(comparison.bounds) if whole else ([], []),
        "model_picture": images[-1],
        "sites": graph.sites if graph is not None else (),
        "no_graph": reason,
        "data": data_rows(comparison) if whole else [],
        "seeds": seeds(comparison),
        "versions": versions(),
        "command": command,
        "date": datetime.date.today().isoformat(),
    }
    return environment.get_template("page.html.jinja").render(content)


def _title(comparison: "Compared") -> str:
    model: Any = comparison.model
    if isinstance(model, Owned):
        model = model.function[0]
    name = str(getattr(model, "__name__", type(model).__name__))
    if model is None or not name.isidentifier():  # a lambda
        return "Posterior approximations compared"
    return name.replace("_", " ")


def _subtitle(comparison: "Compared") -> str:
    names = [name for name in names_of(comparison) if name != comparison.reference]
    what = f"{len(names)} approximation{'s' if len(names) != 1 else ''} of the posterior"
    against = (
        f"compared with {comparison.reference}"
        if comparison.reference is not None
        else "without a reference"
    )
    return f"{what}, {against}"


def _headline(rows: list[_Row]) -> str:
    """The verdict in one sentence or two, for who reads nothing else."""
    groups = {
        word: [row.name for row in rows if row.word == word]
        for word in ("trust", "reweight", "reject")
    }
    sentences = []
    if groups["trust"]:
        sentences.append(f"Trust {listing(groups['trust'])}.")
    if groups["reweight"]:
        sentences.append(f"Use {listing(groups['reweight'])} with importance weights only.")
    if groups["reject"]:
        every = not groups["trust"] and not groups["reweight"]
        sentences.append(
            f"Reject {listing(groups['reject'])}{': none of them can be used' if every else ''}."
        )
    sentences += [
        f"Mind: the reference {row.name} is not sound itself." for row in rows if row.warning
    ]
    return " ".join(sentences)


def _limits(comparison: "Compared") -> str:
    """What a trusted fit keeps to, for the key of the table."""
    khat = khat_limit(sample_size(comparison) or MANY_DRAWS)
    return f"k-hat {khat:.2f}, mean error {MEAN_LIMIT} sd, sd ratio {SD_LOW:.2f} to {SD_HIGH}"


def _columns(comparison: "Compared") -> list[tuple[str, str]]:
    """Heading and unit of each column of the table."""
    sds = "reference sd" if comparison.reference is not None else "posterior sd"
    return [
        ("k-hat", "± se"),
        ("ESS", "draws"),
        ("Stein", "error, sd"),
        ("Mean error", sds),
        ("Sd ratio", "least to most"),
        ("Wasserstein", sds),
        ("ELBO", "nats ± se"),
        ("Log evidence", "nats ± se"),
        ("Time", "engine"),
    ]


def _row(comparison: "Compared", name: str) -> _Row:
    row: Mapping[str, Any] = comparison.table.loc[name]
    word = verdict_word(comparison, name)
    limit = khat_limit(sample_size(comparison) or MANY_DRAWS)
    judged = word != "reference"
    khat = _Cell(_khat(row), judged and float(row["khat"]) > limit)
    error = _Cell(
        minus(fixed(row["mean_error"], missing=_MISSING)),
        judged and float(row["mean_error"]) > MEAN_LIMIT,
    )
    ratio = _Cell(
        span(row["sd_ratio_min"], row["sd_ratio_max"], missing=_MISSING),
        judged and (float(row["sd_ratio_min"]) < SD_LOW or float(row["sd_ratio_max"]) > SD_HIGH),
    )
    cells = [
        khat,
        _Cell(count(row["ess"], missing=_MISSING)),
        _Cell(minus(fixed(row["stein"], missing=_MISSING))),
        error,
        ratio,
        _Cell(minus(fixed(row["wasserstein"], missing=_MISSING))),
        _Cell(minus(with_error(row["elbo"], row["elbo_se"], missing=_MISSING))),
        _Cell(minus(with_error(row["log_evidence"], row["log_evidence_se"], missing=_MISSING))),
        _Cell(seconds(row["seconds"], missing=_MISSING), note=_text(row["engine"])),
    ]
    facts = [
        ("k-hat", khat.text),
        ("mean error", error.text),
        ("sd ratio", ratio.text),
        ("time", cells[-1].text),
    ]
    return _Row(
        name=name,
        colour=colours(comparison).get(name, "#8a8f98"),
        word=word,
        warning=str(comparison.verdicts[name].value) if unsound(comparison, name) else "",
        reason=_text(row["reason"]),
        next=_text(row["next"]),
        facts=[fact for fact in facts if fact[1] != _MISSING],
        cells=cells,
        witnesses=[str(sentence) for sentence in comparison.witnesses.get(name, [])],
    )


def _khat(row: Mapping[str, Any]) -> str:
    value, error = fixed(row["khat"], missing=_MISSING), fixed(row["khat_se"], missing=_MISSING)
    return minus(value if error == _MISSING or math.isinf(row["khat"]) else f"{value} ± {error}")


def _text(value: Any) -> str:
    """A sentence of the table; nothing where there is none (NaN)."""
    return value.strip() if isinstance(value, str) else ""
