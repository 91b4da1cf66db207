"""MyST Markdown rewritten as the Markdown that Jupyter shows: boxes become quotations, roles become words.

The numbers of equations, figures, theorems and exercises are counted as Sphinx counts them (chapter.count, each
kind on its own), so a notebook and the built book call the same thing by the same number.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

import yaml

ADMONITIONS = [
    "admonition",
    "attention",
    "caution",
    "danger",
    "error",
    "hint",
    "important",
    "note",
    "seealso",
    "tip",
    "warning",
    "topic",
]
QUOTED = [*ADMONITIONS, "dropdown", "card", "margin", "sidebar", "epigraph"]
PROOFS = [
    "algorithm",
    "assumption",
    "axiom",
    "conjecture",
    "corollary",
    "criterion",
    "definition",
    "example",
    "lemma",
    "observation",
    "property",
    "proposition",
    "remark",
    "theorem",
]
DROPPED = ["toctree", "contents", "tableofcontents", "raw", "only", "index", "eval-rst", "bibliography"]

FENCE = re.compile(r"^(?P<mark>`{3,}|:{3,})\s*(?:\{(?P<name>[\w:.+-]+)\})?\s*(?P<rest>.*)$")
ROLE = re.compile(r"\{(?P<name>[a-z][\w:.+-]*)\}(?P<ticks>`+)(?P<text>.+?)(?P=ticks)", re.S)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>#[\w:.-]+|(?!https?:)[\w./-]+\.md(?:#[\w-]+)?)\)")
TARGET = re.compile(r"^\((?P<label>[\w:.-]+)\)=\s*$")
WITH_TEXT = re.compile(r"^(?P<text>.*?)\s*<(?P<label>[^<>]+)>$", re.S)
DISPLAY = re.compile(r"^\$\$(?P<body>.*?)\$\$[ \t]*(?:\((?P<label>[\w:.-]+)\))?[ \t]*$", re.S | re.M)
GLUED = re.compile("⟨[^⟩]+⟩")


@dataclass
class Library:
    """What one chapter has to know about the others: chapter numbers, labels, titles, cited works."""

    numbers: dict[str, int] = field(default_factory=dict)
    bibliography: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    chapters: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    images: set[tuple[Path, Path]] = field(default_factory=set)
    messages: set[str] = field(default_factory=set)


def read_bibliography(path: Path) -> dict[str, tuple[str, str, str]]:
    """Map each key of a BibTeX file to (short authors, year, full reference)."""
    if not path.exists():
        return {}
    from pybtex.database import parse_file

    works = {}
    for key, entry in parse_file(str(path)).entries.items():
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [plain_tex(" ".join([*person.prelast_names, *person.last_names])) for person in people]
        short = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
        full_names = [
            plain_tex(" ".join([*p.first_names, *p.middle_names, *p.prelast_names, *p.last_names])) for p in people
        ]
        fields = entry.fields
        place = fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or fields.get("school", "")
        link = (
            f" https://doi.org/{fields['doi']}" if "doi" in fields else f" {fields['url']}" if "url" in fields else ""
        )
        year = fields.get("year", "")
        text = f"{', '.join(full_names)}. *{plain_tex(fields['title'])}*. {plain_tex(place)}, {year}.{link}"
        works[key] = (short, year, text)
    return works


def plain_tex(text: str) -> str:
    """Remove TeX braces and accents from a BibTeX field."""
    from pybtex.richtext import Text

    return str(Text.from_latex(text)) if text else ""


class PlainMarkdown:
    """Rewrites the text of one page; counters go on from cell to cell, so use one object per page."""

    def __init__(self, page: str, library: Library, folder: Path) -> None:
        self.page, self.library, self.folder = page, library, folder
        self.counts: Counter[str] = Counter()
        self.cited: list[str] = []
        self.images: list[str] = []

    # ---- numbers and labels -------------------------------------------------------------------------------

    def number(self, kind: str, label: str | None) -> str:
        """Count one more thing of a kind and return its name, e.g. `Theorem 3.1`; remember it under `label`."""
        self.counts[kind] += 1
        chapter = self.library.numbers.get(self.page)
        title = f"{kind} {chapter}.{self.counts[kind]}" if chapter else f"{kind} {self.counts[kind]}"
        self.remember(label, title)
        return title

    def remember(self, label: str | None, title: str) -> None:
        if label:
            self.library.labels[label] = title

    def lookup(self, label: str) -> str:
        known = self.library.labels.get(label)
        if known is None:
            self.library.messages.add(f"{self.page}: nothing is labelled {label!r}")
        return known or label

    # ---- blocks -------------------------------------------------------------------------------------------

    def render(self, text: str) -> str:
        """Return MyST text as plain Markdown."""
        lines = text.split("\n")
        out: list[str] = []
        plain: list[str] = []
        pending: list[str] = []
        index = 0
        while index < len(lines):
            line = lines[index]
            fence, target = FENCE.match(line.strip()), TARGET.match(line)
            if fence:
                end = self.closing(lines, index, fence["mark"])
                out.append(self.text(plain))
                plain = []
                body = lines[index + 1 : end]
                if fence["name"]:
                    out.append(self.directive(fence["name"], fence["rest"].strip(), body, pending))
                    pending = []
                else:
                    out.append("\n".join(lines[index : end + 1]) + "\n")
                index = end
            elif target:
                pending.append(target["label"])
            elif line.startswith("%"):
                pass
            else:
                if line.startswith("#"):
                    title = self.roles(line.lstrip("#").strip())
                    for label in pending:
                        self.remember(label, title)
                    pending = []
                    if line.startswith("# "):
                        self.library.titles.setdefault(self.page, title)
                plain.append(line)
            index += 1
        out.append(self.text(plain))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n")

    def closing(self, lines: list[str], start: int, mark: str) -> int:
        """Index of the line that closes the fence opened at `start` with `mark`."""
        for index in range(start + 1, len(lines)):
            line = lines[index].strip()
            if line and set(line) == {mark[0]} and len(line) >= len(mark):
                return index
        raise ValueError(f"{self.page}: the fence {lines[start]!r} is not closed")

    def text(self, lines: list[str]) -> str:
        """Text without directives: number its display equations, replace roles, links and definition lists."""
        joined = re.sub(r"^(?P<term>\S.*)\n:[ \t]+", r"**\g<term>**: ", "\n".join(lines), flags=re.M)
        pieces, position = [], 0
        for match in DISPLAY.finditer(joined):
            pieces.append(self.roles(joined[position : match.start()]))
            pieces.append(self.equation(match["body"].strip("\n"), match["label"]))
            position = match.end()
        pieces.append(self.roles(joined[position:]))
        return "".join(pieces)

    def equation(self, body: str, label: str | None) -> str:
        tag = ""
        if label:
            number = self.number("Equation", label).removeprefix("Equation ")
            self.remember(label, f"({number})")
            tag = f" \\tag{{{number}}}"
        body = body.strip()
        if "\\\\" in body and "\\begin{" not in body:
            body = f"\\begin{{split}}\n{body}\n\\end{{split}}"
        return f"$$\n{body}{tag}\n$$"

    def directive(self, name: str, title: str, body: list[str], pending: list[str]) -> str:
        """Render one directive, whatever its depth."""
        options, body = split_options(body)
        label = options.get("label") or options.get("name")
        text = "\n".join(body)
        kind = name.removeprefix("prf:")
        if name == "math":
            return "\n" + self.equation(f"{title}\n{text}".strip(), label) + "\n"
        if kind in PROOFS and name != kind:
            return self.numbered(kind.capitalize(), title, text, label, "nonumber" in options)
        if name in ("exercise", "exercise-start"):
            return self.numbered("Exercise", title, text, label, "nonumber" in options, quoted=name == "exercise")
        if name in ("solution", "solution-start"):
            heading = f"Solution to {self.lookup(title)}"
            self.remember(label, heading)
            if name == "solution-start":
                return f"\n**{heading}.** {self.render(text)}".rstrip() + "\n"
            return f"\n<details>\n<summary>{heading}</summary>\n\n{self.render(text)}\n\n</details>\n"
        if name in ("exercise-end", "solution-end"):
            return ""
        if name == "prf:proof":
            return quote(f"*Proof.* {self.render((title + chr(10) + text).strip())}")
        if name in QUOTED:
            shown_title = self.roles(title) if title and name not in ADMONITIONS[1:-1] else name.capitalize()
            content = (
                text if name in ("admonition", "topic") or shown_title != name.capitalize() else f"{title}\n{text}"
            )
            return quote(f"**{shown_title}**\n\n{self.render(content.strip())}")
        if name in ("figure", "image"):
            self.images.append(title)
            image = f"![{options.get('alt', '')}]({title})"
            if name == "image":
                return f"\n{image}\n"
            shown = self.number("Fig.", label)
            return f"\n{image}\n\n**{shown}** {self.render(text)}\n"
        if name in ("table", "list-table"):
            heading = f"**{self.number('Table', label)}** {self.roles(title)}\n\n" if title else ""
            return "\n" + heading + (self.render(text) if name == "table" else self.list_table(text, options)) + "\n"
        if name in ("code-block", "code", "code-cell", "sourcecode"):
            return f"\n```{title}\n{text}\n```\n"
        if name == "glossary":
            return "\n" + self.glossary(body) + "\n"
        if name == "raw" and 'class="explorer"' in text:
            return quote(interactive_figure(text))
        if name in DROPPED:
            return ""
        if name not in ("div", "container", "grid", "grid-item", "grid-item-card", "tab-set", "tab-item"):
            self.library.messages.add(f"{self.page}: directive {name!r} is shown as plain text")
        return "\n" + (f"**{self.roles(title)}**\n\n" if title else "") + self.render(text) + "\n"

    def numbered(
        self, kind: str, title: str, text: str, label: str | None, unnumbered: bool, quoted: bool = True
    ) -> str:
        name = kind if unnumbered else self.number(kind, label)
        heading = f"**{name}** ({self.roles(title)})." if title else f"**{name}.**"
        gap = "\n\n" if text.lstrip().startswith(("* ", "- ", "**", "1.", "|")) else " "
        shown = f"{heading}{gap}{self.render(text)}".strip()
        return quote(shown) if quoted else f"\n{shown}\n"

    def list_table(self, text: str, options: dict[str, str]) -> str:
        rows: list[list[str]] = []
        for line in text.split("\n"):
            if re.match(r"^[*-] +[*-] ", line):
                rows.append([re.sub(r"^[*-] +[*-] +", "", line)])
            elif re.match(r"^ +[*-](?: |$)", line) and rows:
                rows[-1].append(re.sub(r"^ +[*-] ?", "", line))
            elif line.strip() and rows:
                rows[-1][-1] += " " + line.strip()
        shown = ["| " + " | ".join(self.roles(cell) for cell in row) + " |" for row in rows]
        if int(options.get("header-rows", 0)) == 0 and rows:
            shown.insert(0, "| " + " | ".join("" for _ in rows[0]) + " |")
        if rows:
            shown.insert(1, "|" + " --- |" * len(rows[0]))
        return "\n".join(shown)

    def glossary(self, lines: list[str]) -> str:
        out = []
        for line in lines:
            if line and not line[0].isspace():
                out.append(f"\n**{self.roles(line)}**: ")
            elif line.strip():
                out.append(self.roles(line.strip().removeprefix(": ")) + " ")
        return "".join(out).strip()

    # ---- roles --------------------------------------------------------------------------------------------

    def roles(self, text: str) -> str:
        """Replace MyST roles and links between pages by words."""
        return LINK.sub(self.link, ROLE.sub(self.role, text))

    def role(self, match: re.Match[str]) -> str:
        name, text = match["name"], match["text"]
        explicit = WITH_TEXT.match(text)
        shown, label = (explicit["text"], explicit["label"]) if explicit else ("", text)
        if name.startswith("cite"):
            return self.citation(name, text)
        if name.startswith("glue"):
            return f"⟨{label.split(':')[0]}⟩"
        if name in ("sub", "sup"):
            return f"<{name}>{text}</{name}>"
        simple: dict[str, Callable[[], str]] = {
            "math": lambda: f"${text}$",
            "eq": lambda: self.lookup(label),
            "ref": lambda: shown or self.lookup(label),
            "prf:ref": lambda: shown or self.lookup(label),
            "numref": lambda: self.numref(shown, label),
            "doc": lambda: self.page_link(shown, label),
            "term": lambda: shown or label,
            "abbr": lambda: text,
            "download": lambda: shown or label,
        }
        if name in simple:
            return simple[name]()
        if name.startswith("py:") or name in ("class", "func", "meth", "mod", "attr", "code", "data", "obj", "kbd"):
            return f"`{shown or label.removeprefix('~')}`"
        self.library.messages.add(f"{self.page}: role {name!r} is shown as plain text")
        return shown or label

    def numref(self, shown: str, label: str) -> str:
        title = self.lookup(label)
        if not shown:
            return title
        number = title.rsplit(" ", 1)[-1]
        return shown.replace("%s", number).replace("{number}", number).replace("{name}", title)

    def citation(self, name: str, keys: str) -> str:
        parts = []
        for key in (k.strip() for k in keys.split(",")):
            if key not in self.library.bibliography:
                self.library.messages.add(f"{self.page}: no reference {key!r}")
                parts.append((key, ""))
                continue
            if key not in self.cited:
                self.cited.append(key)
            parts.append(self.library.bibliography[key][:2])
        if name.startswith("cite:t") or name.startswith("cite:ct"):
            return ", ".join(f"{who} [{year}]" for who, year in parts)
        return "[" + "; ".join(f"{who}, {year}" if year else who for who, year in parts) + "]"

    def page_link(self, shown: str, label: str) -> str:
        path = label.lstrip("/") if label.startswith("/") else posixpath.join(posixpath.dirname(self.page), label)
        page = posixpath.normpath(path)
        title = shown or self.library.titles.get(page, label)
        if page in self.library.chapters:
            return f"[{title}]({posixpath.relpath(page, posixpath.dirname(self.page) or '.')}.ipynb)"
        return f"*{title}*"

    def link(self, match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if target.startswith("#"):
            return text or self.lookup(target[1:])
        return self.page_link(text, target.partition("#")[0].removesuffix(".md"))

    def reference_list(self) -> str:
        """The works cited so far, as a Markdown list; empty where nothing is cited."""
        if not self.cited:
            return ""
        rows = "\n".join(f"* {self.library.bibliography[key][2]}" for key in self.cited)
        return f"## References\n\n{rows}"


def split_options(body: list[str]) -> tuple[dict[str, str], list[str]]:
    """Separate a directive's options (`:key: value` lines or a `---` block) from its content."""
    if body and body[0].strip() == "---":
        end = next(i for i in range(1, len(body)) if body[i].strip() == "---")
        options = yaml.safe_load("\n".join(body[1:end])) or {}
        return {str(k): str(v) for k, v in options.items()}, body[end + 1 :]
    options, index = {}, 0
    while index < len(body) and (match := re.match(r"^:([\w-]+):\s*(.*)$", body[index].strip())):
        options[match[1]] = match[2].strip()
        index += 1
    return options, body[index:]


def interactive_figure(html: str) -> str:
    """What stands in a notebook for an interactive figure of the online book: its title, if its caption has one.

    >>> interactive_figure("<figure><figcaption><b>Interactive: a <var>K</var> &lt; 3.</b> More.</figcaption></figure>")
    'The online book has an interactive figure here: *a K < 3.*'
    """
    title = re.search(r"<b>(?:Interactive:\s*)?(.*?)</b>", html, re.S)
    words = unescape(re.sub(r"<[^>]*>", "", title[1])) if title else ""
    said = "The online book has an interactive figure here"
    return f"{said}: *{' '.join(words.split())}*" if words else f"{said}."


def quote(text: str) -> str:
    """A Markdown quotation; display equations go on one line, because Jupyter takes `>` for TeX inside them."""
    text = re.sub(r"^\$\$(.*?)\$\$$", lambda m: "$$" + " ".join(m[1].split()) + "$$", text, flags=re.S | re.M)
    return "\n" + "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n")) + "\n"
