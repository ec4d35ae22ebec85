"""The figures and tables of an amortised fit that say where its bound leaks and if z is used.

Each takes `AmortizedNumbers` and returns a `matplotlib.figure.Figure`, or None where there is
nothing to draw; `tables` gives what the page shows as tables.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from guidebook.inference.collapse import ACTIVE
from guidebook.reports.amortized_figures import KHAT_LIMIT, mosaic
from guidebook.reports.numbers import fixed, minus, with_error
from guidebook.reports.style import GREY, INK, PALETTE, figure, gridlines, styled

if TYPE_CHECKING:
    from guidebook.diagnostics.amortized import AmortizedNumbers
    from guidebook.diagnostics.gap import GapLedger

_ELBO, _AMORTISATION, _APPROXIMATION = "#c9ced6", PALETTE[1], PALETTE[0]
_MOST_BARS = 60


class Table(NamedTuple):
    """A table of the page: its title, headings, rows of text, and how to read it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str


@styled
def gap_bars(numbers: "AmortizedNumbers") -> Figure | None:
    """The two gaps: on average, and of every row looked at, the largest first."""
    ledger: GapLedger | None = getattr(numbers, "ledger", None)
    if ledger is None or not ledger.family:
        return None
    terms = ledger.terms()
    drawn = figure(2.9)
    left, right = drawn.subplots(1, 2, width_ratios=(1, 1.9))
    names = ["amortisation gap\n(encoder)", "approximation gap\n(family)"]
    values = [terms["amortisation"], terms["approximation"]]
    left.barh(
        [1, 0], [v.value for v in values], xerr=[v.se for v in values],
        color=[_AMORTISATION, _APPROXIMATION], height=0.6, ecolor=INK, capsize=3,
    )  # fmt: skip
    left.set_yticks([1, 0], names)
    left.axvline(0.0, color=GREY, lw=0.8)
    left.set(xlabel="nats a row", title="on average (± se)")
    gridlines(left)
    order = np.argsort(-(ledger.evidence - ledger.elbo))
    at = np.arange(len(order))
    lost, family = ledger.amortisation[order], np.maximum(ledger.approximation[order], 0.0)
    right.bar(at, family, width=1.0, color=_APPROXIMATION, label="approximation")
    right.bar(
        at, np.maximum(lost, 0.0), bottom=family, width=1.0, color=_AMORTISATION,
        label="amortisation",
    )  # fmt: skip
    right.set(
        xlabel="rows, the largest gap first", ylabel="nats", xlim=(-0.5, len(at) - 0.5),
        title=f"each of {len(at)} rows",
    )  # fmt: skip
    right.legend(loc="upper right")
    gridlines(right, "y")
    return drawn


@styled
def kl_bars(numbers: "AmortizedNumbers") -> Figure | None:
    """KL of each latent dimension, and the variance of its posterior means against the threshold."""
    found = getattr(numbers, "collapse", None)
    if found is None:
        return None
    order = np.argsort(-found.kl, kind="stable")[:_MOST_BARS]
    at = np.arange(len(order))
    tones = [PALETTE[0] if found.active[j] else "#c9ced6" for j in order]
    drawn = figure(2.7)
    left, right = drawn.subplots(1, 2)
    left.bar(at, found.kl[order], color=tones, width=0.75)
    left.set(ylabel="nats", title=f"KL to the prior, {found.kl.sum():.3g} nats in all")
    floor = 1e-4
    right.bar(at, np.maximum(found.variance[order], floor), color=tones, width=0.75)
    right.axhline(ACTIVE, color=INK, lw=1.0, ls="--")
    right.set_yscale("log")
    right.yaxis.set_major_formatter("{x:g}")
    right.set_ylim(floor, max(2.0, 1.5 * float(found.variance.max())))
    active = int(found.active.sum())
    right.set(
        ylabel="prior variances",
        title=f"variance of posterior means: {active} of {len(found.kl)} active",
    )
    names = [found.names[j] for j in order]
    for axes in (left, right):
        axes.set_xticks(at, names, rotation=90 if len(at) > 12 else 0, fontsize=7.5)
        gridlines(axes, "y")
    return drawn


@styled
def nearest_neighbours(numbers: "AmortizedNumbers") -> Figure | None:
    """Samples above the training rows nearest to them, and their distances against fresh rows'."""
    made = getattr(numbers, "generation", None)
    if made is None or len(made.samples) == 0:
        return None
    if numbers.image_shape is not None:
        rows = [made.samples[:12], made.neighbours[:12]]
        above = [f"{d:.2g}" for d in made.sample_distance[:12]]
        return mosaic(numbers, rows, ["sample", "nearest\nin training"], above)
    drawn = figure(2.4)
    axes = drawn.subplots()
    top = float(max(made.sample_distance.max(), np.quantile(made.fresh_distance, 0.99)))
    bins = np.linspace(0, top, 31).tolist()
    fresh = "held-out rows" if made.held_out else "training rows, to each other"
    axes.hist(made.fresh_distance, bins=bins, density=True, color="#c9ced6", label=fresh)
    axes.hist(
        made.sample_distance, bins=bins, density=True, histtype="step", color=PALETTE[0], lw=1.6,
        label="samples",
    )  # fmt: skip
    axes.set(xlabel="distance to the nearest training row", ylabel="density")
    axes.legend()
    return drawn


@styled
def two_distances(numbers: "AmortizedNumbers") -> Figure | None:
    """Images shifted, with a piece missing, and brighter: squared error and SSIM above each."""
    found = getattr(numbers, "warned", None)
    if found is None or len(found.images) == 0:
        return None
    apart = np.abs(found.squared["altered"] / np.maximum(found.squared["shifted"], 1e-12) - 1)
    pick = np.argsort(-(found.disagree * (1 + apart)), kind="stable")
    columns, above = [], []
    for i in pick[:3]:
        columns.append(found.images[i])
        above.append("data")
        for name, images in found.changed.items():
            columns.append(images[i])
            above.append(
                f"{name}\nerror {found.squared[name][i]:.1f}\nSSIM {found.similarity[name][i]:.2f}"
            )
    return mosaic(numbers, [np.stack(columns).reshape(len(columns), -1)], [""], above)


def warning_caption(numbers: "AmortizedNumbers") -> str:
    """What the strip of `two_distances` says, with its numbers."""
    found = getattr(numbers, "warned", None)
    if found is None:
        return ""
    error = {k: float(v.mean()) for k, v in found.squared.items()}
    alike = {k: float(v.mean()) for k, v in found.similarity.items()}
    return (
        "The reconstruction error counts pixels, not what is seen. Shifted by half a pixel; a piece "
        "replaced by background; brightened by as much squared error as the shift. "
        f"Squared error and SSIM order shifted and altered differently for {found.disagree.mean():.0%} "
        f"of {len(found.images)} images (on average {error['shifted']:.2g} and {error['altered']:.2g}; "
        f"SSIM {alike['shifted']:.2f} and {alike['altered']:.2f}); at equal squared error, brighter "
        f"has SSIM {alike['brighter']:.2f}. SSIM is no judge of meaning either: 1 is equal."
    )


def neighbour_caption(numbers: "AmortizedNumbers") -> str:
    """What the strip of `nearest_neighbours` says, with its numbers."""
    made = getattr(numbers, "generation", None)
    told = "" if made is None else f"Decoded draws of the prior. {made.sentence()}"
    return told.replace("+-", "±").replace(" -", " −")


def tables(numbers: "AmortizedNumbers") -> list[Table]:
    """The gap ledger, the noise of gradients, and the worst rows."""
    made = [_ledger_table(numbers), _gradient_table(numbers), _worst_table(numbers)]
    return [table for table in made if table is not None]


def _ledger_table(numbers: "AmortizedNumbers") -> Table | None:
    ledger: GapLedger | None = getattr(numbers, "ledger", None)
    if ledger is None:
        return None
    terms = ledger.terms()
    said = {
        "evidence": "log evidence: middle of the two below",
        "upper": "annealed importance sampling, backwards (upper)",
        "lower": "annealed importance sampling, forwards (lower)",
        "bound": f"importance-weighted bound, {ledger.draws:,} draws",
        "approximation": f"− approximation gap: the best {ledger.family} of each row",
        "best_elbo": "= ELBO of the best q of each row",
        "amortisation": "− amortisation gap: what the encoder loses",
        "gap": "− gap (the best q of this family is not known)",
        "elbo": "= ELBO of the encoder",
    }
    left_out = ("gap",) if ledger.family else ("approximation", "best_elbo", "amortisation")
    n = len(ledger.rows)
    rows = [
        [words, minus(with_error(terms[k].value, terms[k].se)),
         minus(with_error(n * terms[k].value, n * terms[k].se))]
        for k, words in said.items() if k not in left_out
    ]  # fmt: skip
    start = (
        "exact draws of the posterior, so upper is a bound"
        if ledger.sandwich.exact_start
        else "the forward chains’ ends, resampled: upper is a bound only if these found every mode"
    )
    return Table(
        "Gap ledger",
        ["Term", "nats a row ± se", f"sum of {n} rows"],
        rows,
        f"{n} rows of the data. The se is Monte Carlo error, not the spread of rows; upper and lower may "
        f"cross within it. The backward chains start from {start}.",
    )


def _gradient_table(numbers: "AmortizedNumbers") -> Table | None:
    found = getattr(numbers, "gradients", None)
    if not found:
        return None
    rows = [[name, fixed(n.norm), fixed(n.variance), fixed(n.snr)] for name, n in found.items()]
    draws = next(iter(found.values())).draws
    return Table(
        "The noise of the encoder’s gradient",
        ["Estimator", "length of the mean", "variance", "signal to noise"],
        rows,
        f"At the end of the fit, on some rows, over {draws} draws of each estimator. Variance: of all "
        "parameters, summed. Signal to noise: |mean| / sd of a parameter, averaged; its floor is about "
        f"{0.8 / draws**0.5:.2f}, that of no signal at all.",
    )


def _worst_table(numbers: "AmortizedNumbers") -> Table | None:
    worst = np.asarray(numbers.worst, dtype=int)
    index = getattr(numbers, "index", None)
    if index is None or len(worst) == 0:
        return None
    error = np.square(numbers.reconstruction - numbers.data).sum(1)
    number = [f"#{index[i]}" for i in worst]
    if numbers.labels is not None:
        number = [f"{n} ({numbers.labels[i]})" for n, i in zip(number, worst, strict=True)]
    if numbers.point:
        rows = [[n, fixed(error[i])] for n, i in zip(number, worst, strict=True)]
        return Table(
            "The worst rows", ["Row", "squared error"], rows,
            "Largest reconstruction error first. A deterministic code: no posterior, so no k-hat.",
        )  # fmt: skip
    ses = numbers.khat_ses if numbers.khat_ses is not None else np.full(len(numbers.khat), np.nan)
    rows = [
        [n, _khat(numbers.khat[i], ses[i]), minus(fixed(numbers.elbo[i])),
         minus(fixed(numbers.bound[i])), minus(fixed(numbers.bound[i] - numbers.elbo[i])),
         fixed(error[i])]
        for n, i in zip(number, worst, strict=True)
    ]  # fmt: skip
    return Table(
        "The worst rows",
        ["Row", "k-hat ± se", "ELBO", "bound", "bound − ELBO", "squared error"],
        rows,
        f"Rows by their number in the data, the largest k-hat first; beyond {KHAT_LIMIT} weights "
        "cannot be used. Nats; squared error of the reconstruction, in the data’s units.",
    )


def _khat(value: float, error: float) -> str:
    if not np.isfinite(value):
        return "exact" if value < 0 else "not defined"
    return minus(f"{fixed(value)} ± {fixed(error)}" if np.isfinite(error) else fixed(value))
