"""The command line: list the shelf, report a pair, fit one guide, compare files of draws, test itself.

    guidebook list
    guidebook report eight-schools --out reports/
    guidebook fit eight-schools --guide flow --out flow.nc
    guidebook compare a.nc b.nc --reference nuts.nc --out reports/
    guidebook selftest

Exit codes: 0 done, 1 the self-test found verdicts wrong, 2 bad input (one line on standard error says
the cause and the remedy), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from guidebook.commands import DRAWS, DRAWS_OF_ROWS, compare, fit, list_pairs, report, selftest
from guidebook.errors import GuidebookError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int | None] = options.command
    try:
        return command(options) or 0
    except GuidebookError as error:
        print(f"guidebook: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nguidebook: interrupted. {options.interrupted}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `guidebook list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: give a whole number of at least 1")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value}: give a whole number from 0 to 2**32 - 1")
    return value


def _comma_list(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return names


def _version() -> str:
    from guidebook import __version__

    return f"guidebook {__version__}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guidebook",
        description="Model/guide pairs for Pyro, and a verdict on each posterior approximation.",
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.set_defaults(interrupted="Nothing was written.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the pairs: model, guides, reference and source")
    listing.set_defaults(command=list_pairs)
    reporting = commands.add_parser(
        "report", help="fit all guides of a pair, compare them, write the page"
    )
    reporting.add_argument("pair", metavar="PAIR", help="a name from `guidebook list`")
    reporting.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    reporting.add_argument(
        "--guides", type=_comma_list, metavar="A,B", help="some of its guides (default: all)"
    )
    _add_fitting(reporting)
    reporting.set_defaults(command=report)

    fitting = commands.add_parser("fit", help="fit one guide of a pair, write its draws or the fit")
    fitting.add_argument("pair", metavar="PAIR", help="a name from `guidebook list`")
    fitting.add_argument("--guide", required=True, metavar="NAME", help="one of the pair's guides")
    fitting.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="draws (.nc) or fit (.pt)"
    )
    _add_fitting(fitting)
    fitting.set_defaults(command=fit)

    comparing = commands.add_parser(
        "compare", help="compare netCDF files of draws, from any tool that writes ArviZ groups"
    )
    comparing.add_argument("files", nargs="+", type=Path, metavar="FILE")
    comparing.add_argument(
        "--reference", type=Path, metavar="FILE", help="draws taken as the truth"
    )
    comparing.add_argument("--out", type=Path, metavar="DIR", help="write the page and table here")
    comparing.add_argument("--seed", type=_seed, default=0, metavar="N")
    comparing.set_defaults(command=compare)

    tested = commands.add_parser("selftest", help="does it still see planted failures? A minute")
    tested.set_defaults(command=selftest)
    return parser


def _add_fitting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="random seed (default 0)"
    )
    parser.add_argument(
        "--draws",
        type=_positive,
        metavar="S",
        help=f"draws in the files (default {DRAWS}; {DRAWS_OF_ROWS} where each row has latents)",
    )
    parser.add_argument(
        "--steps",
        type=_positive,
        metavar="N",
        help="steps of SVI (default: as long as the ELBO rises)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (default: the data's)")
    parser.add_argument(
        "--quick", action="store_true", help="few steps and draws, for a first look"
    )


if __name__ == "__main__":
    sys.exit(main())
