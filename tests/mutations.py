"""Breaks the package on purpose, one bug at a time, and sees that the test that should notice does.

    python tests/mutations.py            all mutants, two at a time
    python tests/mutations.py ID [ID …]  some of them

Package and tests are copied to a temporary folder, so the checkout is never touched. The exit status is 1 where a
mutant survives, where its text is not found exactly once, or where a named test fails without any mutant.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from mutants import MUTANTS as PARTS_ONE_TO_THREE
from mutants import Mutant
from mutants_amos import MUTANTS_AMOS
from mutants_curveball import CURVEBALL
from mutants_elmo import MUTANTS_ELMO
from mutants_kryball import KRYBALL
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
MUTANTS = [*PARTS_ONE_TO_THREE, *CURVEBALL, *KRYBALL, *MUTANTS_AMOS, *MUTANTS_ELMO]


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
    finally:
        path.write_text(original, encoding="utf-8")
    # Only failed tests count: 2 and more mean that pytest could not import or find them.
    return {0: "SURVIVED", 1: "caught"}.get(status, f"BROKEN (pytest says {status}: {output.strip()[-300:]})")


def run_tests(tests: Sequence[str], copy: Path, seconds: int = 300) -> tuple[int, str]:
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


def main(arguments: Sequence[str]) -> int:
    """Judge the named mutants, or all."""
    unknown = set(arguments) - {m.id for m in MUTANTS}
    if unknown:
        print(f"unknown mutants {sorted(unknown)}; choose among {[m.id for m in MUTANTS]}", file=sys.stderr)
        return 2
    chosen = [m for m in MUTANTS if not arguments or m.id in arguments]
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
                print(f"the named tests fail without any mutant:\n{output}", file=sys.stderr)
                return 1
        verdicts = list(tqdm(pool.map(lambda m: on_a_copy(judge, m), chosen), total=len(chosen), unit="mutant"))
    width = max(len(m.id) for m in chosen)
    for mutant, verdict in zip(chosen, verdicts, strict=True):
        print(f"{mutant.id.ljust(width)}  {verdict.ljust(8)}  {mutant.test}\n{' ' * width}            {mutant.bug}")
    caught = verdicts.count("caught")
    print(f"{caught} of {len(chosen)} mutants caught")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
