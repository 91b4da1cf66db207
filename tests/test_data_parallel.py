"""Two processes that share the rows of a problem, against one process that has them all.

Oracle: the same problem alone, on every row, which knows nothing of processes. Rows are odd in number, so that shares
differ and a mean of means would be another number: that it would be noticed is tested as well.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from refimpl.experiments import data_parallel_demo
from refimpl.problems.data_parallel import DataParallelProblem

sys.path.insert(0, str(Path(__file__).resolve().parent))
import data_parallel_worker as worker

HERE = Path(__file__).resolve().parent
PROCESSES = 2
pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this Torch has no Gloo process groups"
)


def environment():
    """One thread each, and the loopback interface: no network is needed."""
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    path = os.pathsep.join(part for part in (str(HERE.parent), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **loopback}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each process found; they are started once for all tests."""
    folder = tmp_path_factory.mktemp("processes")
    logs = [open(folder / f"{rank}.log", "w") for rank in range(PROCESSES)]  # noqa: SIM115
    running = [
        subprocess.Popen(
            [sys.executable, str(HERE / "data_parallel_worker.py"), str(rank), str(PROCESSES), str(folder)],
            env=environment(), stdout=logs[rank], stderr=subprocess.STDOUT,
        )
        for rank in range(PROCESSES)
    ]  # fmt: skip
    try:
        ended = [process.wait(timeout=300) for process in running]
    finally:
        for process, log in zip(running, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    said = "\n".join((folder / f"{rank}.log").read_text() for rank in range(PROCESSES))
    if any(ended) and ("gloo" in said.lower() and "interface" in said.lower()):
        pytest.skip(f"processes cannot meet on this machine: {said.strip().splitlines()[-1]}")
    assert ended == [0] * PROCESSES, said
    files = [folder / f"{rank}.npz" for rank in range(PROCESSES)]
    return [{**np.load(file), "said": file.with_suffix(".log").read_text()} for file in files]


@pytest.fixture(scope="module")
def alone():
    """What one process finds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield worker.everything(lambda problem: problem)
    torch.set_num_threads(threads)


def differing(found, expected, tolerance=1e-10):
    """The names whose values differ by more than ``tolerance`` of the largest entry."""
    return {
        name
        for name, value in expected.items()
        if found[name].shape != value.shape
        or not np.abs(found[name] - value).max() <= tolerance * max(1e-3, np.abs(value).max())
    }


def test_every_process_answers_as_one_alone(told, alone):
    assert {name.split("/")[0] for name in alone} == {*worker.PROBLEMS, "method", "losses", "work"}
    for found in told:
        assert differing(found, alone) == set()


def test_every_process_takes_the_same_steps_bit_for_bit(told):
    for name in (key for key in told[0] if key.startswith(("method/", "losses/", "work/"))):
        np.testing.assert_array_equal(told[0][name], told[1][name])


def test_a_product_counts_as_one_product(told, alone):
    for name in (key for key in alone if key.startswith("work/") or key.endswith("/counts")):
        np.testing.assert_array_equal(told[1][name], alone[name], err_msg=name)


def test_shares_that_count_alike_are_noticed(told, alone):
    # Five rows and six: a mean of their means is not the mean, but what stays in output space needs no weight.
    expected = {name.removeprefix("full-batch/"): value for name, value in alone.items() if "full-batch/" in name}
    found = {name.removeprefix("broken/"): value for name, value in told[0].items() if "broken/" in name}
    wrong = differing(found, {name: expected[name] for name in found}, 1e-3)
    assert wrong == {"loss", "gradient", "hvp", "ggnvp", "output_gradient", "output_hvp", "loss_at", "beside",
                     "loss_of_all"}  # fmt: skip


def test_refused_on_every_process(told):
    messages = {
        "one row": "at least so many rows each time, got 1",
        "other data": "must build the same problem",
        "other order": "must build the same problem",
        "other length": "must build the same problem",
        "batch norm": "SyncBatchNorm",
        "batch norm later": "call its eval()",
        "sample": "from problem.draw, got list",
        "short sample": "the sample has 1",
    }
    for found in told:
        refused = dict(found["refusals"].tolist())
        assert refused.keys() == messages.keys()
        assert {name: refused[name] for name, part in messages.items() if part not in refused[name]} == {}


def test_a_group_has_its_own_processes(told, alone):
    np.testing.assert_allclose(told[0]["group"], alone["full-batch/gradient"], rtol=0, atol=1e-12)
    assert "not in the group" in str(told[1]["group"])


def test_all_start_where_the_first_does(told):
    expected = np.random.default_rng(0).standard_normal(len(told[0]["start"]))
    for found in told:
        np.testing.assert_array_equal(found["start"], expected)


def test_places_that_drift_apart_are_noticed(told):
    assert [float(found["spread"]) for found in told] == [0.5, 0.5]


def test_without_processes():
    with pytest.raises(ValueError, match="init_process_group"):
        DataParallelProblem(worker.network())
    with pytest.raises(ValueError, match="TorchProblem, got float"):
        DataParallelProblem(1.0)


def test_the_demonstration_agrees_with_one_process(told):
    lines = str(told[0]["said"]).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  step")] == ["0", "1", "2", "3"]
    checksum = lines[-2].replace(",", "").split()
    assert checksum[3] == checksum[6]
    assert "spread between processes 0.0e+00" in lines[-1]


def test_the_demonstration_without_torchrun(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    assert data_parallel_demo.main([]) == 2
    assert "torchrun" in capsys.readouterr().err
