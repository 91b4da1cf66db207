"""Records of runs: what was measured, with everything needed to run it again.

A record is one small JSON file with the settings, the results, and where they come from: device, versions, date,
seeds, command and commit. Records are written atomically. A long experiment writes a partial record after each run
and continues from it when started again.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
_REQUIRED = ("schema", "experiment", "settings", "runs", "provenance")
_PROVENANCE = ("date", "device", "python", "versions", "command", "commit", "dirty")
_PACKAGES = ("refimpl", "numpy", "scipy", "array-api-compat", "torch", "cupy-cuda12x", "scikit-learn")


def results_folder() -> Path:
    """Where records live: ``$REFIMPL_RESULTS``, or ``data/results`` of the checkout."""
    chosen = os.environ.get("REFIMPL_RESULTS")
    return Path(chosen) if chosen else _checkout() / "data" / "results"


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Device, versions, date, command and commit of the running program.

    ``commit`` is None outside a git checkout; ``dirty`` says whether ``refimpl`` differed from that commit.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    changed = _git("status", "--porcelain", "--", "refimpl")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": _device_in_words(device),
        "python": platform.python_version(),
        "versions": versions,
        "command": "python -m refimpl.experiments " + " ".join(sys.argv[1:]),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(changed),
    }


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write ``record`` to ``path`` atomically: readers see the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_text(json.dumps(_compact(record), ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(scratch, path)


def read_record(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The record called ``name`` (without ``.json``).

    Raises
    ------
    ValueError
        No such record, or one that is incomplete or of another schema.
    """
    path = (folder or results_folder()) / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"there is no record {name!r}; run `python -m refimpl.experiments run {name}` to make it")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    check_record(record, name)
    return record


def check_record(record: Mapping[str, Any], name: str = "record") -> None:
    """A ValueError unless ``record`` is complete: schema, settings, at least one run, full provenance."""
    missing = [key for key in _REQUIRED if key not in record]
    missing += [f"provenance.{key}" for key in _PROVENANCE if key not in record.get("provenance", {})]
    if missing:
        raise ValueError(f"record {name!r} is incomplete: it lacks {', '.join(missing)}")
    if record["schema"] != SCHEMA:
        raise ValueError(f"record {name!r} has schema {record['schema']}, this version reads {SCHEMA}; run it again")
    if not record["runs"]:
        raise ValueError(f"record {name!r} holds no runs")
    unfinished = [run.get("key", "?") for run in record["runs"] if "status" not in run]
    if unfinished:
        raise ValueError(f"record {name!r} has runs without a status: {unfinished}")


def provenance_line(record: Mapping[str, Any]) -> str:
    """One sentence for a caption: device, date, versions and commit of a record."""
    source = record["provenance"]
    commit = source["commit"][:10] if source["commit"] else "outside git"
    commit += " with local changes" if source["dirty"] else ""
    versions = ", ".join(f"{k} {v}" for k, v in source["versions"].items() if k in ("numpy", "torch"))
    where = f"{source['device']}, Python {source['python']}, {versions}"
    return f"Recorded {source['date'][:10]} on {where}; commit {commit}."


def _compact(value: Any) -> Any:
    # Seven digits are more than any figure shows, and keep the files small; NaN is not JSON and becomes null.
    if isinstance(value, float):
        return float(f"{value:.7g}") if abs(value) < float("inf") else None
    if isinstance(value, Mapping):
        # Settings stay exact: they decide the results, and a run is continued only where they are the same.
        return {str(key): item if key == "settings" else _compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_compact(item) for item in value]
    return value


def _device_in_words(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=_checkout(), capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
