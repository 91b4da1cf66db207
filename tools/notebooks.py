"""Export the chapters as plain notebooks: `python tools/notebooks.py [SOURCE] [TARGET]` (or `make notebooks`).

Jupyter shows CommonMark and TeX; it knows no MyST directives. jupytext turns each chapter into a notebook and
`tools/plain_markdown.py` rewrites its text cells, with the same numbers of equations, theorems and figures as
in the built book. These notebooks are what readers download and what the tests execute. Their first code cell does
nothing where the package is installed; elsewhere (Colab) it installs it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from furniture import checked_name, known_repository
from plain_markdown import GLUED, Library, PlainMarkdown, read_bibliography

ROOT = Path(__file__).resolve().parent.parent

NOTE_ON_GLUE = (
    "*In this notebook* ⟨name⟩ *stands for a number that the book prints in the text: "
    'a cell below computes it and stores it with* `glue("name", …)`*.*'
)

FIRST_CELL = """\
# Where the package is installed, this cell does nothing. Elsewhere it says how to get it, or gets it.
try:
    import refimpl
except ImportError:
"""
# A clone, not an address for pip alone: chapters read recorded runs, which are no part of the package.
FETCHED = """\
    import os
    !git clone --quiet --depth 1 https://github.com/{repository} saddle-free
    %pip install --quiet "./saddle-free[torch,data,peers]" matplotlib myst-nb psutil
    os.environ["REFIMPL_RESULTS"] = os.path.abspath("saddle-free/data/results")
"""
ADVICE = """\
    raise ImportError(
        "refimpl is not installed here. In a clone of the book's repository, call\\n"
        "    pip install '.[torch,data,peers,book]'\\n"
        "or `make test`, which sets everything up in .venv; then start Jupyter from there."
    ) from None
"""


def chapter_numbers(toc: Path) -> dict[str, int]:
    """Map each page of a numbered part, without suffix, to its chapter number (continued over the parts)."""
    if not toc.exists():
        return {}
    numbers: dict[str, int] = {}
    for part in yaml.safe_load(toc.read_text(encoding="utf-8")).get("parts", []):
        if part.get("numbered"):
            for chapter in part["chapters"]:
                numbers[chapter["file"]] = len(numbers) + 1
    return numbers


def is_chapter(path: Path) -> bool:
    """Whether a Markdown file is a MyST notebook, i.e. says `file_format: mystnb` in its header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0].strip() != "---":
        return False
    header = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else []
    return any(line.strip() == "file_format: mystnb" for line in header)


def figure_cells(cell: Any, renderer: PlainMarkdown) -> list[Any]:
    """The caption of a code cell's figure (`mystnb: figure: caption`) as a text cell, or nothing."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if not figure.get("caption"):
        return []
    title = renderer.number("Fig.", figure.get("name"))
    return [nbformat.v4.new_markdown_cell(f"**{title}** {renderer.render(str(figure['caption']))}")]


def first_code_cell(repository: str | None) -> Any:
    """The cell that makes the package importable; ``repository`` is `owner/name` on GitHub, or None if not known."""
    rest = ADVICE if repository is None else FETCHED.format(repository=checked_name(repository))
    cell = nbformat.v4.new_code_cell((FIRST_CELL + rest).strip())
    cell.metadata.update({"tags": ["remove-cell"], "jupyter": {"source_hidden": True}})
    return cell


def plain_notebook(path: Path, page: str, library: Library, repository: str | None = None) -> Any:
    """Return one chapter as a notebook whose text cells are plain Markdown."""
    notebook = jupytext.read(path)
    renderer = PlainMarkdown(page, library, folder=path.parent)
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = renderer.render(cell.source).strip()
            if cell.source:
                cells.append(cell)
        else:
            cells += [cell, *figure_cells(cell, renderer)]
    if any(cell.cell_type == "markdown" and GLUED.search(cell.source) for cell in cells):
        heading, _, rest = cells[0].source.partition("\n") if cells[0].cell_type == "markdown" else ("", "", "")
        if heading.startswith("# "):
            cells[0].source = f"{heading}\n\n{NOTE_ON_GLUE}\n\n{rest.strip()}".strip()
        else:
            cells.insert(0, nbformat.v4.new_markdown_cell(NOTE_ON_GLUE))
    if any(cell.cell_type == "code" for cell in cells):
        cells.insert(1 if cells[0].cell_type == "markdown" else 0, first_code_cell(repository))
    references = renderer.reference_list()
    if references:
        cells.append(nbformat.v4.new_markdown_cell(references))
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"  # the same file twice, and no random names in a diff
    notebook.cells = cells
    notebook.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata.pop("file_format", None)
    for image in renderer.images:
        library.images.add((path.parent / image, Path(page).parent / image))
    return notebook


def export(source: Path, target: Path, toc: Path, repository: str | None = None) -> list[Path]:
    """Write a notebook into `target` for each chapter in `source`; return the files written.

    `repository` is where the notebooks' first cell gets the package from, as `owner/name` on GitHub.
    """
    pages = sorted(source.rglob("*.md"))
    chapters = [path for path in pages if is_chapter(path)]
    library = Library(
        numbers=chapter_numbers(toc),
        bibliography=read_bibliography(source / "references.bib"),
        chapters={path.relative_to(source).with_suffix("").as_posix() for path in chapters},
    )
    for path in pages:  # the first pass learns titles, labels and numbers, also those of later chapters
        page = path.relative_to(source).with_suffix("").as_posix()
        if path in chapters:
            plain_notebook(path, page, library)
        else:
            PlainMarkdown(page, library, folder=path.parent).render(path.read_text(encoding="utf-8"))
    library.messages.clear()
    shutil.rmtree(target, ignore_errors=True)
    written = []
    for path in chapters:
        page = path.relative_to(source).with_suffix("").as_posix()
        out = target / f"{page}.ipynb"
        out.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(plain_notebook(path, page, library, repository), out)
        written.append(out)
    for image, relative in sorted(library.images):
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, target / relative)
    for message in sorted(library.messages):
        print(f"  note: {message}")
    return written


def main(source: str = "book", target: str = "_build/notebooks") -> int:
    """Export all chapters and say where they are."""
    os.chdir(ROOT)
    written = export(Path(source), Path(target), Path("_toc.yml"), known_repository())
    for path in written:
        print(f"  {path}")
    print(f"{len(written)} notebooks in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
