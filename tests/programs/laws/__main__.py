"""The table of docs/pyro.md, made from the list: `python -m tests.programs.laws`."""

from tests.programs.laws.lines import KINDS
from tests.programs.laws.program import Program

HEAD = """# What of Pyro is supported

Every line is a small program of `tests/programs/laws`, which the tests run: what `gb.svi` does with it,
step for step what `pyro.infer.SVI` does under the same random numbers, and a log density and pointwise log
likelihoods that are those of Pyro's own trace. *Captured* runs in the recorded step; *reference* by
`pyro.infer.SVI` itself, several times slower, after one warning with the reason; *refused* ends in one
sentence before the first step. Every fit is saved and loaded in another process, `gb.compare` ends with a
verdict on it, and its page names all of its sites. A tick says that `laplace` or `nuts` runs on the program
too: its latents are continuous or summed out, and for `laplace` few. Of warnings and refusals a part is
quoted.

This page is printed by `python -m tests.programs.laws`. [optimisers.md](optimisers.md) has all optimisers
and objectives, [data.md](data.md) what a model may be given.
"""


def row(program: Program) -> str:
    beside = [f"“{program.words}”"] if program.words else []
    beside += [program.note] if program.note else []
    runs = program.how != "refused"
    by_mode = "✓" if runs and program.by_mode else ""
    sampled = f"“{program.unsampled}”" if program.unsampled else "✓" if runs else ""
    return f"| {program.uses} | {program.how} | {by_mode} | {sampled} | {'; '.join(beside)} |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, programs in KINDS.items():
        lines = [
            f"## {kind}",
            "",
            "| Pyro | `gb.svi` | `laplace` | `nuts` | |",
            "|---|---|---|---|---|",
        ]
        parts.append("\n".join([*lines, *map(row, programs)]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
