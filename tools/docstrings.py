"""Sphinx extension: docstrings are written for people who read code, so ``|H|`` in them means |H|.

In reStructuredText a pair of bars is a substitution; here every bar outside of literals and doctests is escaped.
"""

from __future__ import annotations

import re
from typing import Any

LITERAL = re.compile(r"(``.*?``)")


def escape_bars(lines: list[str]) -> list[str]:
    """``lines`` of a docstring with bars escaped.

    >>> escape_bars(["The direction |H|^{-1} g, see ``|x|``.", "", ">>> 1 | 2", "3"])
    ['The direction \\\\|H\\\\|^{-1} g, see ``|x|``.', '', '>>> 1 | 2', '3']
    """
    found, in_doctest = [], False
    for line in lines:
        in_doctest = line.lstrip().startswith(">>>") or (in_doctest and bool(line.strip()))
        if not in_doctest:
            parts = LITERAL.split(line)
            line = "".join(part if LITERAL.fullmatch(part) else part.replace("|", r"\|") for part in parts)
        found.append(line)
    return found


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx. Napoleon has priority 500; this runs before it."""

    def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        lines[:] = escape_bars(lines)

    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
