"""The kit from the command line: ``python -m refimpl.verify --method curveball mymodule:adapter``."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from refimpl.verify.kit import METHODS, check_method, load


def run(
    method: str,
    adapter: str | None,
    *,
    levels: Sequence[str] | None = None,
    settings: Sequence[str] = (),
    as_json: bool = False,
    as_markdown: bool = False,
) -> int:
    """Check an adapter and print its card; 0 where it conforms, 1 where it does not, 2 for a wrong request.

    Parameters
    ----------
    method : a method, or ``"list"`` for a table of them all.
    adapter : ``package.module:name``, ``path/to/file.py:name`` or ``package.module``.
    levels : names of levels; None for all.
    settings : texts like ``"mode='abs'"``.
    as_json, as_markdown : another form of the output.
    """
    if method == "list":
        print(json.dumps(_known(), indent=1) if as_json else _list())
        return 0
    try:
        if adapter is None:
            raise ValueError("say which optimizer to check, for instance mymodule:adapter or optimizer.py:adapter")
        with redirect_stdout(sys.stderr):  # what the optimizer prints is no part of the card
            found = _loaded(adapter)
            card = check_method(method, found, levels=levels or None, settings=_settings(settings))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(card.json() if as_json else card.markdown() if as_markdown else card.text())
    return 0 if card.passed else 1


def _loaded(name: str) -> Any:
    try:
        return load(name)
    except ValueError:
        raise
    except Exception as error:  # whatever the reader's module raises when it is imported
        raise ValueError(f"importing {name!r} raised {type(error).__name__}: {error}") from error


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"a setting looks like damping=0.1, got {text!r}")
        try:
            found[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = value.strip()
    return found


def _known() -> list[dict[str, Any]]:
    return [{"method": m.name, "settings": dict(m.settings), "source": m.source} for m in METHODS.values()]


def _list() -> str:
    width = max(len(name) for name in METHODS)
    lines = [
        f"{m.name.ljust(width)}  " + (", ".join(f"{key}={value!r}" for key, value in m.settings.items()) or "-")
        for m in METHODS.values()
    ]
    return "\n".join(lines)
