"""The long runs behind the book's recorded figures: list them, run them, check and show what they recorded.

``run`` writes a record whole or not at all. Stopped by a kill, Ctrl-C or ``--time-limit``, it goes on when the same
command is given again: finished jobs are kept, and a job that keeps checkpoints goes on in the middle.

Exit status: 0 done; 1 a checked record is stale or incomplete; 2 wrong request; 3 the time limit was reached; 130
interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.checkpoints import TimeUp
from refimpl.experiments.records import SCALES, provenance_line, read_record, results_folder, verdict
from refimpl.experiments.sweep import add_command, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``arguments`` and run; the exit status is what the head of this file says."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _parser().parse_args(given)
    try:
        return {"list": _list, "run": _run, "check": _check, "show": _show, "sweep": run_command}[chosen.command](
            chosen
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TimeUp as late:
        print(f"{late}; to go on:\n  {_command(given)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print(f"interrupted; finished jobs are saved; to go on:\n  {_command(given)}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m refimpl.experiments", description=__doc__, formatter_class=raw, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="names of the experiments, and which have a record")
    run = commands.add_parser("run", help="run one experiment and write its record", allow_abbrev=False)
    run.add_argument("name")
    run.add_argument("--scale", choices=SCALES, default="full", help="how long to run (default: full)")
    run.add_argument("--seeds", type=int, default=None, help="number of seeds (default: the experiment's own)")
    run.add_argument("--optimizer", nargs="+", default=None, metavar="METHOD", help="only the jobs of these methods")
    run.add_argument("--seed", nargs="+", type=int, default=None, metavar="SEED", help="only the jobs of these seeds")
    run.add_argument("--device", default="cpu", help="cpu or cuda (cuda needs Torch)")
    run.add_argument("--workers", type=int, default=1, help="jobs at a time, each in its own process (default: 1)")
    run.add_argument("--time-limit", type=float, default=None, metavar="SECONDS", help="begin no job after this long")
    run.add_argument("--out", type=Path, default=None, help="folder of the record (default: data/results)")
    check = commands.add_parser(
        "check", help="say of each record whether it is whole and what its experiment would record today"
    )
    check.add_argument("names", nargs="*", metavar="NAME", help="default: every record in the folder")
    check.add_argument("--out", type=Path, default=None, help="folder of the records (default: data/results)")
    show = commands.add_parser("show", help="print a record's settings, provenance and final losses")
    show.add_argument("name")
    add_command(commands)
    return parser


def _command(given: Sequence[str]) -> str:
    return shlex.join(["python", "-m", "refimpl.experiments", *given])


def _list(_: argparse.Namespace) -> int:
    for name, experiment in EXPERIMENTS.items():
        recorded = "recorded" if (results_folder() / f"{name}.json").is_file() else "no record"
        print(f"{name:28s} {recorded:10s} {experiment.summary}")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    _known(chosen.name)
    path = EXPERIMENTS[chosen.name].record(
        chosen.out or results_folder(),
        scale=chosen.scale,
        seeds=chosen.seeds,
        device=chosen.device,
        workers=chosen.workers,
        optimizers=chosen.optimizer,
        only_seeds=chosen.seed,
        time_limit=chosen.time_limit,
    )
    print(f"wrote {path}")
    return 0


def _check(chosen: argparse.Namespace) -> int:
    folder = chosen.out or results_folder()
    for name in chosen.names:
        _known(name)
    there = sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))
    verdicts = {name: verdict(name, EXPERIMENTS.get(name), folder) for name in chosen.names or there}
    for name, found in verdicts.items():
        print(f"{name:28s} {found}")
    if not verdicts:
        raise ValueError(f"there are no records in {folder}")
    return 0 if all(found == "ok" for found in verdicts.values()) else 1


def _known(name: str) -> None:
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}; choose one of {sorted(EXPERIMENTS)}")


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
