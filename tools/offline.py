"""Pack the built book for reading without a network: `python tools/offline.py` (or `make offline`).

The archive holds the site as it is (pages, search, formulas, notebooks), below one folder, with a page to start from.
Every page opens from disk, no server needed. The same site gives the same archive, byte for byte.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = Path("_build/html")
NOTEBOOKS = Path("_build/notebooks")
ARCHIVE = Path("_build/saddle-free-offline.zip")
FOLDER = "saddle-free"
# What a reader has no use for: the build's own notes, sources that no page links to, leftovers of systems and editors.
LEFT_OUT = {".buildinfo", ".doctrees", "_sources", "__pycache__", ".ipynb_checkpoints", ".DS_Store", ".nojekyll"}
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say

START = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="0; url=site/index.html">
<title>Saddle-free</title>
</head>
<body>
<main>
<h1>Saddle-free</h1>
<p><a href="site/index.html">Open the book</a></p>
</main>
</body>
</html>
"""
README = """Saddle-free: the whole book, to be read without a network.

Unpack the archive, then open START-HERE.html in a browser.

  site/              the pages, with search and formulas
  site/notebooks/    the chapters as Jupyter notebooks; they need the package `refimpl`

Search lists the pages that it finds; the excerpts below each hit need a server:
  python3 -m http.server --bind 127.0.0.1 --directory site
then open http://localhost:8000/

Text: CC BY 4.0. Code: MIT licence.
"""


def contents(site: Path, notebooks: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every file of the archive, sorted by name.

    Notebooks that the site does not have yet are taken from the folder `notebooks`.
    """
    files = {f"site/{p.relative_to(site).as_posix()}": p for p in site.rglob("*") if p.is_file()}
    if not (site / "notebooks").is_dir() and notebooks.is_dir():
        found = (p for p in notebooks.rglob("*") if p.is_file())
        files |= {f"site/notebooks/{p.relative_to(notebooks).as_posix()}": p for p in found}
    written = {"START-HERE.html": START.encode(), "README.txt": README.encode()}
    for name in sorted({*files, *written}):
        if not LEFT_OUT & set(name.split("/")):
            yield name, written[name] if name in written else files[name].read_bytes()


def pack(site: Path, notebooks: Path, archive: Path) -> int:
    """Write the archive of a built site; return how many files it holds.

    An archive of the same name is replaced in one move, once the new one is whole.

    Raises:
        ValueError: there is no built site in the folder `site`.
    """
    if not (site / "index.html").is_file():
        raise ValueError(f"no built book in {site} (there is no index.html): run `make book` first")
    unfinished = archive.with_name(f".{archive.name}.{os.getpid()}")
    count = 0
    try:
        with zipfile.ZipFile(unfinished, "w") as packed:
            for name, content in contents(site, notebooks):
                entry = zipfile.ZipInfo(f"{FOLDER}/{name}", DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # the same on every system
                packed.writestr(entry, content, compresslevel=9)
                count += 1
        unfinished.replace(archive)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def main() -> int:
    """Bring the book up to date, pack it, say how large the archive is."""
    os.chdir(ROOT)
    built = subprocess.run([sys.executable, str(ROOT / "tools" / "book.py")])
    if built.returncode:
        return built.returncode
    if not NOTEBOOKS.is_dir():
        subprocess.run([sys.executable, str(ROOT / "tools" / "notebooks.py")], check=True)
    count = pack(SITE, NOTEBOOKS, ARCHIVE)
    print(f"{ARCHIVE}: {count} files, {ARCHIVE.stat().st_size / 1e6:.1f} MB. Unpack it and open START-HERE.html.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
