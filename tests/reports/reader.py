"""A page as it is read: balanced tags, addresses, links and text."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Reader(HTMLParser):
    """Holds that tags are balanced; collects tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.places: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [str(v) for k, v in attrs if k in ("src", "srcset", "data")]
        self.links += [str(v) for k, v in attrs if k == "href"]
        self.places += [str(v) for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))
