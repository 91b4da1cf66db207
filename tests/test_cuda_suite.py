"""The command for a machine with a GPU: what it runs, what counts as a failure, what it writes; and what it found.

Oracle: stages that are programs of one line, whose outcome is known; a device without a hash, as CuPy's.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from refimpl.arrays import Backend, get_backend, widened
from refimpl.optimizers.groups import matrix_mask

PATH = Path(__file__).resolve().parent.parent / "tools" / "cuda_suite.py"
_SPEC = importlib.util.spec_from_file_location("cuda_suite", PATH)
suite = importlib.util.module_from_spec(_SPEC)
sys.modules["cuda_suite"] = suite
_SPEC.loader.exec_module(suite)


def program(text, seconds=30.0, module="json"):
    return suite.Stage("stage", (sys.executable, "-c", text), module, seconds)


def outcome(*arguments, **options):
    return suite.run_stage(program(*arguments, **options), echo=lambda text: None)


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("print('3 passed, 1 skipped in 0.1s')", "passed", "3 passed"),
        ("print('== 2 passed, 1 failed in 0.1s =='); raise SystemExit(1)", "failed", "1 failed"),
        ("print('4 skipped in 0.1s')", "failed", "nothing"),
        ("print('no tests ran'); raise SystemExit(5)", "failed", "nothing"),
        ("print('0 of 0 comparisons agree')", "failed", "nothing"),
        ("print('22 of 22 comparisons agree')", "passed", "22 of 22"),
        ("print('no tests collected (3 deselected)'); raise SystemExit(5)", "failed", "nothing"),
        ("print('4/9 tests collected (5 deselected) in 1s')", "passed", "4/9"),
        ("raise SystemExit('error: none of the backends is here')", "failed", "none of the backends"),
        ("", "passed", "no output"),
    ],
)
def test_status_of_a_stage(text, status, says):
    found = outcome(text)
    assert found.status == status
    assert says in found.summary


def test_a_stage_that_takes_too_long_fails_and_a_missing_library_skips():
    late = outcome("import time; print('begun', flush=True); time.sleep(60)", seconds=1.0)
    assert late.status == "failed"
    assert "not done" in late.summary
    assert "begun" in late.summary
    for module in ("no_such_library", "no_such_library.inside"):
        absent = outcome("", module=module)
        assert (absent.status, module in absent.summary) == ("skipped", True)


def test_stages_see_the_package_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "refimpl" in outcome("import refimpl; print(refimpl.__file__)").summary


def test_the_tests_of_a_gpu_are_those_with_its_mark():
    commands = {stage.name: stage.command for stage in suite.stages(dry=False, workers=1)}
    tests = commands["gpu tests"]
    assert tests[:3] == (sys.executable, "-m", "pytest")
    assert tests[tests.index("-m", 3) + 1] == "gpu"
    assert "tests" in tests
    assert any("cupy" in command for command in commands.values())
    assert sum(stage.seconds for stage in suite.stages(dry=False, minutes=9.0)) <= 9 * 60
    assert all(stage.command[0] == sys.executable for stage in suite.stages(dry=True))


def run(statuses, arguments=("--dry",), device=lambda: None):
    found = iter(statuses)
    seen = []

    def fake(stage):
        seen.append(stage)
        return suite.Outcome(stage.name, next(found, "passed"), 1.0, "said")

    return suite.main(list(arguments), run=fake, device=device), seen


def test_without_a_device_it_says_so_and_ends_well(capsys):
    status, seen = run([], ())
    assert status == 0
    assert [s.name for s in seen] == [s.name for s in suite.stages(dry=True)]
    said = capsys.readouterr().out
    assert "there is no CUDA device here" in said
    assert "dry run, no GPU" in said


def test_with_a_device_everything_runs_and_the_report_names_it(tmp_path, capsys):
    status, seen = run(["passed", "skipped"], ("--out", str(tmp_path / "report")), lambda: "Test device")
    assert status == 0
    assert [s.name for s in seen] == [s.name for s in suite.stages(dry=False)]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["dry"] is False
    assert report["provenance"]["device"] == "Test device"
    assert {"versions", "commit", "date", "python"} <= set(report["provenance"])
    assert [row["status"] for row in report["stages"]][:2] == ["passed", "skipped"]
    assert "| gpu tests | passed |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Test device" in capsys.readouterr().out


def test_one_failure_is_enough():
    assert run(["passed", "failed"])[0] == 1
    assert run(["passed", "failed"], (), lambda: "Test device")[0] == 1


def test_wrong_requests(capsys, monkeypatch):
    assert run([], ("--minutes", "0"))[0] == 2
    monkeypatch.setattr(suite, "NEEDED", ("numpy", "no_such_library"))
    assert run([])[0] == 2
    assert "no_such_library" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_the_network_in_array_code(name, capsys):
    assert suite.network(name) == 0
    assert "3 of 3 comparisons agree" in capsys.readouterr().out


def test_the_network_stage_sees_a_difference(monkeypatch, capsys):
    from refimpl.problems.mlp_evaluation import MLPEvaluation

    plain = MLPEvaluation.hvp
    monkeypatch.setattr(
        MLPEvaluation, "hvp", lambda self, v: plain(self, v) * (1.0 + 1e-9 * (type(v).__name__ == "Tensor"))
    )
    assert suite.network("torch") == 1
    assert "2 of 3" in capsys.readouterr().out


class Unhashable:
    """A device as CuPy's: it can be compared and printed, and has no hash."""

    __hash__ = None

    def __eq__(self, other):
        return isinstance(other, Unhashable)

    def __repr__(self):
        return "<CUDA Device 0>"


def test_a_backend_can_be_looked_up_whatever_its_device():
    plain = get_backend("numpy", "float32")
    first, second = (Backend("numpy", plain.xp, Unhashable(), plain.dtype) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert {first: 1}[second] == 1


def test_sums_in_float64_where_the_device_has_no_hash(monkeypatch):
    from refimpl import arrays

    plain = get_backend("numpy", "float32")
    odd = Backend("numpy", plain.xp, Unhashable(), plain.dtype)
    monkeypatch.setattr(arrays, "backend_of", lambda a: odd)
    monkeypatch.setattr(arrays, "get_backend", lambda name, dtype, device: odd)
    assert widened(np.ones(2, dtype=np.float32)).dtype == np.float64


def test_cached_masks_are_found_again():
    backend = get_backend("torch", "float32")
    assert matrix_mask(((2, 3), (3,)), backend) is matrix_mask(((2, 3), (3,)), get_backend("torch", "float32"))


def test_a_library_that_cannot_be_loaded_is_a_value_error(monkeypatch):
    from refimpl import arrays

    def broken(name):
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(arrays.importlib, "import_module", broken)
    with pytest.raises(ValueError, match=r"cannot be loaded: libcuda"):
        get_backend("numpy")
