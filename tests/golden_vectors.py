"""Reads the golden vectors: answers computed in 60-digit arithmetic from inputs that float64 holds exactly."""

import importlib
import json
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@cache
def golden(name: str) -> dict:
    """The file ``golden/NAME.json``; ``null`` in it means NaN."""
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())


def generator(name):
    """A module of tools/."""
    pytest.importorskip("mpmath")
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))
