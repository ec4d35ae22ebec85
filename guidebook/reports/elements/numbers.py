"""How a number is written in a report: as many digits as it is known to, and no more."""

import math

#: What stands where a number cannot be had; in every code page, so that any terminal prints it.
MISSING = "-"


def number(value: float, digits: int = 3, missing: str = MISSING) -> str:
    """`value` to `digits` significant digits, with thousands separated, or `missing` where it is
    NaN.

    >>> number(1234.5), number(0.012345), number(float("nan"))
    ('1,234', '0.0123', '-')
    """
    value = float(value)
    if math.isnan(value):
        return missing
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size < 7:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def fixed(value: float, decimals: int = 2, missing: str = MISSING) -> str:
    """`value` with `decimals` decimals: for columns whose numbers are read against one threshold.

    >>> fixed(0.7), fixed(float("nan"))
    ('0.70', '-')
    """
    value = float(value)
    if math.isnan(value):
        return missing
    if math.isinf(value) or abs(value) >= 1e4:
        return number(value)
    return f"{value:,.{decimals}f}"


def with_error(value: float, error: float, missing: str = MISSING) -> str:
    """`value` and its standard error, both to the first digit of the error.

    >>> with_error(-31.6234, 0.034), with_error(-31.6234, float("nan")), with_error(512.3, 41.0)
    ('-31.62 ± 0.03', '-31.6', '512 ± 41')
    """
    value, error = float(value), float(error)
    if not math.isfinite(value) or not math.isfinite(error) or error < 0:
        return number(value, missing=missing)
    if error < 1e-6:
        return f"{value:,.3f}" if 1e-3 < abs(value) < 1e6 else number(value)
    size = math.floor(math.log10(error))
    decimals = min(6, max(0, -size))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def mean_and_sd(mean: float, sd: float, missing: str = MISSING) -> str:
    """A mean and a standard deviation, both to the second digit of the standard deviation.

    >>> mean_and_sd(0.4038, 0.9966), mean_and_sd(4.18, 3.31), mean_and_sd(-1234.0, 0.0)
    ('0.40 ± 1.00', '4.2 ± 3.3', '-1,234 ± 0')
    """
    if not math.isfinite(mean) or not math.isfinite(sd) or sd <= 0:
        return f"{number(mean, missing=missing)} ± {number(sd, missing=missing)}"
    decimals = 1 - math.floor(math.log10(sd))
    if decimals > 6 or abs(mean) >= 1e7:
        return f"{mean:.3g} ± {sd:.2g}"
    return f"{mean:,.{max(0, decimals)}f} ± {sd:,.{max(0, decimals)}f}"


def count(value: float, missing: str = MISSING) -> str:
    """An effective number of draws, to the whole.

    >>> count(1612.4), count(float("nan"))
    ('1,612', '-')
    """
    return f"{value:,.0f}" if math.isfinite(float(value)) else number(value, missing=missing)


def span(low: float, high: float, missing: str = MISSING) -> str:
    """A range of ratios, `low` to `high`; one number where both are the same to the eye.

    >>> span(0.31, 1.04), span(float("nan"), float("nan"))
    ('0.31 to 1.04', '-')
    """
    first, last = fixed(low, missing=missing), fixed(high, missing=missing)
    return first if first == last else f"{first} to {last}"


def seconds(value: float, missing: str = MISSING) -> str:
    """A duration in seconds, or in minutes and hours where seconds would be hard to read.

    >>> seconds(0.042), seconds(12.34), seconds(754.0), seconds(8000)
    ('0.04 s', '12.3 s', '12.6 min', '2.2 h')
    """
    value = float(value)
    if not math.isfinite(value):
        return missing
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def minus(text: str) -> str:
    """A true minus sign, as wide as the plus and not broken from its number; for HTML."""
    return text.replace("inf", "\N{INFINITY}").replace("-", "\N{MINUS SIGN}")


def listing(names: list[str]) -> str:
    """Names as a reader says them.

    >>> listing(["a"]), listing(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
