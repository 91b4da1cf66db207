"""Build the book: `python tools/book.py` (or `make book`).

Jupyter Book writes the pages; this file adds what it lacks:
  * chapters execute several at a time (`JOBS`, 2 unless told), see tools/execute.py;
  * nothing changed since the last good build: say so and stop;
  * the execution cache belongs to one state of the package, the recorded results and the lock file, because
    jupyter-cache looks only at the cells of a chapter; a change of one chapter executes that chapter alone;
  * any failed cell, any Sphinx warning and any theorem or bold statement without a claim (tools/ledger.py) is an error;
  * the ledger of claims, the notebooks to download, previews and menus (tools/finish.py);
  * how long each chapter took to execute.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import yaml
from execute import chapters_of, collect_claims, execute_chapters
from finish import finish
from furniture import known_repository
from ledger import problems, write_ledger
from notebooks import export

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path("_build")
SOURCE = Path("book")
CACHES = BUILD / "cache"
KEPT_CACHES = 2
SLOW_CHAPTER_SECONDS = 60

# What a chapter's numbers depend on besides its own cells, and what the pages depend on besides that.
EXECUTION_INPUTS = ("refimpl", "data/results", "data/mutants.json", "data/third-party.json", "requirements.lock")
SETTINGS = ("_config.yml", "_toc.yml", "tools/book.py", "tools/execute.py")
PAGE_INPUTS = (*EXECUTION_INPUTS, *SETTINGS, "book", "tools")
# Lines of the build that tell a reader nothing.
NOISE = ("Kernel is running over TCP", "ParserConfig(", "==========", "writing output", "Cached executed notebook")
TROUBLE = re.compile(r"\bWARNING: |\bERROR: |\bExecutionError: |^[A-Z]\w*(?:Error|Exception|Interrupt)\b(?!.*building)")
IGNORED_FOLDERS = {"__pycache__", ".ipynb_checkpoints"}


def files_below(places: Iterable[str | Path]) -> list[Path]:
    """All files in the named files and folders, sorted; places that do not exist are left out."""
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_file():
            found.append(place)
        elif place.is_dir():
            found += (p for p in place.rglob("*") if p.is_file() and not IGNORED_FOLDERS & set(p.parts))
    return sorted(found)


def fingerprint(places: Iterable[str | Path]) -> str:
    """16 digits: a hash of the names and contents of all files in `places`, of the Python version, of the data folder
    and of the repository that the launch buttons name."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update((known_repository() or "").encode())
    digest.update(os.environ.get("REFIMPL_DATA", "no local data").encode())  # decides which data the chapters see
    for path in files_below(places):
        digest.update(f"\0{path.as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def derived_config(cache: Path) -> Path:
    """Write `_config.yml` with the path of the execution cache into `_build`; return where it is."""
    config = yaml.safe_load(Path("_config.yml").read_text(encoding="utf-8"))
    config["execute"]["cache"] = str(cache.resolve())
    path = BUILD / "config.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def prune_caches(keep: Path) -> None:
    """Remove all execution caches but `keep` and the most recently used other ones."""
    others = sorted((p for p in CACHES.iterdir() if p != keep), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in others[KEPT_CACHES - 1 :]:
        shutil.rmtree(old)


def build_pages(config: Path) -> tuple[int, list[str]]:
    """Run Jupyter Book with warnings as errors; return its exit status and the lines that say what was wrong."""
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command += ["build", str(SOURCE), "--config", str(config), "--toc", str(Path("_toc.yml").resolve())]
    command += ["--path-output", ".", "-W", "--keep-going"]
    pipe = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert pipe.stdout is not None
    trouble: list[str] = []
    for line in pipe.stdout:
        text = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()
        if text and not any(noise in text for noise in NOISE):
            print(text, flush=True)
        if TROUBLE.search(text) and text not in trouble:
            trouble.append(text)
    return pipe.wait(), trouble


def execute(cache: Path) -> list[str]:
    """Execute what the cache does not hold and write the ledger of claims.

    Returns the tracebacks of chapters that failed; where none did, what is wrong with the claims.
    """
    chapters = chapters_of(SOURCE, Path("_toc.yml"), cache)
    settings = yaml.safe_load(Path("_config.yml").read_text(encoding="utf-8"))["execute"]
    at_once = max(1, int(os.environ.get("JOBS") or 2))
    trouble = []
    for done in execute_chapters(chapters, cache, timeout=settings["timeout"], at_once=at_once):
        verdict = "FAILED" if done.trouble else "executed"
        print(f"  {done.path.relative_to(SOURCE)}: {verdict} in {done.seconds:.1f} s", flush=True)
        if done.trouble:
            trouble.append(f"{done.path}: {done.trouble}")
    collect_claims(chapters, cache, BUILD / "claims")
    write_ledger(BUILD / "claims", SOURCE, BUILD / "ledger.md")
    return trouble or problems(SOURCE, BUILD / "claims")


def report_times(cache: Path, started: float) -> None:
    """Print how long each chapter took to execute, and whether that was now or in an earlier build."""
    from jupyter_cache import get_cache

    rows = []
    for record in get_cache(str(cache)).list_cache_records():
        path = Path(record.uri)
        if path.exists():
            name = os.path.relpath(path, SOURCE.resolve())
            rows.append((name, float(record.data.get("execution_seconds", 0.0)), record.created.timestamp(), record.pk))
    latest = {name: (seconds, created) for name, seconds, created, _ in sorted(rows, key=lambda row: row[3])}
    if not latest:
        return
    width = max(map(len, latest))
    print("\nexecution time of the chapters")
    for name, (seconds, created) in sorted(latest.items()):
        when = "executed now" if created >= started else "from the cache"
        slow = f"  more than {SLOW_CHAPTER_SECONDS} s!" if seconds > SLOW_CHAPTER_SECONDS else ""
        print(f"  {name:<{width}}  {seconds:6.1f} s  {when}{slow}")
    print(f"  {'all':<{width}}  {sum(seconds for seconds, _ in latest.values()):6.1f} s")


def main() -> int:
    """Build the book if anything changed; return an exit status."""
    if os.environ.get("REFIMPL_DATA"):
        os.environ["REFIMPL_DATA"] = str(Path(os.environ["REFIMPL_DATA"]).resolve())  # kernels run in other folders
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "NO_COLOR": "1"}  # for every chapter's kernel
    os.chdir(ROOT)
    started = time.time()
    BUILD.mkdir(exist_ok=True)
    CACHES.mkdir(exist_ok=True)
    state, stamp = fingerprint(PAGE_INPUTS), BUILD / "book.fingerprint"
    index = BUILD / "html" / "index.html"
    if index.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == state:
        print(f"The book is up to date: {index}")
        return 0

    cache = CACHES / fingerprint(EXECUTION_INPUTS)
    if stamp.exists():
        stamp.unlink()
    doctrees = BUILD / ".doctrees"
    built_with = BUILD / "book.base"
    base = fingerprint((*EXECUTION_INPUTS, *SETTINGS))
    if not built_with.exists() or built_with.read_text(encoding="utf-8") != base:
        print("The package, the recorded results, the versions or the settings are new: every page is read again.")
        shutil.rmtree(doctrees, ignore_errors=True)
        shutil.rmtree(BUILD / "html", ignore_errors=True)  # no page of a chapter that has moved stays behind
    cache.mkdir(exist_ok=True)
    os.utime(cache)
    prune_caches(keep=cache)

    print("Executing chapters (the first time takes some minutes).", flush=True)
    built_with.write_text("", encoding="utf-8")
    trouble = execute(cache)
    status = 1 if trouble else 0
    if not status:
        print("Writing pages.", flush=True)
        status, trouble = build_pages(derived_config(cache))
    if status:
        # Pages that were read without being written whole must be read again next time.
        shutil.rmtree(doctrees, ignore_errors=True)
        print("\nThe book was NOT built:", *trouble, sep="\n  ", flush=True)
        return 1
    # Sphinx copies these only when some page is out of date.
    shutil.copytree(SOURCE / "_static", BUILD / "html" / "_static", dirs_exist_ok=True)
    export(SOURCE, BUILD / "notebooks", Path("_toc.yml"))
    finish(BUILD / "html", BUILD / "notebooks", known_repository())
    built_with.write_text(base, encoding="utf-8")
    stamp.write_text(state, encoding="utf-8")
    report_times(cache, started)
    print(f"\nThe book is built in {time.time() - started:.0f} s. Open {index}, or call: make serve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
