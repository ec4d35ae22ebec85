"""A table of HEADLINES.md, a row after each fit."""

from pathlib import Path

from benchmarks import timing

RESULTS = Path(__file__).resolve().parent.parent / "HEADLINES.md"
TITLE = """# Headlines: numbers of papers, obtained here

Written by `python -m benchmarks.headlines`, a row after each fit.
"""


class Section:
    """A table of HEADLINES.md; a row of the same first cells is replaced, the rest is kept."""

    def __init__(self, title: str, words: str, header: list[str], keys: int) -> None:
        self.title, self.keys = title, keys
        self.top = [words, "", f"Machine: {timing.machine()}.", ""]
        self.head = [_line(header), _line(["---"] * len(header))]
        self.rows: dict[tuple[str, ...], str] = {}
        for line in self._sections().get(title, "").splitlines():
            if line.startswith("| ") and line not in self.head:
                self.rows[self._key(line)] = line

    def add(self, cells: list[str]) -> None:
        line = _line(cells)
        print(line, flush=True)
        self.rows[self._key(line)] = line
        sections = self._sections()
        sections[self.title] = "\n".join([*self.top, *self.head, *self.rows.values()])
        body = [f"## {title}\n\n{text.strip()}\n" for title, text in sections.items()]
        RESULTS.write_text("\n".join([TITLE, *body]), encoding="utf-8")

    def _key(self, line: str) -> tuple[str, ...]:
        return tuple(cell.strip() for cell in line.split("|")[1 : 1 + self.keys])

    @staticmethod
    def _sections() -> dict[str, str]:
        if not RESULTS.exists():
            return {}
        pieces = RESULTS.read_text(encoding="utf-8").split("\n## ")[1:]
        return {p.split("\n", 1)[0].strip(): p.split("\n", 1)[1].strip() for p in pieces}


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
