"""The golden vectors as a versioned data package.

    python tools/vectors.py               write manifest.json and schema.json beside the vectors
    python tools/vectors.py --check       compare them with the files that are there, write nothing
    python tools/vectors.py pack [FILE]   write _build/golden-vectors-VERSION.zip, the same bytes at each call
    python tools/vectors.py compare FILE  what changed since that package, and which part of the version must grow

Vectors that differ from those in the manifest are not described under the same version: raise VERSION first. The policy
is in refimpl/verify/vectors/README.md. Only Python's standard library is needed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vectors_schema import LAYOUT, schema

VERSION = "1.0.0"

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "refimpl" / "verify" / "vectors"
ABOUT = ("manifest.json", "schema.json")
EXTRAS = ("README.md", "read_vectors.py", "read_vectors.js")

Files = Mapping[str, bytes]


def vector_files(folder: Path = FOLDER) -> dict[str, bytes]:
    """Name -> content of every file of vectors.

    Raises
    ------
    ValueError
        The folder holds none.
    """
    found = {path.name: path.read_bytes() for path in sorted(folder.glob("*.json")) if path.name not in ABOUT}
    if not found:
        raise ValueError(f"no vectors in {folder.name}; python tools/golden.py writes them")
    return found


def manifest(files: Files) -> dict[str, Any]:
    """What is in the package, with the SHA-256 of each file."""
    contents = {name: json.loads(data) for name, data in files.items()}
    return {
        "name": "golden-vectors",
        "version": VERSION,
        "schema": LAYOUT,
        "licence": "MIT",
        "generator": "tools/golden.py",
        "digits": 60,
        "numbers": "shortest decimals that read back as the same binary64 number; null is NaN",
        "cases": sum(len(content["cases"]) for content in contents.values()),
        "files": [
            {
                "name": name,
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "cases": len(contents[name]["cases"]),
                "calls": sorted({case["call"] for case in contents[name]["cases"]}),
            }
            for name, data in files.items()
        ],
        "schema_sha256": hashlib.sha256(rendered(schema()).encode()).hexdigest(),
    }


def rendered(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def problems(folder: Path = FOLDER) -> list[str]:
    """What the manifest says and the folder does not hold (or the other way round); empty where both agree."""
    path = folder / "manifest.json"
    if not path.is_file():
        return ["manifest.json is missing"]
    stored = json.loads(path.read_text(encoding="utf-8"))
    files, found = vector_files(folder), []
    listed = {entry["name"]: entry for entry in stored["files"]}
    found += [f"{name} is not in the manifest" for name in files.keys() - listed.keys()]
    for name, entry in listed.items():
        if name not in files:
            found.append(f"{name} is missing")
            continue
        if hashlib.sha256(files[name]).hexdigest() != entry["sha256"]:
            found.append(f"{name} has another SHA-256 than the manifest")
        count = len(json.loads(files[name])["cases"])
        if count != entry["cases"]:
            found.append(f"{name} has {count} cases, the manifest says {entry['cases']}")
    if not found and stored != manifest(files):
        found.append("manifest.json is not what tools/vectors.py writes")
    text = rendered(schema())
    if not (folder / "schema.json").is_file() or (folder / "schema.json").read_text(encoding="utf-8") != text:
        found.append("schema.json is not what tools/vectors.py writes")
    return sorted(found)


def write(folder: Path = FOLDER) -> dict[str, Any]:
    """Write ``manifest.json`` and ``schema.json`` and return the manifest.

    Raises
    ------
    ValueError
        The vectors are not those of the stored manifest, which has the same version.
    """
    new, path = manifest(vector_files(folder)), folder / "manifest.json"
    if path.is_file():
        old = json.loads(path.read_text(encoding="utf-8"))
        changed = old["files"] != new["files"] or old["schema_sha256"] != new["schema_sha256"]
        if changed and old["version"] == VERSION:
            raise ValueError(
                f"the vectors or their schema are not those of version {VERSION}: raise VERSION in tools/vectors.py "
                f"(`compare` says which part, README.md why)"
            )
    path.write_text(rendered(new), encoding="utf-8", newline="\n")
    (folder / "schema.json").write_text(rendered(schema()), encoding="utf-8", newline="\n")
    return new


def pack(path: Path | None = None, folder: Path = FOLDER) -> Path:
    """Write the package as a zip file, with the licence and the readers.

    Raises
    ------
    ValueError
        The manifest does not describe what is there.
    """
    wrong = problems(folder)
    if wrong:
        raise ValueError(f"not packed: {'; '.join(wrong)}; python tools/vectors.py writes the manifest again")
    path = path or ROOT / "_build" / f"golden-vectors-{VERSION}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    top = f"golden-vectors-{VERSION}"
    contents = {"LICENSE": (ROOT / "LICENSE").read_bytes(), **vector_files(folder)}
    contents |= {name: (folder / name).read_bytes() for name in (*ABOUT, *EXTRAS)}
    # Stored, not compressed: what a compressor writes depends on the release of zlib.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(f"{top}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, contents[name])
    return path


def packed_files(path: Path) -> dict[str, bytes]:
    """The files of vectors in a package that ``pack`` wrote."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rsplit("/", 1)[-1]: name for name in archive.namelist()}
        return {short: archive.read(name) for short, name in names.items() if short.endswith(".json")
                and short not in ABOUT}  # fmt: skip


def required_change(old: Files, new: Files) -> tuple[str, list[str]]:
    """Which part of the version has to grow from ``old`` to ``new`` (``""`` where none has), and why.

    ``major`` where an implementation or a reader that was right may be wrong now: another layout, a case removed, asked
    differently or answered differently (beyond its tolerance), a smaller tolerance. ``minor`` where cases were added.
    ``patch`` for everything else.
    """
    before, after = _cases(old), _cases(new)
    major = [f"{name} is gone" for name in before.keys() - after.keys()]
    if _layouts(old) != _layouts(new):
        major.append("another layout")
    for name in before.keys() & after.keys():
        a, b = before[name], after[name]
        if (a["call"], a["inputs"]) != (b["call"], b["inputs"]):
            major.append(f"{name} asks for something else")
        elif _distance(b["expected"], a["expected"]) > a["rtol"]:
            major.append(f"{name} has another answer")
        elif b["rtol"] < a["rtol"] or b["rtol_float32"] < a["rtol_float32"]:
            major.append(f"{name} has a smaller tolerance")
    if major:
        return "major", sorted(major)
    added = after.keys() - before.keys()
    if added:
        return "minor", sorted(f"{name} is new" for name in added)
    return ("", []) if old == new else ("patch", ["only words, last digits or tolerances that grew"])


def _cases(files: Files) -> dict[str, dict[str, Any]]:
    return {f"{name[:-5]}/{case['id']}": case for name, data in files.items() for case in json.loads(data)["cases"]}


def _layouts(files: Files) -> set[int]:
    return {json.loads(data)["schema"] for data in files.values()}


def _distance(found: Any, expected: Any) -> float:
    """Largest absolute difference over largest absolute expectation, the largest over named answers."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return float("inf")
        return max(_distance(found[key], value) for key, value in expected.items())
    a, b = _flat(found), _flat(expected)
    if len(a) != len(b) or [x is None for x in a] != [x is None for x in b]:
        return float("inf")
    scale = max((abs(x) for x in b if x is not None), default=0.0) or 1.0
    return max((abs(x - y) for x, y in zip(a, b, strict=True) if y is not None), default=0.0) / scale


def _flat(value: Any) -> list[Any]:
    return [entry for item in value for entry in _flat(item)] if isinstance(value, list) else [value]


def main(arguments: Sequence[str]) -> int:
    """The commands above; the exit status is 1 where ``--check`` or ``write`` finds something wrong."""
    try:
        match list(arguments):
            case []:
                written = write()
                print(f"version {written['version']}: {written['cases']} cases in {len(written['files'])} files")
            case ["--check"]:
                wrong = problems()
                print("\n".join(wrong) or "the manifest describes what is there")
                return 1 if wrong else 0
            case ["pack", *rest] if len(rest) <= 1:
                print(pack(Path(rest[0]) if rest else None))
            case ["compare", path]:
                part, reasons = required_change(packed_files(Path(path)), vector_files())
                print(f"{part or 'nothing'} has to grow", *reasons, sep="\n  ")
            case _:
                print(__doc__)
                return 2
    except (ValueError, OSError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
