"""``python -m refimpl.bench [G1 hvp …]``: measure the goals and say which are met."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Before any array library is loaded: every ratio is taken on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tqdm import tqdm

from refimpl.bench import cards, goals
from refimpl.bench.report import Session, as_json, measure, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``arguments`` and run: 0 where every goal that ran is met, 1 where one is not, 2 for a wrong request."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _card(words[1:]) if words[:1] == ["cards"] and len(words) > 1 and words[1][0] != "-" else _bench(words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _bench(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m refimpl.bench", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"goals (G1 …) or sections: {', '.join(goals.sections())}")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="the same")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each timing, at least 5 (default)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run, do the routes agree?")
    parser.add_argument("--goals-only", action="store_true", help="without the tables beside the goals")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    for name in ("batch", "count", "chunk"):
        parser.add_argument(f"--{name}", type=int, help="rows of a minibatch" if name == "batch" else "seeds")
    parser.add_argument("--net", choices=("resnet18", "convnet"), help="of the section hvp (default resnet18)")
    parser.add_argument("--bn", choices=("train", "eval", "none"), help="its BatchNorm (default train)")
    parser.add_argument("--k", type=_numbers, metavar="K[,K]", help="products at a place (hvp), unknowns (trs)")
    parser.add_argument("--budget", type=_numbers, metavar="B[,B]", help="products (quality)")
    chosen = parser.parse_args(words)
    knobs = {name: getattr(chosen, name) for name in ("batch", "count", "chunk", "net", "bn", "k", "budget")}
    knobs = {name: value for name, value in knobs.items() if value is not None}
    wanted, tables = goals.chosen([*chosen.names, *chosen.only])
    if chosen.goals_only:
        tables = []
    _check_device(chosen.device)
    session = Session(chosen.device, chosen.repeats, chosen.quick, knobs)
    begin, outcomes = time.perf_counter(), []
    with tqdm(wanted, disable=None) as bar:
        for goal in bar:
            bar.set_description(goal.id)
            outcomes.append(measure(goal, session))
    print(table(outcomes))
    failed = any(outcome.verdict == "✗" for outcome in outcomes)
    failed = _tables(tables, session) or failed
    seconds = time.perf_counter() - begin
    print(f"\nall in {seconds:.0f} s")
    if chosen.json is not None:
        chosen.json.write_text(as_json(outcomes, device=chosen.device, quick=chosen.quick, seconds=seconds) + "\n")
    return int(failed)


def _tables(tables: Sequence[goals.Table], session: Session) -> bool:
    """Print the tables; whether one of them is not what it must be."""
    failed = False
    for one in tables:
        session.lines = []
        problem = ""
        for run in one.runs:
            try:
                run(session)
            except ValueError as error:
                problem, failed = f"✗ {error}", True
        if one.runs:
            print(
                "\n".join([f"\n{one.name}: {one.summary}", *(f"  {line}" for line in session.lines), problem]).rstrip()
            )
    return failed


def _card(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m refimpl.bench cards", description=cards.__doc__)
    parser.add_argument("name", choices=sorted(cards.LIMITS))
    parser.add_argument("--device", default="cpu", help="cuda, or cpu for the small twin (default)")
    parser.add_argument("--out", type=Path, help="folder of the record (default: data/results)")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS", help="less than the card's own")
    chosen = parser.parse_args(words)
    _check_device(chosen.device)
    path = cards.record_card(chosen.name, chosen.device, chosen.out, chosen.time_limit)
    print(f"wrote {path}")
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    if not device.startswith("cuda"):
        raise ValueError(f"unknown device {device!r}; choose cpu or cuda")
    import torch

    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; leave --device away")


if __name__ == "__main__":
    sys.exit(main())
