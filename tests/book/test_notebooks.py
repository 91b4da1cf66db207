"""The export of chapters to plain notebooks (tools/notebooks.py), on a small chapter that uses every construct.

Oracle: the text that a reader of plain Markdown should see, written out by hand.
"""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from tool_modules import tool

ROOT = Path(__file__).resolve().parents[2]

FIRST = r"""---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
file_format: mystnb
---

# Saddles

:::{admonition} You will be able to
:class: tip
* classify a point
:::

```{math}
:label: eq-newton
x^+ = x - H^{-1} g
```

$$
f(x) = x_1^2 - x_2^2
$$ (eq-saddle)

(sec-why)=
## Why it works

See {eq}`eq-newton`, {eq}`eq-saddle`, {prf:ref}`def-saddle`, {numref}`fig-curve`, {numref}`Figure %s <fig-curve>`,
{ref}`sec-why`, {doc}`second`, {term}`saddle`, [](#sec-why), {cite}`someone2000title`, {cite:t}`someone2000title`,
{math}`a^2`, {py:func}`~refimpl.minimize`, `plain {code}`.

```{prf:definition} Saddle
:label: def-saddle

Both signs:

$$
H v =
\lambda v
$$
```

```{prf:proof}
By {eq}`eq-saddle`.
```

````{prf:algorithm} Newton
:label: alg-newton

1. solve

```python
x = x - step
```
````

```{code-cell} ipython3
---
tags: [hide-input]
mystnb:
  image:
    alt: A rising curve
  figure:
    name: fig-curve
    caption: "A curve, see {eq}`eq-saddle`."
---
from myst_nb import glue
glue("answer", 42)
```

The answer is {glue:text}`answer`, or {glue:text}`answer:.2f`.

```{exercise} Easy
:label: ex-easy
Prove it.
```

````{solution} ex-easy
:class: dropdown
Because.
````

```{exercise-start}
:label: ex-code
```
With the keyboard.
```{exercise-end}
```

```{solution-start} ex-code
:class: dropdown
```

```{code-cell} ipython3
assert 1 + 1 == 2
```

```{solution-end}
```

```{raw} html
<figure class="explorer" data-explorer="saddle">
<figcaption>
<p><b>Interactive: steps on <var>f</var>, with
sliders.</b> Move them.</p>
</figcaption>
</figure>
<script src="../_static/explorers/saddle.js"></script>
```

```{raw} html
<hr>
```

```{glossary}
saddle
  A critical point.
```
"""

SECOND = FIRST.split("# Saddles")[0] + "\n# Second\n\nAs {prf:ref}`def-saddle` says, {eq}`eq-newton`.\n"
PLAIN = "# Only text\n\nNo notebook.\n"
BIB = "@article{someone2000title, author={Some One}, title={A Title}, journal={Journal}, year={2000}}\n"
TOC = (
    "format: jb-book\nroot: index\nparts:\n- caption: One\n  numbered: true\n  chapters:\n"
    "  - file: part/first\n  - file: part/second\n"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The two chapters exported, as {name: notebook}; and the messages of the export."""
    export = tool("notebooks").export
    folder = tmp_path_factory.mktemp("book")
    (folder / "book" / "part").mkdir(parents=True)
    (folder / "_toc.yml").write_text(TOC, encoding="utf-8")
    for name, text in {"part/first.md": FIRST, "part/second.md": SECOND, "a.md": PLAIN, "references.bib": BIB}.items():
        (folder / "book" / name).write_text(text, encoding="utf-8")
    written = export(folder / "book", folder / "out", folder / "_toc.yml")
    return {path.stem: nbformat.read(path, 4) for path in written}


def text_of(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_only_chapters_are_exported(exported):
    assert exported.keys() == {"first", "second"}


def test_notebooks_are_valid(exported):
    for notebook in exported.values():
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"


def test_no_markup_of_myst_is_left(exported):
    for notebook in exported.values():
        assert "{eq}" not in text_of(notebook).replace("`plain {code}`", "")
        for leftover in (
            "<script",
            "<hr>",
            "```{",
            ":::",
            ":label:",
            "{prf:ref}",
            "{cite",
            "{glue",
            "{numref}",
            ")=",
            "{doc}",
        ):
            assert leftover not in text_of(notebook)


@pytest.mark.parametrize(
    "expected",
    [
        "> **You will be able to**\n>\n> * classify a point",
        "$$\nx^+ = x - H^{-1} g \\tag{1.1}\n$$",
        "$$\nf(x) = x_1^2 - x_2^2 \\tag{1.2}\n$$",
        "See (1.1), (1.2), Definition 1.1, Fig. 1.1, Figure 1.1,\nWhy it works,",
        "Why it works, [Second](second.ipynb), saddle, Why it works,",
        "[One, 2000], One [2000],\n$a^2$, `refimpl.minimize`, `plain {code}`.",
        "> **Definition 1.1** (Saddle). Both signs:\n>\n> $$H v = \\lambda v$$",
        "> *Proof.* By (1.2).",
        "> **Algorithm 1.1** (Newton).\n>\n> 1. solve\n>\n> ```python\n> x = x - step\n> ```",
        "**Fig. 1.1** A curve, see (1.2).",
        "The answer is ⟨answer⟩, or ⟨answer⟩.",
        "# Saddles\n\n*In this notebook* ⟨name⟩",
        "> **Exercise 1.1** (Easy). Prove it.",
        "<details>\n<summary>Solution to Exercise 1.1</summary>\n\nBecause.\n\n</details>",
        "**Exercise 1.2.**\n\nWith the keyboard.",
        "**Solution to Exercise 1.2.**",
        "> The online book has an interactive figure here: *steps on f, with sliders.*",
        "**saddle**: A critical point.",
        "* Some One. *A Title*. Journal, 2000.",
    ],
)
def test_constructs_read_well(exported, expected):
    assert expected in text_of(exported["first"])


def test_references_to_another_chapter(exported):
    assert "As Definition 1.1 says, (1.1)." in text_of(exported["second"])


def test_code_cells_are_untouched(exported):
    cells = [cell for cell in exported["first"].cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells[1:]] == ['from myst_nb import glue\nglue("answer", 42)', "assert 1 + 1 == 2"]
    assert cells[1].metadata.tags == ["hide-input"]


class Shell:
    """What IPython's magic in a cell calls, written down instead of done."""

    def __init__(self):
        self.calls = []

    def system(self, line):
        self.calls.append(line)

    def run_line_magic(self, name, line, **_):
        self.calls.append(f"{name} {line}")


def run_first_cell(cell, monkeypatch, installed):
    shell = Shell()
    if not installed:
        monkeypatch.setitem(sys.modules, "refimpl", None)  # import then raises ImportError
    code = TransformerManager().transform_cell(cell.source)
    exec(compile(code, "first cell", "exec"), {"get_ipython": lambda: shell})
    return shell.calls


def test_first_cell_does_nothing_where_the_package_is(exported, monkeypatch):
    first = next(cell for cell in exported["first"].cells if cell.cell_type == "code")
    assert first.metadata.tags == ["remove-cell"]
    assert exported["first"].cells[0].source.startswith("# Saddles")  # the title stays on top
    assert run_first_cell(first, monkeypatch, installed=True) == []


def test_first_cell_says_how_to_install_where_no_repository_is_known(exported, monkeypatch):
    first = next(cell for cell in exported["first"].cells if cell.cell_type == "code")
    with pytest.raises(ImportError, match="clone of the book's repository"):
        run_first_cell(first, monkeypatch, installed=False)


def test_first_cell_fetches_the_package_from_its_repository(monkeypatch):
    monkeypatch.setenv("REFIMPL_RESULTS", "restored afterwards")
    cell = tool("notebooks").first_code_cell("someone/book")
    assert run_first_cell(cell, monkeypatch, installed=True) == []
    clone, install = run_first_cell(cell, monkeypatch, installed=False)
    assert clone.endswith("https://github.com/someone/book saddle-free")
    assert install.startswith('pip install --quiet "./saddle-free[')
    assert os.environ["REFIMPL_RESULTS"].endswith("saddle-free/data/results")


def test_first_cell_refuses_what_is_no_repository():
    with pytest.raises(ValueError, match="owner/name"):
        tool("notebooks").first_code_cell("x; rm -rf /")


def test_notebooks_without_code_have_no_first_cell(exported):
    assert not [cell for cell in exported["second"].cells if cell.cell_type == "code"]


def test_caption_follows_its_figure(exported):
    cells = exported["first"].cells
    (index,) = [i for i, cell in enumerate(cells) if cell.source.startswith("**Fig. 1.1**")]
    assert cells[index - 1].cell_type == "code"


def test_a_fence_that_is_not_closed_is_an_error():
    module = tool("plain_markdown")
    with pytest.raises(ValueError, match="not closed"):
        module.PlainMarkdown("page", module.Library(), Path()).render("```{note}\ntext")
