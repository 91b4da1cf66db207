"""``python -m refimpl.experiments list | run NAME | show NAME``: the long runs behind the book's recorded figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.records import provenance_line, read_record, results_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``arguments`` and run; the exit status is 0 on success and 2 for a wrong request."""
    parser = argparse.ArgumentParser(prog="python -m refimpl.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names of the experiments, and which have a record")
    run = commands.add_parser("run", help="run one experiment and write its record")
    run.add_argument("name")
    run.add_argument("--scale", choices=("smoke", "ci", "full"), default="full", help="how long to run")
    run.add_argument("--seeds", type=int, default=None, help="number of seeds (default: the experiment's own)")
    run.add_argument("--device", default="cpu", help="cpu or cuda (cuda needs Torch)")
    run.add_argument("--workers", type=int, default=1, help="jobs at a time, each in its own process (default: 1)")
    run.add_argument("--out", type=Path, default=None, help="folder of the record (default: data/results)")
    show = commands.add_parser("show", help="print a record's settings, provenance and final losses")
    show.add_argument("name")
    chosen = parser.parse_args(arguments)
    try:
        return {"list": _list, "run": _run, "show": _show}[chosen.command](chosen)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _list(_: argparse.Namespace) -> int:
    for name, experiment in EXPERIMENTS.items():
        recorded = "recorded" if (results_folder() / f"{name}.json").is_file() else "no record"
        print(f"{name:28s} {recorded:10s} {experiment.summary}")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    if chosen.name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {chosen.name!r}; choose one of {sorted(EXPERIMENTS)}")
    folder = chosen.out or results_folder()
    options = {"scale": chosen.scale, "seeds": chosen.seeds, "device": chosen.device, "workers": chosen.workers}
    path = EXPERIMENTS[chosen.name].record(folder, **options)
    print(f"wrote {path}")
    return 0


def _show(chosen: argparse.Namespace) -> int:
    record = read_record(chosen.name)
    print(provenance_line(record))
    for key, value in record["settings"].items():
        print(f"  {key}: {value}")
    for run in record["runs"]:
        print(f"  {run['key']:44s} {run['status']:10s} steps {run['steps']:6d}  loss {run['loss']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
