"""What mkdocs does beyond its settings: README as the front page, links, commands.

Pages link to the repository's files as `../kernels/lrn.cu`, as GitHub follows them. The
site has a copy of each such file, source code as a page of its own; a link to a folder
becomes plain text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from minicnn.cli.main import cli

ROOT = Path(__file__).parents[1]
DOCS, README = ROOT / "docs", ROOT / "README.md"
LINK = re.compile(r"(!?)\[([^]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")
NAMES = re.compile(r"^ +\w+(, \w+)+:", re.M)
LANGUAGES = {".py": "python", ".toml": "toml", ".cu": "cuda", ".cuh": "cuda"}
LANGUAGES |= {".cpp": "cpp", ".h": "cpp"}


class NamesTogether(griffe.Extension):
    """Keeps "top, left: corners" one entry; else "left" is taken for the type."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = NAMES.sub(lambda m: m[0].replace(", ", ",\xa0"), text)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds README, the commands, and each of the repository's files that is linked."""

    def add(place: str, **how: Any) -> None:
        files.append(File.generated(config, place, **how))

    add("commands.md", content="# Commands\n" + "".join(_helps(cli, None, "minicnn")))
    pending = [README, *sorted(DOCS.glob("*.md"))]
    seen = set(pending)
    while pending:
        path = pending.pop()
        place, code = _place(path), LANGUAGES.get(path.suffix)
        if code:
            text = path.read_text(encoding="utf-8")
            name = path.relative_to(ROOT)
            add(place, content=f"# `{name}`\n\n```{code}\n{text}\n```\n")
        elif path.suffix != ".md":
            add(place, abs_src_path=str(path))
        else:
            text = path.read_text(encoding="utf-8")
            if not _in_docs(path):
                add(place, content=_relinked(text, path))
            linked = {
                (path.parent / found[3]).resolve() for found in LINK.finditer(text)
            }
            new = {each for each in linked - seen if each.is_file()}
            pending += sorted(each for each in new if not _in_docs(each))
            seen |= new
    add("commands.md", content="# Commands\n" + "".join(_helps(cli, None, "minicnn")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turns a page's links to the repository's files into links to their copies."""
    source = page.file.abs_src_path
    return _relinked(markdown, Path(source)) if source else markdown


def _in_docs(path: Path) -> bool:
    """Whether mkdocs finds the file by itself: mkdocs.yml excludes the scripts."""
    return path.is_relative_to(DOCS) and path.suffix != ".py"


def _place(path: Path) -> str:
    """Where the site has a file of the repository."""
    if _in_docs(path):
        return str(path.relative_to(DOCS))
    if path == README:
        return "index.md"
    page = ".md" if path.suffix in LANGUAGES else ""
    return f"files/{path.relative_to(ROOT)}{page}"


def _relinked(markdown: str, source: Path) -> str:
    """The text of `source` with its links as the site has them."""

    def link(found: re.Match[str]) -> str:
        path = (source.parent / found[3]).resolve()
        if path.is_dir():
            return found[2]
        if not path.is_file():
            return found[0]
        place = os.path.relpath(_place(path), os.path.dirname(_place(source)) or ".")
        return f"{found[1]}[{found[2]}]({place}{found[4] or ''})"

    return LINK.sub(link, markdown)


def _helps(
    command: click.Command, parent: click.Context | None, name: str
) -> Iterator[str]:
    """A heading and the help of a command, or of each of a group's."""
    how = {"terminal_width": 88, **command.context_settings}
    context = click.Context(command, parent, name, **how)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            assert child is not None
            yield from _helps(child, context, each)
    else:
        yield f"\n## {context.command_path}\n\n```text\n{context.get_help()}\n```\n"
