"""Breaks the package on purpose, one bug at a time, and sees that the test that should notice does.

    python tests/mutations.py            all mutants, two at a time
    python tests/mutations.py ID [ID …]  some of them
    python tests/mutations.py --record   all, and what became of each into data/mutants.json, which the book shows

Package and tests are copied to a temporary folder, so the checkout is never touched. The exit status is 1 where a
mutant survives, where its text is not found exactly once, or where a named test fails without any mutant. A recording
that was stopped goes on with the same command, unless package or tests have changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from mutants import MUTANTS as PARTS_ONE_TO_THREE
from mutants import Mutant
from mutants_amos import MUTANTS_AMOS
from mutants_curveball import CURVEBALL
from mutants_elmo import MUTANTS_ELMO
from mutants_full_scale import MUTANTS_FULL_SCALE
from mutants_kryball import KRYBALL
from tqdm import tqdm

from refimpl.experiments.records import provenance, write_atomically

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "data" / "mutants.json"
AT_ONCE = 2
MUTANTS = [*PARTS_ONE_TO_THREE, *CURVEBALL, *KRYBALL, *MUTANTS_AMOS, *MUTANTS_ELMO, *MUTANTS_FULL_SCALE]


def mutated(mutant: Mutant, package: Path) -> str:
    """The text of the mutant's file with its bug; a ValueError unless the place is there exactly once."""
    source = (package / mutant.file).read_text(encoding="utf-8")
    if source.count(mutant.text) != 1:
        raise ValueError(f"{mutant.id}: its text is in {mutant.file} {source.count(mutant.text)} times, not once")
    return source.replace(mutant.text, mutant.replacement)


def judge(mutant: Mutant, copy: Path) -> str:
    """``caught``, ``SURVIVED``, or what else happened, with the mutant applied to ``copy``."""
    path = copy / "refimpl" / mutant.file
    original = path.read_text(encoding="utf-8")
    try:
        path.write_text(mutated(mutant, copy / "refimpl"), encoding="utf-8")
        status, output = run_tests([mutant.test], copy)
    except ValueError as error:
        return f"NOT APPLIED ({error})"
    except subprocess.TimeoutExpired as error:
        return f"NOT DECIDED (no answer within {error.timeout:.0f} s)"
    finally:
        path.write_text(original, encoding="utf-8")
    # Only failed tests count: 2 and more mean that pytest could not import or find them.
    return {0: "SURVIVED", 1: "caught"}.get(status, f"BROKEN (pytest says {status}: {output.strip()[-300:]})")


def run_tests(tests: Sequence[str], copy: Path, seconds: int = 600) -> tuple[int, str]:
    """Exit status and output of pytest on the named tests of ``copy``."""
    environment = os.environ | {
        "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg",
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    return done.returncode, done.stdout + done.stderr


def unharmed(tests: Sequence[str], copy: Path) -> tuple[int, str]:
    """As :func:`run_tests`, for all tests at once."""
    return run_tests(tests, copy, seconds=1800)


def make_copy(folder: Path) -> Path:
    """Package and tests in ``folder``, without compiled files, which would hide a mutant."""
    for name in ("refimpl", "tests", "tools", "book/_static"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def state_of_the_code() -> str:
    """A hash of package and tests: verdicts belong to one state of them."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "refimpl").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def row_of(mutant: Mutant, verdict: str) -> dict[str, str]:
    """A mutant and its verdict, as the record has it."""
    return {"id": mutant.id, "file": mutant.file, "bug": mutant.bug, "test": mutant.test, "verdict": verdict}


class Recording:
    """The verdicts so far, written after each one."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, state_of_the_code()
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        same = old.get("state") == self.state
        decided = [row for row in old.get("mutants", []) if row["verdict"] in ("caught", "SURVIVED")] if same else []
        self.rows: dict[str, dict[str, str]] = {row["id"]: row for row in decided}

    def add(self, mutant: Mutant, verdict: str) -> None:
        """Store a verdict."""
        self.rows[mutant.id] = row_of(mutant, verdict)
        about = provenance() | {"command": "python tests/mutations.py --record"}
        ordered = [self.rows[m.id] for m in MUTANTS if m.id in self.rows]
        content = {"schema": 1, "provenance": about, "state": self.state, "mutants": ordered}
        write_atomically(self.path, (json.dumps(content, indent=0, ensure_ascii=False) + "\n").encode())


def verdicts_of(chosen: Sequence[Mutant], told: Any = None) -> dict[str, str]:
    """What becomes of each mutant; ``told(mutant, verdict)`` hears of it at once.

    Raises
    ------
    RuntimeError
        A named test fails without any mutant.
    """
    found: dict[str, str] = {}
    if not chosen:
        return found
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(AT_ONCE) as pool:
        copies: Queue[Path] = Queue()
        for i in range(AT_ONCE):
            copies.put(make_copy(Path(scratch) / str(i)))

        def on_a_copy(task, given):
            copy = copies.get()
            try:
                return task(given, copy)
            finally:
                copies.put(copy)

        tests = sorted({m.test for m in chosen})
        parts = [part for part in (tests[i::AT_ONCE] for i in range(AT_ONCE)) if part]
        for status, output in pool.map(lambda part: on_a_copy(unharmed, part), parts):
            if status != 0:
                raise RuntimeError(f"the named tests fail without any mutant:\n{output}")
        judged = pool.map(lambda m: (m, on_a_copy(judge, m)), chosen)
        for mutant, verdict in tqdm(judged, total=len(chosen), unit="mutant"):
            found[mutant.id] = verdict
            if told:
                told(mutant, verdict)
    return found


def main(arguments: Sequence[str]) -> int:
    """Judge the named mutants, or all."""
    parser = argparse.ArgumentParser(prog="python tests/mutations.py", description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    given = parser.parse_args(arguments)
    unknown = set(given.ids) - {m.id for m in MUTANTS}
    if unknown:
        print(f"unknown mutants {sorted(unknown)}; choose among {[m.id for m in MUTANTS]}", file=sys.stderr)
        return 2
    if given.record and given.ids:
        print("a record is of all mutants: name none", file=sys.stderr)
        return 2
    chosen = [m for m in MUTANTS if not given.ids or m.id in given.ids]
    recording = Recording(RECORD) if given.record else None
    known = {name: row["verdict"] for name, row in recording.rows.items()} if recording else {}
    try:
        todo = [m for m in chosen if m.id not in known]
        verdicts = known | verdicts_of(todo, recording.add if recording else None)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    width = max(len(m.id) for m in chosen)
    for mutant in chosen:
        print(f"{mutant.id.ljust(width)}  {verdicts[mutant.id].ljust(8)}  {mutant.test}")
        print(f"{' ' * width}            {mutant.bug}")
    caught = [m for m in chosen if verdicts[m.id] == "caught"]
    print(f"{len(caught)} of {len(chosen)} mutants caught")
    return 0 if len(caught) == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
