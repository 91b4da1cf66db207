"""The furniture of a page, as strings: head tags, the line that says where one is, the menu that runs a page elsewhere.

Nothing here reads or writes files, except that :func:`known_repository` asks git for the address of `origin`.
`tools/finish.py` puts the strings into the built site, `tools/notebooks.py` asks for the repository's name.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TITLE = "Saddle-free"
DESCRIPTION = (
    "An online book on saddle-free second-order optimization. Every claim is executed, every number comes out of a run."
)
PREVIEW_ALT = "Contour lines of two wells with a pass between them, and the paths of three optimization methods."
BRANCH = "notebooks"  # where the pages workflow publishes the plain notebooks
UPLOAD = "https://colab.research.google.com/#upload=true"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")
_ORIGIN = re.compile(r"(?:https?://(?:[^@/]*@)?|ssh://git@|git@)github\.com[:/]([^/]+/[^/]+?)(?:\.git)?/?")
_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")


@dataclass(frozen=True)
class Part:
    """A part of the book: ``caption``, ``number`` (0 where its pages have no chapter numbers), ``pages`` as
    (name without suffix, title)."""

    caption: str
    number: int
    pages: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """`Part III · The series`, or the caption alone."""
        return f"Part {_ROMAN[self.number]} · {self.caption}" if self.number else self.caption


def checked_name(repository: str) -> str:
    """`owner/name` itself.

    Raises
    ------
    ValueError
        Anything else.
    """
    if not _NAME.fullmatch(repository):
        raise ValueError(f"{repository!r} is no repository on GitHub; give it as owner/name")
    return repository


def known_repository(environment: Mapping[str, str] | None = None, origin: str | None = None) -> str | None:
    """`owner/name` from `REPOSITORY`, else `GITHUB_REPOSITORY`, else git's `origin` if that is on github.com.

    Raises
    ------
    ValueError
        A variable holds something that is no `owner/name`.

    >>> known_repository({"REPOSITORY": "someone/book"})
    'someone/book'
    >>> known_repository({}, origin="git@github.com:someone/book.git")
    'someone/book'
    >>> known_repository({}, origin="https://example.org/someone/book") is None
    True
    """
    environment = os.environ if environment is None else environment
    for variable in ("REPOSITORY", "GITHUB_REPOSITORY"):
        if environment.get(variable):
            return checked_name(environment[variable])
    if origin is None:
        command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        try:
            origin = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None
    found = _ORIGIN.fullmatch(origin)
    return found[1] if found and _NAME.fullmatch(found[1]) else None


def address(repository: str | None) -> str:
    """Where GitHub Pages shows the site, with a slash at its end; empty where no repository is known.

    >>> address("someone/book")
    'https://someone.github.io/book/'
    """
    if repository is None:
        return ""
    owner, name = checked_name(repository).split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def plain(text: str) -> str:
    """The words of a piece of HTML; formulas lose their delimiters and most of their markup.

    >>> plain('<p>the scale <span class="math">\\\\(\\\\lvert V\\\\rvert\\\\)</span> &amp; <em>more</em></p>')
    'the scale |V| & more'
    """
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    text = re.sub(r"\\[lr]vert ?", "|", re.sub(r"\\[lr]Vert ?", "‖", text))
    text = re.sub(r"\\[()\[\],;!]|\\(?:left|right|text|mathrm|tfrac|frac)\b|[{}]", "", text)
    return " ".join(text.replace("\\", "").split())


def shortened(text: str, length: int = 200) -> str:
    """At most `length` characters, cut between words and ended by an ellipsis.

    >>> shortened("one two three", 9)
    'one two…'
    """
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"


def head_tags(page: str, title: str, description: str, root: str, repository: str | None) -> str:
    """Tags for previews, icons and the browser's bar. ``page`` is `part/name.html`, ``root`` the way to the site's top.

    Addresses of previews must be absolute, which needs a repository; else they are relative.
    """
    site = address(repository)
    image = (site or root) + "_static/social-preview.png"
    kind = "website" if page == "index.html" else "article"
    properties = {"og:type": kind, "og:site_name": TITLE, "og:title": title, "og:description": description}
    if site:
        properties["og:url"] = site + ("" if page == "index.html" else page)
    properties |= {"og:image": image, "og:image:width": "1200", "og:image:height": "630", "og:image:alt": PREVIEW_ALT}
    names = {"description": description, "twitter:card": "summary_large_image", "twitter:title": title}
    names |= {"twitter:description": description, "twitter:image": image, "theme-color": "#ffffff"}
    lines = [f'<meta name="{key}" content="{html.escape(value)}" />' for key, value in names.items()]
    lines += [f'<meta property="{key}" content="{html.escape(value)}" />' for key, value in properties.items()]
    if site:
        lines.append(f'<link rel="canonical" href="{properties["og:url"]}" />')
    lines += [
        f'<link rel="icon" type="image/png" sizes="32x32" href="{root}_static/favicon-32.png" />',
        f'<link rel="apple-touch-icon" href="{root}_static/favicon-180.png" />',
    ]
    return "\n".join(lines)


def place(page: str, parts: tuple[Part, ...], root: str) -> str:
    """`Part III · The series — chapter 4`, with a link to the part's first page; empty outside the parts."""
    name = page.removesuffix(".html")
    for part in parts:
        for other, title in part.pages:
            if other != name:
                continue
            first = part.pages[0][0]
            shown = html.escape(part.title)
            if first != name:
                shown = f'<a href="{root}{first}.html">{shown}</a>'
            chapter = re.match(r"(\d+)\. ", title)
            return f'<p class="place">{shown}{f" — chapter {chapter[1]}" if chapter else ""}</p>'
    return ""


def menu(page: str, root: str, repository: str | None) -> str:
    """The menu of a page that is a notebook: download it, open it in Colab, open it in Binder."""
    name = page.removesuffix(".html")
    notebook = f"{root}notebooks/{name}.ipynb"
    file = html.escape(name.rsplit("/", 1)[-1]) + ".ipynb"
    if repository is None:
        colab = UPLOAD
        hint = "download the notebook, then upload it there"
        binder = (
            '<span class="launch-off" role="link" aria-disabled="true" tabindex="0">Open in Binder'
            "<small>needs a copy of the book in a public repository</small></span>"
        )
    else:
        checked_name(repository)
        colab = f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/{name}.ipynb"
        hint = "needs a Google account"
        target = f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?urlpath=lab/tree/{name}.ipynb"
        binder = f'<a href="{target}">Open in Binder<small>free, starts slowly</small></a>'
    return (
        '<details class="launch-menu d-print-none">\n'
        '<summary class="btn btn-sm" aria-label="Run this page elsewhere or download it">'
        '<i class="fa-solid fa-download"></i><span class="launch-word">Run</span></summary>\n<ul>\n'
        f'<li><a href="{notebook}" download="{file}">Download notebook (.ipynb)'
        "<small>to run on your machine</small></a></li>\n"
        f'<li><a href="{colab}">Open in Colab<small>{hint}</small></a></li>\n'
        f"<li>{binder}</li>\n</ul>\n</details>"
    )
