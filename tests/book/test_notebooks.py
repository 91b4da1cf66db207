"""The export of chapters to plain notebooks (tools/notebooks.py), on a small chapter that uses every construct.

Oracle: the text that a reader of plain Markdown should see, written out by hand.
"""

import importlib
import sys
from pathlib import Path

import nbformat
import pytest

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
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        export = importlib.import_module("notebooks").export
    finally:
        sys.path.remove(str(ROOT / "tools"))
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
        for leftover in ("```{", ":::", ":label:", "{prf:ref}", "{cite", "{glue", "{numref}", ")=", "{doc}"):
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
    assert [cell.source for cell in cells] == ['from myst_nb import glue\nglue("answer", 42)', "assert 1 + 1 == 2"]
    assert cells[0].metadata.tags == ["hide-input"]


def test_caption_follows_its_figure(exported):
    cells = exported["first"].cells
    (index,) = [i for i, cell in enumerate(cells) if cell.source.startswith("**Fig. 1.1**")]
    assert cells[index - 1].cell_type == "code"


def test_a_fence_that_is_not_closed_is_an_error():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        module = importlib.import_module("plain_markdown")
    finally:
        sys.path.remove(str(ROOT / "tools"))
    with pytest.raises(ValueError, match="not closed"):
        module.PlainMarkdown("page", module.Library(), Path()).render("```{note}\ntext")
