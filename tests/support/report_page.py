"""What the report's tests look at: a report's rows, its page, what the command says."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

from click.testing import CliRunner, Result

from minicnn.cli.main import cli
from minicnn.experiments.report.build import Built, build

FIGURES = ("transfer", "panels", "relative", "preserved", "reduced")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parsed(built: Built) -> Parsed:
    return Parsed(built.page.read_text(encoding="utf-8"))


def words_of(study: Path) -> str:
    """What the page of a study's report says."""
    return parsed(build(study, study.parent / "report")).text


def command(*argv: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, argv)])


class Parsed(HTMLParser):
    """What of a page matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    @property
    def text(self) -> str:
        """All its words, a space between any two."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
