"""Sphinx extension: what lies in ``_static/explorers`` is loaded by the pages that name it, and by no others.

Jupyter Book puts every script and style sheet below ``_static`` into the head of every page, in the order of the file
system; the scripts of the interactive figures need an order, and most pages do not need them.
"""

from __future__ import annotations

from typing import Any

FOLDER = "explorers/"


def kept(names: list[Any]) -> list[Any]:
    """The entries of ``html_js_files`` or ``html_css_files`` that belong to every page.

    >>> kept(["site.js", "explorers/kit.js", ("explorers/axes.js", {})])
    ['site.js']
    """
    return [entry for entry in names if not (entry if isinstance(entry, str) else entry[0]).startswith(FOLDER)]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx, before its own look at the two lists (priority 800)."""

    def drop(app: Any, config: Any) -> None:
        config.html_js_files = kept(config.html_js_files)
        config.html_css_files = kept(config.html_css_files)

    app.connect("config-inited", drop, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
