"""Which notebooks `make test` has to run: `python tools/pending.py` prints their paths.

All of them, but for chapters whose very cells `make book` has executed with this very package, these records, versions
and data: those would only be executed a second time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from execute import chapters_of, is_executed

from book import BUILD, CACHES, EXECUTION_INPUTS, ROOT, SOURCE, fingerprint  # type: ignore[attr-defined]


def pending(notebooks: Path, cache: Path) -> list[Path]:
    """The exported notebooks whose chapter is not in the execution cache."""
    chapters = chapters_of(SOURCE, Path("_toc.yml"), cache) if cache.is_dir() else []
    done = {notebooks / c.path.relative_to(SOURCE).with_suffix(".ipynb") for c in chapters if is_executed(c, cache)}
    return [path for path in sorted(notebooks.rglob("*.ipynb")) if path not in done]


def main() -> int:
    """Print the paths, and on the error stream what was left out."""
    if os.environ.get("REFIMPL_DATA"):
        os.environ["REFIMPL_DATA"] = str(Path(os.environ["REFIMPL_DATA"]).resolve())
    os.chdir(ROOT)
    notebooks = BUILD / "notebooks"
    left = pending(notebooks, CACHES / fingerprint(EXECUTION_INPUTS))
    done = len(list(notebooks.rglob("*.ipynb"))) - len(left)
    if done:
        print(f"{done} chapters are left out: `make book` has executed them in this very state", file=sys.stderr)
    print(*left)
    return 0


if __name__ == "__main__":
    sys.exit(main())
