"""The report's page: one HTML file that needs no network, no script and no other file.

Pictures are inlined as data; a content security policy forbids all else. It reads on a
phone, follows the reader's light or dark setting, and prints.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape, unescape
from string import Template

from minicnn.experiments.report.drawing import Picture
from minicnn.experiments.report.tables import Html, html

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
<nav aria-label="Contents"><ul>
$contents
</ul></nav>
</header>
<main>
$sections
</main>
<footer><p>$footer</p></footer>
</body>
</html>
""")

_STYLE = """\
:root { --ink: #1a1a1a; --quiet: #595959; --paper: #fff; --line: #d9d9d9;
  --shade: #f5f5f3; --link: #005a9c; --good: #00664b; --bad: #a33f00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --quiet: #a9a6a1; --paper: #16181a; --line: #3a3d40;
    --shade: #1f2224; --link: #7fc1f5; --good: #4fd0a7; --bad: #f2a06b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0; text-wrap: balance; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
p, ul, dl { max-width: 44rem; }
.lead { font-size: 1.1rem; }
a { color: var(--link); }
nav ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .2rem 1.1rem; max-width: none; }
.small, figcaption, caption, footer { color: var(--quiet); font-size: .875rem; }
.warning { border-left: .25rem solid var(--bad); padding: .1rem 0 .1rem .8rem; }
.row { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
figure { margin: 1rem 0; flex: 1 1 24rem; min-width: min(100%, 20rem);
  max-width: 44rem; }
figure.whole { max-width: none; overflow-x: auto; }
figure.whole img { min-width: 44rem; }
figure img { display: block; width: 100%; height: auto; background: #fff;
  border-radius: .4rem; padding: .4rem; }
figcaption { margin-top: .4rem; max-width: 44rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; }
dt { color: var(--quiet); } dd { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; } .claims td { white-space: normal; }
.n { text-align: right; }
.claims td { min-width: 8rem; } .claims td:first-child { min-width: 0; }
.claims td:nth-child(2) { min-width: 18rem; }
.whole { white-space: nowrap; } .verdict { font-weight: 600; display: block; }
.supported { color: var(--good); } .supported::before { content: "✓ "; }
.not-supported { color: var(--bad); } .not-supported::before { content: "✗ "; }
.not-enough-runs { color: var(--quiet); } .not-enough-runs::before { content: "– "; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; }
@media (max-width: 40rem) {
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; }
  .claims thead { display: none; }
  .claims, .claims tbody, .claims tr, .claims td { display: block; }
  .claims caption { display: block; }
  .claims tr { border-bottom: 1px solid var(--line); padding: .6rem 0; }
  .claims td, .claims td:nth-child(2) { border: 0; padding: .1rem 0; min-width: 0; }
  .claims td:first-child { float: left; padding-right: .5rem; font-weight: 600; }
  .claims .verdict { display: inline; }
  .claims td:nth-child(n+3)::before { content: attr(data-label) ": ";
    color: var(--quiet); } }
@media print {
  :root { --ink: #000; --quiet: #444; --paper: #fff; --line: #bbb;
    --good: #000; --bad: #000; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  /* What is folded on the screen is not left out on paper. */
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { list-style: none; break-after: avoid; }
  .row { display: block; } .row figure { max-width: 30rem; }
  figure.whole img { width: auto; max-width: 100%; max-height: 85vh; }
  .scroll, figure.whole { overflow: visible; } td { white-space: normal; }
  figure img, figure.whole img { padding: 0; min-width: 0; }
  table { font-size: 7.5pt; } }
"""

_MADE = "<footer><p>Made by minicnn "


def _data(picture: Picture) -> str:
    kind, found = "svg+xml", picture.svg
    if found is None:
        kind, found = "png", picture.png
    return f"data:image/{kind};base64,{b64encode(found).decode()}"


def figure(picture: Picture, whole: bool = False) -> Html:
    """A picture with its caption.

    Args:
        whole: whether it may take the page's whole width.
    """
    title = f"<strong>{escape(picture.title)}.</strong> " if picture.title else ""
    style = ' class="whole"' if whole else ""
    return Html(
        f'<figure id="{escape(picture.name)}"{style}>'
        f'<img src="{_data(picture)}" alt="{escape(picture.alt)}">'
        f"<figcaption>{title}{escape(picture.caption)}</figcaption></figure>"
    )


def figure_names(text: str) -> set[str]:
    """Names of the pictures on a page that `page` made; of no other page any."""
    if _MADE not in text:
        return set()
    found = (unescape(each) for each in re.findall('<figure id="([^"]*)"', text))
    return {each for each in found if "/" not in each}


def row(parts: Iterable[Html]) -> Html:
    """Figures side by side, where the page is wide enough."""
    return Html('<div class="row">' + "\n".join(parts) + "</div>")


def paragraph(text: object, style: str = "") -> Html:
    """A paragraph of text, or of HTML."""
    kind = f' class="{style}"' if style else ""
    return Html(f"<p{kind}>{html(text)}</p>")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """A list of names and what they are."""
    items = (f"<dt>{escape(name)}</dt><dd>{html(each)}</dd>" for name, each in pairs)
    return Html("<dl>" + "\n".join(items) + "</dl>")


def bullets(items: Iterable[object]) -> Html:
    """A plain list."""
    return Html("<ul>" + "".join(f"<li>{html(each)}</li>" for each in items) + "</ul>")


def folded(summary: str, parts: Iterable[Html], opened: bool = False) -> Html:
    """What the reader unfolds."""
    state = " open" if opened else ""
    return Html(
        f"<details{state}><summary>{escape(summary)}</summary>\n"
        + "\n".join(parts)
        + "</details>"
    )


def page(
    title: str, lead: str, sections: Sequence[tuple[str, Sequence[Html]]], footer: str
) -> str:
    """The whole page.

    Args:
        title: of the page.
        lead: the paragraph under it.
        sections: heading and content of each; those without content are left out.
        footer: the last words.
    """
    shown = [(name, parts) for name, parts in sections if parts]
    ids = [f"s{number}" for number in range(1, len(shown) + 1)]
    return _PAGE.substitute(
        title=escape(title),
        lead=escape(lead),
        style=_STYLE,
        contents="\n".join(
            f'<li><a href="#{each}">{escape(name)}</a></li>'
            for each, (name, _) in zip(ids, shown, strict=True)
        ),
        sections="\n".join(
            f'<section aria-labelledby="{each}"><h2 id="{each}">{escape(name)}</h2>\n'
            + "\n".join(parts)
            + "</section>"
            for each, (name, parts) in zip(ids, shown, strict=True)
        ),
        footer=escape(footer),
    )
