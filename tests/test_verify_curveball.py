"""Golden vectors of CurveBall, and the check of a reader's own optimizer: deliberate slips must be named.

Oracles: the 60-digit numbers in tests/golden, computed by another program; the generator in tools/; NumPy and SciPy
versions of every call; and broken optimizers, whose cause the check has to find.
"""

import json
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse.linalg
from golden_vectors import generator, golden

from refimpl import get_backend
from refimpl.optimizers.base import Step
from refimpl.optimizers.curveball import CurveBall
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.toy import Rosenbrock
from refimpl.verify import GoldenMismatch, StepCheckFailed, check_curveball, check_implementation
from refimpl.verify.dense_curveball import DAMPING_SLIPS, SLIPS, damping_rule, step
from refimpl.verify.golden import cases, relative_error

GOLDEN = golden("curveball_kryball")
STORED = Path(__file__).resolve().parent.parent / "refimpl" / "verify" / "vectors" / "curveball.json"


# -- the vectors ------------------------------------------------------------------------------------------------------


def test_stored_vectors_are_those_the_generator_gives():
    tools, mp = generator("golden"), pytest.importorskip("mpmath")
    with mp.workdps(tools.DIGITS):
        fresh = tools.plain(generator("golden_curveball").curveball_cases())
    stored = json.loads(STORED.read_text(encoding="utf-8"))["cases"]
    assert [case["id"] for case in stored] == [case["id"] for case in fresh]
    for old, new in zip(stored, json.loads(json.dumps(fresh)), strict=True):
        assert {**old, "expected": None} == {**new, "expected": None}
        assert relative_error(old["expected"], new["expected"]) <= 1e-15, old["id"]


def from_elsewhere():
    """Case of the generator's functions -> the same quantity in tests/golden."""
    given = GOLDEN["curveball_linear_ls"]
    inputs = {
        "jacobian": given["A"], "output_hessian": (2 * np.eye(4)).tolist(),
        "output_gradient": [2 * r for r in given["residual"]], "step": given["z"], "damping": given["lambda"],
    }  # fmt: skip
    names = {"learning_rate": "beta", "momentum": "rho", "step": "z_new", "predicted_change": "model_damped"}
    plan = {
        "damped_2x2 (reference)": {}, "undamped_2x2 (eq 18 read literally)": {"system": "printed"},
        "first_step_z0": {"step": [0.0] * 3},
    }  # fmt: skip
    for key, change in plan.items():
        yield inputs | change, {name: given[key][theirs] for name, theirs in names.items()}
    fixed = given["fixed_rho0.9_beta0.01"]["z_new"]
    yield inputs | {"learning_rate": 0.01, "momentum": 0.9}, {"step": fixed}


@pytest.mark.parametrize(("inputs", "known"), list(from_elsewhere()), ids=["damped", "printed", "first", "fixed"])
def test_generator_and_dense_step_give_the_numbers_computed_elsewhere(inputs, known):
    tool, mp = generator("golden_curveball"), pytest.importorskip("mpmath")
    # The golden inputs are decimals, so float64 agrees to its precision only.
    with mp.workdps(60):
        found = generator("golden").plain(tool.step(**inputs))
    assert relative_error(found, known) < 1e-13
    assert relative_error(step(**inputs), known) < 1e-12


@pytest.mark.parametrize("case", GOLDEN["curveball_optimal_fixed_parameters"], ids=lambda case: str(case["kappa"]))
def test_best_parameters_of_the_generator_are_the_numbers_computed_elsewhere(case):
    tool, mp = generator("golden_curveball"), pytest.importorskip("mpmath")
    with mp.workdps(60):
        found = generator("golden").plain(tool.optimal_parameters(case["kappa"], "curveball"))
    wanted = {"momentum": "rho", "scaled_learning_rate": "beta_times_hmin", "rate": "rate"}
    assert relative_error(found, {key: case[name] for key, name in wanted.items()}) < 1e-15


# -- every call once more ---------------------------------------------------------------------------------------------


def own_plane(matrix, right):
    scale = np.sqrt(np.abs(np.diag(matrix)))
    scale[scale == 0] = 1.0
    values, q = np.linalg.eigh(matrix / np.outer(scale, scale))
    inverse = np.array([1 / abs(h) if abs(h) > 1e-6 else 0.0 for h in values])
    return q @ (inverse * (q.T @ (right / scale))) / scale


def own_cg(matrix, gradient, steps, start=None, stopping="residual"):
    z, size = np.zeros_like(gradient) if start is None else start, np.linalg.norm(gradient)
    bound = min(0.5, size**0.5) * size if stopping == "residual" else 0.0
    found = [z]
    keep = {"rtol": 0.0, "maxiter": steps, "callback": lambda x: found.append(x.copy())}
    scipy.sparse.linalg.cg(matrix, -gradient, x0=z, **keep)
    x = next((z for z in found if np.linalg.norm(gradient + matrix @ z) <= bound), found[-1])
    return {"x": x, "model": gradient @ x + 0.5 * x @ matrix @ x}


def own_matrix(momentum, scaled_rate, rule):
    keep = momentum - scaled_rate * (rule == "curveball")
    return np.moveaxis(np.array([[keep, -scaled_rate], [keep, 1 - scaled_rate]]), -1, 0)


OWN = {
    "curveball_step": step,
    "curveball_damping": damping_rule,
    "plane_minimizer": own_plane,
    "truncated_cg": own_cg,
    "transition_matrix": own_matrix,
    "spectral_radius": lambda **given: np.abs(np.linalg.eigvals(own_matrix(**given))).max(axis=-1),
}


@pytest.mark.parametrize("call", OWN)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_call_written_once_more_is_right(call, dtype):
    assert all(outcome.passed for outcome in check_implementation(call, OWN[call], dtype=dtype))


def test_dense_step_is_the_step_of_every_vector():
    # So that the causes are judged from a right answer.
    for case in cases("curveball"):
        if case.call == "curveball_step":
            assert relative_error(step(**case.inputs), case.expected) < 1e-12, case.id


# -- slips in a function ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_in_a_step_is_named_and_no_other(slip):
    with pytest.raises(GoldenMismatch) as caught:
        check_implementation("curveball_step", partial(step, slip=slip))
    assert str(caught.value).endswith(f"\nlikely cause: {SLIPS[slip]}")


@pytest.mark.parametrize("slip", [s for s in SLIPS if not s.startswith("prediction")])
def test_slip_shows_in_the_step_itself_unless_the_plane_is_the_same(slip):
    inputs = next(case for case in cases("curveball") if case.id == "curveball/step-other-loss").inputs
    if slip == "printed system damped":
        inputs = {**inputs, "system": "printed"}
    moved = relative_error(step(**inputs, slip=slip)["step"], step(**inputs)["step"])
    if slip == "damping not in dz":  # dz and dz - lam z span the same plane with z: only rho differs
        assert moved < 1e-12
        inputs = {**inputs, "momentum": 0.5}
        moved = relative_error(step(**inputs, slip=slip)["step"], step(**inputs)["step"])
    assert moved > 1e-3


@pytest.mark.parametrize("slip", DAMPING_SLIPS)
def test_slip_in_the_damping_rule_is_named(slip):
    with pytest.raises(GoldenMismatch, match="1 of 1 golden vectors") as caught:
        check_implementation("curveball_damping", partial(damping_rule, slip=slip))
    assert f"likely cause: {DAMPING_SLIPS[slip]}" in str(caught.value)


def test_what_is_no_slip_has_no_cause():
    with pytest.raises(GoldenMismatch) as caught:
        check_implementation("curveball_step", lambda **given: {**step(**given), "step": 1.1 * step(**given)["step"]})
    assert "likely cause" not in str(caught.value)


# -- a reader's own optimizer -----------------------------------------------------------------------------------------


class State(NamedTuple):
    z: np.ndarray


class Own:
    """CurveBall as a reader would write it, with lam = 1, and a bug or none."""

    name = "own"

    def __init__(self, bug=""):
        self.bug = bug

    def init(self, x):
        return State(np.zeros_like(x))

    def step(self, point, state):
        z, bug = state.z, self.bug
        j_z = point.jvp(z)
        gradient_factor = 0.5 if bug == "half the gradient" else 1.0
        dz = point.vjp(point.output_hvp(j_z) + gradient_factor * point.output_gradient)
        dz = dz + (0.0 if bug == "undamped dz" else 1.0) * z
        j_d = point.jvp(dz)
        h_d, h_z = (j_d, j_z) if bug == "J^T J" else (point.output_hvp(j_d), point.output_hvp(j_z))
        lam = 0.0 if bug == "undamped system" else 1.0
        a = [[j_d @ h_d + lam * dz @ dz, j_z @ h_d + lam * z @ dz], [0.0, j_z @ h_z + lam * z @ z]]
        a[1][0] = a[0][1]
        b = [point.output_gradient @ j_d, point.output_gradient @ j_z]
        beta, minus_rho = np.linalg.lstsq(np.array(a), np.array(b), rcond=1e-12)[0]
        rho = minus_rho if bug == "sign" else -minus_rho
        if bug == "swapped":
            beta, rho = rho, beta
        z_next = rho * z - beta * dz
        return Step(point.x + (z if bug == "old z" else z_next), State(z_next), None)


def network():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((7, 2)), rng.integers(0, 3, 7)
    return MLP((2, 3, 3), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch")


def test_a_right_one_passes():
    report = check_curveball(Own())
    assert report.passed
    assert [check.name for check in report.checks][:2] == ["step 1, without momentum", "step 2"]
    assert str(report).count(" ok") == 5
    assert check_curveball(Own(), network(), steps=4).passed
    assert check_curveball(Own(), Rosenbrock(), [-1.2, 1.0], steps=3).passed


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("knobs", [{}, {"momentum": 1.0}, {"learning_rate": 0.02, "momentum": 0.5},
                                   {"system": "printed"}], ids=str)  # fmt: skip
def test_that_of_the_package_passes(name, dtype, knobs):
    problem = Rosenbrock(n=4, backend=get_backend(name, dtype))
    optimizer = CurveBall(**knobs, initial_damping=8.0, adapt_every=0)
    assert check_curveball(optimizer, problem, damping=8.0, steps=3, **knobs).passed


@pytest.mark.parametrize(
    ("bug", "slip"),
    [
        ("sign", "rho's sign"), ("swapped", "swapped"), ("undamped system", "damping not in the system"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("problem", [None, network()], ids=["least-squares", "network"])
def test_bug_is_named(bug, slip, problem):
    with pytest.raises(StepCheckFailed) as caught:
        check_curveball(Own(bug), problem, steps=3)
    causes = {check.cause for check in caught.value.report.checks if not check.passed}
    assert all(SLIPS[slip] in cause for cause in causes)
    # With z = 0 for ever, or in the same plane, some slips cannot be told apart.
    assert max(len(cause.split("; or ")) for cause in causes) <= 3
    assert "FAIL " in str(caught.value)


def test_damping_left_out_of_dz_alone_changes_no_step():
    assert check_curveball(Own("undamped dz")).passed


def test_a_sign_error_shows_from_the_second_step_on():
    with pytest.raises(StepCheckFailed) as caught:
        check_curveball(Own("sign"))
    assert caught.value.report.checks[0].passed
    assert not caught.value.report.checks[1].passed


@pytest.mark.parametrize("bug", ["old z", "half the gradient", "J^T J"])
def test_other_bugs_are_noticed(bug):
    with pytest.raises(StepCheckFailed) as caught:
        check_curveball(Own(bug))
    assert caught.value.report.checks[-1].cause


def test_plain_gradient_descent_is_not_curveball():
    class Descent(Own):
        def step(self, point, state):
            return Step(point.x - 0.01 * point.gradient, state, None)

    with pytest.raises(StepCheckFailed, match="no slip of the usual kind"):
        check_curveball(Descent())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_curveball(CurveBall), "must be an instance with init and step"),
        (lambda: check_curveball(Own(), Rosenbrock), "must be an instance of a Problem"),
        (lambda: check_curveball(Own(), steps=1), "steps must be a whole number of at least 2"),
    ],
)
def test_wrong_requests_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
