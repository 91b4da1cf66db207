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
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refimpl.experiments.runner import Experiment

SCALES = ("smoke", "ci", "full")
SCHEMA = 1
_REQUIRED = ("schema", "experiment", "settings", "runs", "provenance")
_PROVENANCE = ("date", "device", "python", "versions", "command", "commit", "dirty")
_PACKAGES = (
    "refimpl", "numpy", "scipy", "array-api-compat", "torch", "pytorch_optimizer", "cupy-cuda12x", "cupy-cuda13x",
    "scikit-learn",
)  # fmt: skip


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
    """Write ``record`` to ``path`` as JSON, atomically (:func:`write_atomically`)."""
    text = json.dumps(_compact(record), ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode("utf-8"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``: a reader sees the old file or the new one, never half of one, whenever it looks.

    The folder is made where there is none. A writer that is killed leaves the old file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that no pattern for records or checkpoints finds what a killed writer left behind.
    scratch = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a crash of the machine may keep the new name and lose the content
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


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


def stale(record: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Why ``record`` is not what ``experiment`` would record today; empty where it is.

    Settings are compared with today's for the same scale and the same number of seeds; then come jobs without runs, a
    selection of jobs, runs without a status, and code that was not committed. An experiment whose settings come from
    other records must be prepared (:meth:`refimpl.experiments.runner.Experiment.prepare`).

    Raises
    ------
    ValueError
        The record is not one of this experiment, or of a scale that it does not have.
    """
    return _lacking(record, experiment) + _outdated(record, experiment)


def verdict(name: str, experiment: Experiment | None, folder: Path | None = None) -> str:
    """``ok``, or ``stale: why``, or ``incomplete: why``: what is to be said of the record ``name`` in ``folder``.

    Nothing is run, and no data are read.
    """
    folder = folder or results_folder()
    try:
        record = read_record(name, folder)
    except ValueError as error:
        return f"incomplete: {error}"
    if experiment is None:
        return "stale: there is no experiment of this name"
    try:
        experiment.prepare(folder, scale=record["settings"].get("scale", ""), run=False)
        lacking, outdated = _lacking(record, experiment), _outdated(record, experiment)
    except ValueError as error:
        return f"stale: {error}"
    if not lacking and not outdated:
        return "ok"
    return f"{'incomplete' if lacking else 'stale'}: {'; '.join(lacking + outdated)}"


def provenance_line(record: Mapping[str, Any]) -> str:
    """One sentence for a caption: device, date, versions and commit of a record."""
    source = record["provenance"]
    commit = source["commit"][:10] if source["commit"] else "outside git"
    commit += " with local changes" if source["dirty"] else ""
    versions = ", ".join(f"{k} {v}" for k, v in source["versions"].items() if k in ("numpy", "torch"))
    where = f"{source['device']}, Python {source['python']}, {versions}"
    return f"Recorded {source['date'][:10]} on {where}; commit {commit}."


def _lacking(record: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """What a whole record would have and this one has not."""
    found = [f"it holds a selection of the jobs: {_short(record['selection'])}"] if "selection" in record else []
    unfinished = [run.get("key", "?") for run in record["runs"] if "status" not in run]
    if unfinished:
        found.append(f"runs without a status: {_listed(unfinished)}")
    keys, counts = {run.get("key", "?") for run in record["runs"]}, record.get("jobs")
    jobs = experiment.jobs(_today(record, experiment))
    missing = [job for job in jobs if (not _has_runs(job, keys) if counts is None else job not in counts)]
    if missing:
        found.append(f"{len(missing)} of {len(jobs)} jobs lack: {_listed(missing)}")
    if counts is not None and sum(counts.values()) != len(record["runs"]):
        found.append(f"it holds {len(record['runs'])} runs, and its jobs had {sum(counts.values())}")
    return found


def _outdated(record: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Settings that are others today, and code that nobody can look up."""
    found = list(_differences(record["settings"], _today(record, experiment), "settings"))
    if record["provenance"]["dirty"]:
        found.append("it was made with local changes of refimpl")
    if record["provenance"]["commit"] is None:
        found.append("it was made outside git")
    return found


def _today(record: Mapping[str, Any], experiment: Experiment) -> dict[str, Any]:
    """The settings that ``experiment`` has today for the scale and the number of seeds of ``record``."""
    if record["experiment"] != experiment.name:
        raise ValueError(f"it is a record of {record['experiment']!r}, not of {experiment.name!r}")
    scale, recorded = record["settings"].get("scale"), record["settings"]
    if scale not in SCALES:
        raise ValueError(f"its scale is {scale!r}, none of {list(SCALES)}")

    def settings(seeds: int | None) -> dict[str, Any]:
        return dict(json.loads(json.dumps({"scale": scale, **experiment.settings(scale, seeds)})))

    today = settings(None)
    if today == recorded:
        return today
    # Experiments put the number of seeds where they like: it is one of the numbers in the settings.
    others = [settings(count) for count in sorted(_whole_numbers(recorded))]
    return min([today, *others], key=lambda one: len(list(_differences(recorded, one, ""))))


def _whole_numbers(value: Any) -> set[int]:
    if isinstance(value, Mapping | list):
        inside = value.values() if isinstance(value, Mapping) else value
        return {number for each in inside for number in _whole_numbers(each)}
    return {value} if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000 else set()


def _differences(recorded: Any, today: Any, where: str) -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(today, Mapping):
        for key in sorted({*recorded, *today}):
            if key not in today:
                yield f"{where}.{key} is {_short(recorded[key])}, and there is no such setting today"
            elif key not in recorded:
                yield f"{where}.{key} lacks, today it is {_short(today[key])}"
            else:
                yield from _differences(recorded[key], today[key], f"{where}.{key}")
    elif recorded != today:
        yield f"{where} is {_short(recorded)}, today {_short(today)}"


def _has_runs(job: str, keys: Collection[str]) -> bool:
    """Whether a record from before the time when records listed their jobs has runs of ``job``."""
    if job in keys or any(key.startswith(f"{job}/") for key in keys):
        return True
    span = re.fullmatch(r"(.*/)(\d+)-(\d+)", job)
    return span is not None and all(f"{span[1]}{seed}" in keys for seed in range(int(span[2]), int(span[3]) + 1))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:110]} … {text[-40:]}"


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
