"""``python -m refimpl.verify``: compare the package with the golden vectors on every array library that is here.

With ``--method NAME ADAPTER`` an optimizer of your own is compared with the method that it should be.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from refimpl.arrays import Backend, get_backend
from refimpl.verify.golden import Outcome, cases, run_case
from refimpl.verify.kit import LEVELS, command


@dataclass(frozen=True)
class Column:
    """One column of the table: an array library, a device and a dtype, which may or may not be here."""

    label: str
    name: str
    dtype: str
    device: str | None = None

    def get(self) -> Backend:
        """The backend; a ValueError with the reason where it is not here."""
        return get_backend(self.name, self.dtype, self.device)


COLUMNS = (
    Column("numpy f64", "numpy", "float64"),
    Column("numpy f32", "numpy", "float32"),
    Column("torch f64", "torch", "float64"),
    Column("torch f32", "torch", "float32"),
    Column("strict f64", "array-api-strict", "float64", "device1"),
    Column("strict f32", "array-api-strict", "float32", "no_float64"),
    Column("cuda f64", "torch", "float64", "cuda"),
    Column("cuda f32", "torch", "float32", "cuda"),
    Column("cupy f64", "cupy", "float64"),
    Column("cupy f32", "cupy", "float32"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``arguments`` and run; 0 where everything agrees, 1 where something does not, 2 for a wrong request."""
    groups = ", ".join(dict.fromkeys(case.group for case in cases()))
    parser = argparse.ArgumentParser(prog="python -m refimpl.verify", description=__doc__)
    parser.add_argument("--only", metavar="GROUP", help=f"one group of: {groups}")
    parser.add_argument("--backend", metavar="NAME", help="one library: numpy, torch, array-api-strict or cupy")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    own = parser.add_argument_group("an optimizer of your own")
    own.add_argument("--method", metavar="NAME", help="the method it should be; 'list' prints them all")
    own.add_argument("adapter", nargs="?", metavar="ADAPTER", help="package.module:name or path/to/file.py:name")
    own.add_argument("--level", metavar="LEVEL", action="append", help=f"of: {', '.join(LEVELS)}; may be repeated")
    own.add_argument("--setting", metavar="NAME=VALUE", action="append", default=[], help="may be repeated")
    own.add_argument("--markdown", action="store_true", help="print a table to paste into a pull request")
    chosen = parser.parse_args(arguments)
    if chosen.method is not None:
        unused = [name for name in ("only", "backend") if getattr(chosen, name)]
        if unused:
            print(f"error: --{unused[0]} is for golden vectors, it says nothing with --method", file=sys.stderr)
            return 2
        return command.run(
            chosen.method, chosen.adapter, levels=chosen.level, settings=chosen.setting,
            as_json=chosen.json, as_markdown=chosen.markdown,
        )  # fmt: skip
    unused = [name for name in ("adapter", "level", "setting", "markdown") if getattr(chosen, name)]
    if unused:
        print(f"error: {unused[0]} needs --method NAME; --method list prints the names", file=sys.stderr)
        return 2
    try:
        todo = cases(chosen.only)
        columns = _columns(chosen.backend)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    present, absent = _present(columns)
    if not present:
        print(f"error: none of the backends is here: {absent}", file=sys.stderr)
        return 2
    jobs = [(case, column, backend) for case in todo for column, backend in present]
    outcomes = [run_case(case, backend, column.label) for case, column, backend in tqdm(jobs, "verify", leave=False)]
    if chosen.json:
        print(json.dumps(_as_json(outcomes, absent), indent=1))
    else:
        print(_table(outcomes, [column.label for column, _ in present]))
        print(_summary(outcomes, absent))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def _columns(name: str | None) -> list[Column]:
    found = [column for column in COLUMNS if name in (None, column.name)]
    if not found:
        raise ValueError(f"unknown backend {name!r}; choose one of {sorted({c.name for c in COLUMNS})}")
    return found


def _present(columns: Sequence[Column]) -> tuple[list[tuple[Column, Backend]], dict[str, str]]:
    present, absent = [], {}
    for column in columns:
        try:
            present.append((column, column.get()))
        except ValueError as error:
            absent[column.label] = str(error).splitlines()[0]
    return present, absent


def _table(outcomes: Sequence[Outcome], labels: Sequence[str]) -> str:
    names = list(dict.fromkeys(outcome.case.id for outcome in outcomes))
    width = max(len(name) for name in names) + 2
    cells = {(o.case.id, o.backend): ("ok   " if o.passed else "FAIL ") + f"{o.error:7.0e}" for o in outcomes}
    head = "relative error".ljust(width) + "".join(f"{label:>14s}" for label in labels)
    return "\n".join([head, *(n.ljust(width) + "".join(f"{cells[n, c]:>14s}" for c in labels) for n in names)])


def _summary(outcomes: Sequence[Outcome], absent: dict[str, str]) -> str:
    lines = [""]
    lines += [f"not here: {label} ({reason})" for label, reason in absent.items()]
    failed = [o for o in outcomes if not o.passed]
    for o in failed:
        reason = o.problem or f"relative error {o.error:.1e}, allowed {o.tolerance:.0e}"
        lines.append(f"FAIL {o.case.id} on {o.backend}: {reason}; source: {o.case.source}")
    lines.append(f"{len(outcomes) - len(failed)} of {len(outcomes)} comparisons agree")
    return "\n".join(lines)


def _as_json(outcomes: Sequence[Outcome], absent: dict[str, str]) -> dict[str, object]:
    rows = [
        {"case": o.case.id, "backend": o.backend, "passed": o.passed, "error": o.error if o.error < 1e300 else None,
         "tolerance": o.tolerance, "problem": o.problem, "source": o.case.source}
        for o in outcomes
    ]  # fmt: skip
    return {"python": platform.python_version(), "absent": absent, "outcomes": rows}


if __name__ == "__main__":
    sys.exit(main())
