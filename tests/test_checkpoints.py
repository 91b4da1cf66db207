"""A job stopped in the middle goes on from there, and ends as if it had not been stopped.

Oracles: processes that are really killed (SIGKILL, which nothing can catch) at a chosen step and at random instants,
compared bit for bit with a run that was left alone; readers that read all the time while a writer is killed.
"""

import json
import random
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from experiment_cases import Sleepers, Walk, measured, short_pause, started

from refimpl.experiments import checkpoints, runner
from refimpl.experiments.checkpoints import Checkpoint, TimeUp, checkpoint_path
from refimpl.experiments.records import read_record

SETTINGS = {"steps": 3, "rate": 0.1}


class State(NamedTuple):
    """A payload such as a method's state."""

    place: np.ndarray
    rng: np.random.Generator
    rows: list


def uninterrupted(folder):
    """The record of the walks when nothing happens."""
    Walk().record(folder / "whole")
    return measured(read_record("walk", folder / "whole"))


# -- the file ---------------------------------------------------------------------------------------------------------


def test_payload_comes_back_without_torch(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    checkpoint, rng = Checkpoint(tmp_path / "new" / "c", SETTINGS), np.random.default_rng(1)
    rng.random(5)
    checkpoint.save(State(np.arange(3.0) / 7, rng, [{"loss": 1 / 3, "step": 2}]))
    found = Checkpoint(tmp_path / "new" / "c", SETTINGS).load()
    assert b'"format": "pickle"' in checkpoint.path.read_bytes()
    assert isinstance(found, State)
    assert (found.place.tolist(), found.rows) == ((np.arange(3.0) / 7).tolist(), [{"loss": 1 / 3, "step": 2}])
    assert found.rng.random(4).tolist() == rng.random(4).tolist()


def test_payload_comes_back_with_torch(tmp_path):
    torch = pytest.importorskip("torch")
    base, generator = torch.arange(6, dtype=torch.float32) / 7, torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    checkpoint = Checkpoint(tmp_path / "c", SETTINGS)
    checkpoint.save({"base": base, "view": base[2:4], "random": generator.get_state(), "rng": np.random.default_rng(2)})
    found = checkpoint.load()
    assert b'"format": "torch"' in checkpoint.path.read_bytes()
    assert torch.equal(found["base"], base)
    found["base"][2] = 99.0  # tensors that shared memory still do
    assert found["view"][0] == 99.0
    again = torch.Generator()
    again.set_state(found["random"])
    assert torch.equal(torch.rand(4, generator=again), torch.rand(4, generator=generator))
    assert found["rng"].random() == np.random.default_rng(2).random()


def test_nothing_is_loaded_where_there_is_none_or_it_is_of_other_settings(tmp_path, monkeypatch, recwarn):
    checkpoint = Checkpoint(tmp_path / "c", SETTINGS)
    assert checkpoint.load() is None
    checkpoint.save("payload")
    assert Checkpoint(tmp_path / "c", SETTINGS | {"rate": 0.2}).load() is None
    assert Checkpoint(tmp_path / "c", {"rate": 0.1, "steps": 3}).load() == "payload"  # the order is no setting
    monkeypatch.setattr(checkpoints, "SCHEMA", checkpoints.SCHEMA + 1)
    assert Checkpoint(tmp_path / "c", SETTINGS).load() is None
    monkeypatch.undo()
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None
    assert not recwarn.list


def test_a_key_that_is_a_number_is_the_same_setting_after_json(tmp_path):
    settings = {"seeds": {10: 1, 9: (1, 2)}}
    Checkpoint(tmp_path / "c", settings).save("payload")
    assert Checkpoint(tmp_path / "c", json.loads(json.dumps(settings))).load() == "payload"


@pytest.mark.parametrize("kept", [0, 1, 30, 200, -1, "flipped", "other"])
def test_a_damaged_file_counts_as_none(tmp_path, kept):
    checkpoint = Checkpoint(tmp_path / "c", SETTINGS)
    checkpoint.save(list(range(100)))
    whole = checkpoint.path.read_bytes()
    flipped = whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:]
    checkpoint.path.write_bytes({"flipped": flipped, "other": b"[1]\n"}.get(kept) or whole[: kept or 0])
    with pytest.warns(UserWarning, match=r"c cannot be read and is not used: "):
        assert checkpoint.load() is None
    checkpoint.save("again")
    assert checkpoint.load() == "again"


def test_jobs_have_files_of_their_own(tmp_path):
    jobs = ["a/b", "a%2Fb", "a b", "A/b", "a/../b", "x" * 300, "x" * 299 + "y", "{'rate': 1}", "é" * 100]
    paths = {checkpoint_path(tmp_path, "e", job) for job in jobs}
    assert len(paths) == len(jobs)
    for path in paths:
        assert path.parent == tmp_path
        path.write_bytes(b"")  # the file system takes the name
        assert path.match(".e.*.checkpoint")


# -- when -------------------------------------------------------------------------------------------------------------


def test_when_it_is_due(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "c", SETTINGS, every=60.0, until=1100.0)
    seen = []
    for instant in (1059.0, 1060.0, 1119.0):
        now[0] = instant
        seen.append((checkpoint.due(), checkpoint.time_is_up()))
        if instant == 1060.0:
            checkpoint.save(1)
            assert not checkpoint.due()
            checkpoint.check_time()
    assert seen == [(False, False), (True, False), (True, True)]
    with pytest.raises(TimeUp):
        checkpoint.keep(lambda: "last")
    assert checkpoint.load() == "last"
    endless = Checkpoint(tmp_path / "d", SETTINGS)
    endless.keep(lambda: pytest.fail("not due"))
    now[0] = 1e9
    endless.check_time()


def test_a_negative_interval_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"at least 0, got -1"):
        Checkpoint(tmp_path / "c", SETTINGS, every=-1)


# -- killed -----------------------------------------------------------------------------------------------------------

WRITER = """
from refimpl.experiments.checkpoints import Checkpoint
from refimpl.experiments.records import write_record
checkpoint, number = Checkpoint(Path({folder!r}) / "c", {{}}), 0
while True:
    number += 1
    checkpoint.save([number] * 20_000)
    write_record(Path({folder!r}) / "r.json", {{"numbers": [number] * 5_000}})
"""


def test_a_reader_never_sees_half_a_file(tmp_path):
    seen = set()
    for _ in range(2):
        writer = started(WRITER, folder=str(tmp_path))
        stop = time.monotonic() + 60
        checkpoint, record = Checkpoint(tmp_path / "c", {}), tmp_path / "r.json"
        before = len(seen)
        try:
            while time.monotonic() < stop and (len(seen) < before + 4 or random.random() < 0.5):
                if not record.exists():
                    time.sleep(0.01)
                    continue
                with warnings.catch_warnings(action="error"):
                    for numbers in (checkpoint.load(), json.loads(record.read_text())["numbers"]):
                        assert len(numbers) in (20_000, 5_000)
                        assert len(set(numbers)) == 1
                        seen.add(numbers[0])
            time.sleep(random.random() / 100)
        finally:  # it would write for ever
            writer.kill()
        assert writer.wait() == -signal.SIGKILL, writer.stderr.read()
        writer.stderr.close()
        assert checkpoint.load() is not None
    assert len(seen) >= 8


def test_a_job_goes_on_where_it_was_killed(tmp_path):
    killed = started(
        "from experiment_cases import Walk\nWalk(die=('plane/left/1', 37)).record(Path({folder!r}))",
        folder=str(tmp_path),
    )
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, said
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".walk.partial.json", ".walk.plane%2Fleft%2F1.checkpoint",
    ]  # fmt: skip
    left_behind = [".walk.gone.checkpoint", ".walk.json.123.tmp", ".walk.plane%2Fleft%2F1.checkpoint.123.tmp"]
    for name in [*left_behind, ".walker.a.checkpoint"]:  # by writers that were killed, and of another experiment
        (tmp_path / name).write_text("half")
    again = Walk()
    again.record(tmp_path)
    assert again.began == [("plane/left/1", 30), ("plane/right/0", 0), ("plane/right/1", 0)]
    assert measured(read_record("walk", tmp_path)) == uninterrupted(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [".walker.a.checkpoint", "walk.json"]


def test_killed_again_and_again_at_any_instant(tmp_path):
    text = "from experiment_cases import Walk, short_pause\nWalk(pause=short_pause).record(Path({folder!r}))"
    for _ in range(2):
        process, stop = started(text, folder=str(tmp_path)), time.monotonic() + 60
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        while {path: path.stat().st_mtime_ns for path in tmp_path.glob(".walk.*t")} == before:
            assert time.monotonic() < stop
            time.sleep(0.01)
        time.sleep(0.5 * random.random())
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
        process.stderr.close()
    again = Walk()
    again.record(tmp_path)
    assert again.began[0] != ("plane/left/0", 0)
    assert measured(read_record("walk", tmp_path)) == uninterrupted(tmp_path)
    assert [path.name for path in tmp_path.glob("*.*")] == ["walk.json"]


def test_other_settings_or_data_begin_the_job_anew(tmp_path):
    for walk in (Walk(steps=61), Walk(variant="other data")):
        with pytest.raises(TimeUp):
            Walk().record(tmp_path, time_limit=1e-9)
        path = checkpoint_path(tmp_path, "walk", "plane/left/0")
        Checkpoint(path, {"device": "cpu", "scale": "full", "steps": 60}).save("of 60 steps")
        walk.record(tmp_path)
        assert walk.began[0] == ("plane/left/0", 0)
        assert read_record("walk", tmp_path).get("data") == walk.variant


# -- the time limit ---------------------------------------------------------------------------------------------------


def test_the_time_limit_stops_in_the_middle(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def one_second():
        now[0] += 1.0

    first = Walk(pause=one_second)
    with pytest.raises(TimeUp, match=r"1 of 4 jobs are done"):
        first.record(tmp_path, time_limit=83.0)  # 60 steps of the first job and 23 of the second
    assert not (tmp_path / "walk.json").exists()
    second = Walk(pause=one_second)
    with pytest.raises(TimeUp, match=r"2 of 4 jobs are done"):
        second.record(tmp_path, time_limit=37.0)  # the rest of the second, and the third is not begun
    third = Walk()
    third.record(tmp_path)
    assert (first.began, second.began, third.began) == (
        [("plane/left/0", 0), ("plane/left/1", 0)],
        [("plane/left/1", 23)],
        [("plane/right/0", 0), ("plane/right/1", 0)],
    )
    assert measured(read_record("walk", tmp_path)) == uninterrupted(tmp_path)


def test_the_time_limit_with_workers(tmp_path):
    with pytest.raises(TimeUp, match=r"0 of 4 jobs are done"):
        Walk(steps=500, pause=short_pause).record(tmp_path, workers=2, time_limit=1.0)
    begun = sorted(path.name for path in tmp_path.iterdir())
    assert begun == [".walk.plane%2Fleft%2F0.checkpoint", ".walk.plane%2Fleft%2F1.checkpoint"]
    again = Walk(steps=500, every=60.0)
    again.record(tmp_path)
    assert [0 < step < 500 for _, step in again.began] == [True, True, False, False]
    Walk(steps=500, every=60.0).record(tmp_path / "whole")
    assert measured(read_record("walk", tmp_path)) == measured(read_record("walk", tmp_path / "whole"))


def test_no_job_is_begun_after_the_time_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))
    sleepers = Sleepers()
    with pytest.raises(TimeUp, match=r"2 of 6 jobs are done"):  # those that were begun are waited for
        sleepers.record(tmp_path, seeds=6, workers=2, time_limit=1.0)
    assert sorted(sleepers.ran) == ["a", "b"]


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_a_time_limit_that_is_none_is_refused(tmp_path, limit):
    with pytest.raises(ValueError, match="positive number of seconds"):
        Walk().record(tmp_path, time_limit=limit)
