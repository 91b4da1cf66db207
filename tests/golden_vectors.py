"""Reads the golden vectors: answers computed in 60-digit arithmetic from inputs that float64 holds exactly."""

import json
from functools import cache
from pathlib import Path


@cache
def golden(name: str) -> dict:
    """The file ``golden/NAME.json``; ``null`` in it means NaN."""
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
