"""Golden vectors and the derivative check for readers' own problems.

Oracles: the generator in tools/, which computes every vector again in 60 digits from definitions; and bugs planted on
purpose, each of which the derivative check has to name and the golden vectors have to notice. The vectors of the
series have a file of their own: test_verify_series.py.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from golden_vectors import generator

from refimpl.arrays import get_backend
from refimpl.oracle import Problem
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.losses import HalfMeanSquaredError
from refimpl.problems.mlp import MLP
from refimpl.problems.toy import DoubleWell, Rosenbrock
from refimpl.verify import (
    GoldenMismatch,
    OracleCheckFailed,
    check_implementation,
    check_oracle,
    check_oracle_functions,
)
from refimpl.verify import __main__ as command
from refimpl.verify.golden import CALLS, Case, cases, relative_error, run_case

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ["curveball", "elmo", "kryball", "methods", "networks", "problems", "series", "spectrum"]


@pytest.fixture(scope="module")
def regenerated():
    """Every file of vectors, computed now."""
    return generator("golden").files()


# -- golden vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_stored_vectors_are_those_the_generator_gives(group, regenerated):
    stored = json.loads((ROOT / "refimpl" / "verify" / "vectors" / f"{group}.json").read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(regenerated[group]))
    assert [case["id"] for case in stored["cases"]] == [case["id"] for case in fresh["cases"]]
    for old, new in zip(stored["cases"], fresh["cases"], strict=True):
        assert {**old, "expected": None} == {**new, "expected": None}
        assert relative_error(old["expected"], new["expected"]) <= 1e-15, old["id"]


def test_groups_are_the_files_the_generator_writes(regenerated):
    assert sorted(regenerated) == GROUPS == sorted({case.group for case in cases()})


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_package_gives_the_golden_answer(case, backend):
    outcome = run_case(case, backend)
    assert outcome.passed, f"{outcome.problem or outcome.error} (allowed {outcome.tolerance})"


def test_every_case_has_a_source_and_every_call_a_case():
    assert all(case.source for case in cases())
    assert {case.call for case in cases()} == set(CALLS)
    assert len({case.id for case in cases()}) == len(cases())


def test_every_call_is_explained():
    readme = (ROOT / "refimpl" / "verify" / "vectors" / "README.md").read_text(encoding="utf-8")
    assert not [call for call in CALLS if f"| `{call}` |" not in readme]


def test_vectors_that_the_readme_names_exist():
    readme = (ROOT / "refimpl" / "verify" / "vectors" / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"`([a-z0-9-]+)`", readme[readme.index("## What a missed") :])
    assert len(names) >= 15
    assert not set(names) - {case.id.split("/")[1] for case in cases("series")}


def test_tolerances_are_tight():
    # A vector that anything would meet is worth nothing.
    assert max(case.rtol for case in cases()) <= 1e-11
    assert max(case.rtol_float32 for case in cases()) <= 1e-2


@pytest.mark.parametrize(
    ("answer", "expected", "error"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.0, 3.0], [0.0, 0.0], 3.0),
        ([1.0, None], [1.0, None], 0.0),
        ([1.0, 1.0], [1.0, None], np.inf),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, np.inf], [1.0, 2.0], np.inf),
        ([1.0, 1.0, 1.0], [1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ({"a": 1.0, "b": 2.0}, {"b": 4.0}, 0.5),
        ({"a": 1.0}, {"b": 4.0}, np.inf),
    ],
)
def test_relative_error(answer, expected, error):
    assert relative_error(answer, expected) == error


# -- the command ------------------------------------------------------------------------------------------------------


def test_command_prints_a_table(capsys):
    assert command.main(["--only", "spectrum", "--backend", "numpy"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["relative", "error", "numpy", "f64", "numpy", "f32"]
    assert len({len(line) for line in printed[:12]}) == 1
    assert printed[-1] == "22 of 22 comparisons agree"


def test_command_names_backends_that_are_not_here(capsys, monkeypatch):
    absent = command.Column("cupy f64", "cupy", "float64", "no such device")
    monkeypatch.setattr(command, "COLUMNS", (command.COLUMNS[0], absent))
    assert command.main(["--only", "spectrum"]) == 0
    assert "not here: cupy f64 (backend 'cupy'" in capsys.readouterr().out


def test_command_prints_json(capsys):
    assert command.main(["--only", "spectrum", "--backend", "numpy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["passed"] for row in found["outcomes"]} == {True}


def test_command_fails_when_an_answer_is_wrong(capsys, monkeypatch):
    monkeypatch.setitem(CALLS, "absolute", lambda backend, matrix: backend.asarray(matrix))
    monkeypatch.setitem(CALLS, "eigenvalues", lambda backend, matrix: 1 / 0)
    assert command.main(["--only", "spectrum", "--backend", "numpy"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL spectrum/absolute on numpy f64: relative error 1." in printed
    assert "FAIL spectrum/eigenvalues on numpy f32: ZeroDivisionError" in printed
    assert printed.endswith("18 of 22 comparisons agree\n")


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--backend", "jax"]])
def test_command_refuses_what_it_does_not_know(arguments, capsys):
    assert command.main(arguments) == 2
    assert "choose one of" in capsys.readouterr().err


# -- a reader's own function ------------------------------------------------------------------------------------------


def own_direction(matrix, gradient, mode="none", damping=0.0, threshold=0.0, replacement=None):
    values, basis = np.linalg.eigh(matrix)
    if mode == "none":
        size = np.where(np.abs(values) <= max(threshold, 1e-12), replacement or np.inf, np.abs(values))
    else:
        rules = {
            "abs": np.abs(values) + damping,
            "square": np.hypot(values, damping),
            "shift": np.abs(values + damping),
        }
        size = rules[mode]
    return basis @ ((basis.T @ gradient) / size)


def test_own_function_that_is_right():
    outcomes = check_implementation("saddle_free_direction", own_direction)
    assert len(outcomes) == 9
    assert all(o.passed for o in outcomes)


def test_own_function_that_is_wrong():
    def damps_the_wrong_matrix(matrix, gradient, mode="none", damping=0.0, **rule):
        return own_direction(matrix, gradient, mode="shift" if mode == "abs" else mode, damping=damping, **rule)

    with pytest.raises(GoldenMismatch, match=r"1 of 9 golden vectors are missed:\n  spectrum/direction-damped-abs"):
        check_implementation("saddle_free_direction", damps_the_wrong_matrix)


def test_outcome_with_nan_fails():
    case = Case("x/y", "eigenvalues", {"matrix": [[float("nan")]]}, [1.0], 1.0, 1.0, "")
    assert not run_case(case, get_backend()).passed


# -- check_oracle -----------------------------------------------------------------------------------------------------

SMALL = [case for case in CASES if not case.id.startswith("torch")]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_problem_of_the_table_passes(case, dtype):
    report = check_oracle(case.build(get_backend("numpy", dtype)), seed=3)
    assert len(report.checks) == (10 if case.has_outputs else 5)


def test_torch_module_passes():
    (case,) = [case for case in CASES if case.id == "torch-batch-norm"]
    assert check_oracle(case.build(get_backend("torch")), directions=2).passed


class Broken(Problem):
    """x^4/4 summed, plus a coupling; one part replaced by a wrong one."""

    def __init__(self, **wrong):
        super().__init__(3)
        self.wrong = wrong

    def initial(self, rng):
        return self.backend.asarray([0.5, -1.25, 0.75])

    def evaluation(self, x, sample):
        parts = {
            "loss": lambda x: (x**4).sum() / 4 + x[0] * x[1],
            "gradient": lambda x: x**3 + np.array([x[1], x[0], 0.0]),
            "hessian": lambda x: np.diag(3 * x * x) + np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]),
            "hvp": lambda x, v: 3 * x * x * v + np.array([v[1], v[0], 0.0]),
        }
        return ClosedForm(x, **(parts | self.wrong))


def test_the_unbroken_problem_passes():
    assert check_oracle(Broken()).passed


@pytest.mark.parametrize(
    ("wrong", "check", "cause"),
    [
        ({"gradient": lambda x: -(x**3) - np.array([x[1], x[0], 0.0])}, "gradient", "the sign is wrong"),
        ({"gradient": lambda x: 2 * (x**3) + 2 * np.array([x[1], x[0], 0.0])}, "gradient", "2 times too large"),
        ({"gradient": lambda x: (x**3 + np.array([x[1], x[0], 0.0])) / 2}, "gradient", "a factor 2 is missing"),
        ({"gradient": lambda x: 7 * (x**3 + np.array([x[1], x[0], 0.0]))}, "gradient", "1/n of a mean"),
        ({"gradient": lambda x: x**3}, "gradient", "a term is missing"),
        ({"gradient": lambda x: 0 * x}, "gradient", "zero in every direction"),
        ({"gradient": lambda x: x * np.nan}, "gradient", "NaN"),
        ({"hvp": lambda x, v: -3 * x * x * v - np.array([v[1], v[0], 0.0])}, "hvp", "the sign is wrong"),
        ({"hvp": lambda x, v: 3 * x * x * v + np.array([v[1], v[0], v[0]])}, "hvp", "only the entries 2 are wrong"),
        ({"hvp": lambda x, v: 3 * x * x * v + np.array([v[1], 0.0, 0.0])}, "u·Hv = v·Hu", "no common factor"),
        ({"hessian": lambda x: np.eye(3)}, "dense Hessian", "no common factor"),
    ],
)
def test_bug_is_named(wrong, check, cause):
    with pytest.raises(OracleCheckFailed) as caught:
        check_oracle(Broken(**wrong))
    causes = [c.cause for c in caught.value.report.checks if c.name.startswith(check) and not c.passed]
    assert causes, str(caught.value)
    assert cause in causes[0]
    assert f"FAIL {causes[0]}" in str(caught.value)


def test_answer_that_changes_is_noticed():
    state = np.random.default_rng(0)
    noisy = Broken(gradient=lambda x: x**3 + np.array([x[1], x[0], 0.0]) + 1e-9 * state.standard_normal(3))
    with pytest.raises(OracleCheckFailed) as caught:
        check_oracle(noisy)
    assert "the same question twice" in [c.name for c in caught.value.report.checks if not c.passed]


class SumInsteadOfMean(HalfMeanSquaredError):
    def gradient(self, outputs, targets):
        return super().gradient(outputs, targets) * outputs.shape[-2]


class WrongCurvature(HalfMeanSquaredError):
    def curvature(self, outputs, targets):
        return lambda u: 2.0 * super(WrongCurvature, self).curvature(outputs, targets)(u)


def network(loss):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((7, 2)), rng.standard_normal(7)
    return MLP((2, 3, 1), *data, activation="tanh", loss=loss, initialization="torch")


def failures(problem):
    with pytest.raises(OracleCheckFailed) as caught:
        check_oracle(problem, seed=1)
    return {c.name: c.cause for c in caught.value.report.checks if not c.passed}


def test_missing_mean_is_named():
    found = failures(network(SumInsteadOfMean()))
    assert "1/n is missing (a sum over the 7 samples" in found["gradient against differences of the loss"]


def test_wrong_curvature_of_the_loss_is_noticed():
    found = failures(network(WrongCurvature()))
    assert "hvp against differences of the gradient" in found
    assert "2 times too large" in found["ggnvp against differences without the outputs' curvature"]


class SwappedPasses(DoubleWell):
    """The transposed Jacobian with a sign error."""

    def evaluation(self, x, sample):
        form = super().evaluation(x, sample)
        honest = form.vjp
        form.vjp = lambda u: -honest(u)
        return form


def test_vjp_that_is_not_the_transpose_is_noticed():
    assert failures(SwappedPasses())["u·Jv = v·Jᵀu"] == "the sign is wrong"


def test_bare_functions():
    report = check_oracle_functions(
        lambda x: np.cos(x).sum(), lambda x: -np.sin(x), lambda x, v: -np.cos(x) * v, [0.3, 1.0, -2.0]
    )
    assert [check.name for check in report.checks] == [
        "gradient against differences of the loss",
        "hvp against differences of the gradient",
        "u·Hv = v·Hu",
        "the same question twice",
    ]
    assert str(report).count(" ok") == 4


def test_bare_functions_that_are_wrong():
    with pytest.raises(OracleCheckFailed, match="the sign is wrong"):
        check_oracle_functions(lambda x: np.cos(x).sum(), np.sin, lambda x, v: np.cos(x) * v, [0.3, 1.0])


def test_place_is_the_one_asked_for():
    # At the minimum of the valley the gradient vanishes, and zero compared with zero must pass.
    assert check_oracle(Rosenbrock(), [1.0, 1.0]).passed
