"""Golden vectors of KryBall, and the check of a reader's own optimizer: deliberate slips must be named.

Oracles: the 60-digit numbers in tests/golden, computed by another program; the generator in tools/; NumPy and SciPy
versions of every call; and broken optimizers, whose cause the check has to find.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.linalg
from golden_vectors import generator, golden
from kryball_cases import Quartic, network

from refimpl import get_backend
from refimpl.optimizers.base import Step
from refimpl.optimizers.kryball import KryBall
from refimpl.problems.toy import Rosenbrock, Wood
from refimpl.verify import GoldenMismatch, StepCheckFailed, check_implementation, check_kryball
from refimpl.verify.checks_kryball import START, QuarticModel
from refimpl.verify.dense_kryball import (
    PROJECTED_SLIPS,
    REGION_SLIPS,
    STEP_SLIPS,
    projected_step,
    step,
    trust_region_step,
)
from refimpl.verify.golden import cases, relative_error
from refimpl.verify.oracle import OracleReport

GOLDEN = golden("curveball_kryball")
SLIPS = [("trust_region_step", trust_region_step, slip, words) for slip, words in REGION_SLIPS.items()]
SLIPS += [("projected_step", projected_step, slip, words) for slip, words in PROJECTED_SLIPS.items()]
SLIPS += [("kryball_step", step, slip, words) for slip, words in STEP_SLIPS.items()]


# -- the vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["trust_region_subproblem"], ids=lambda case: case["name"])
def test_regions_of_the_generator_are_the_numbers_computed_elsewhere(case):
    tool, mp = generator("golden_trust_region"), pytest.importorskip("mpmath")
    known = {"step": case["alpha"], "multiplier": case["lam"], "model": case["model"]}
    with mp.workdps(60):
        found = generator("golden").plain(tool.trust_region_step(case["A"], case["b"], case["Delta"]))
    # The golden inputs are decimals, so float64 agrees to its precision only; 1e-8 in g is met relatively.
    assert relative_error(found, known) < 1e-13
    assert relative_error(trust_region_step(case["A"], case["b"], case["Delta"]), known) < 1e-11


@pytest.mark.parametrize("m", range(1, 6))
def test_projected_steps_of_the_generator_are_the_numbers_computed_elsewhere(m):
    tool, mp = generator("golden_trust_region"), pytest.importorskip("mpmath")
    given = GOLDEN["lanczos_5x5"]["H"], GOLDEN["lanczos_5x5"]["g"], m
    known = GOLDEN["sfn_projected"][str(m)]["step"]
    with mp.workdps(60):
        assert relative_error(generator("golden").plain(tool.projected_step(*given)), known) < 1e-14
    assert relative_error(projected_step(*given), known) < 1e-12


@pytest.mark.parametrize("key", ["step0_refresh", "step_with_large_radius_Delta3"])
def test_steps_of_the_generator_are_the_numbers_computed_elsewhere(key):
    tool, mp = generator("golden_kryball"), pytest.importorskip("mpmath")
    case, known = GOLDEN["kryball_step"], GOLDEN["kryball_step"][key]
    moved = known["p"] if known["accepted"] else [0.0] * 4
    point = Quartic().at(np.array(case["x"]))
    given = {
        "hessian": known["H"], "gradient": known["g"], "momentum": case["momentum_direction"], "radius": known["Delta"],
        "dimension": 2, "directions": "three", "maximum_radius": case["Dmax"],
    }  # fmt: skip
    dense = step(**given, quartic=None, change=lambda s: float(Quartic().loss(point.x + s)) - float(point.loss))
    wanted = {"step": moved, "predicted_change": -known["pred"], "ratio": known["rho"], "radius": known["Delta_new"]}
    assert relative_error(dense, wanted) < 1e-11
    # The generator's loss is a quartic without cubes: model and step agree, the ratio is another one.
    with mp.workdps(60):
        found = generator("golden").plain(tool.kryball_step(**given, quartic=[0.0] * 4))
    assert found["predicted_change"] == pytest.approx(-known["pred"], rel=1e-13)
    assert relative_error(found["step"], known["p"]) < 1e-13


# -- every call once more ---------------------------------------------------------------------------------------------


def own_arnoldi(matrix, start, steps):
    """Modified Gram–Schmidt, as in textbooks."""
    n, basis, found = len(start), [start / np.linalg.norm(start)], np.zeros((steps + 1, steps))
    for j in range(steps):
        w = matrix @ basis[j]
        for i in range(j + 1):
            found[i, j] = basis[i] @ w
            w = w - found[i, j] * basis[i]
        length = np.linalg.norm(w)
        if length < 1e-6 or j + 1 == n:
            break
        found[j + 1, j] = length
        basis.append(w / length)
    rows = np.zeros((steps, n))
    rows[: min(len(basis), steps)] = basis[:steps]
    return {"basis": rows, "hessenberg": found}


def own_reconstruction(matrix, gradient, steps):
    values, q = np.linalg.eigh(matrix)
    z, before, rows = -q @ ((q.T @ gradient) / np.abs(values)), 0 * gradient, []
    for m in range(1, steps + 1):
        space = scipy.linalg.orth(np.stack([np.linalg.matrix_power(matrix, k) @ gradient for k in range(m)], axis=1))
        inner, u = np.linalg.eigh(space.T @ matrix @ space)
        s = -space @ u @ ((u.T @ space.T @ gradient) / np.abs(inner))
        size = np.linalg.norm(z)
        rows.append((
            np.linalg.norm(z - space @ space.T @ z) / size, np.linalg.norm(z - s) / size,
            z @ s / size / np.linalg.norm(s), np.linalg.norm(s - before) / np.linalg.norm(s),
        ))  # fmt: skip
        before = s
    return dict(zip(("best", "used", "cosine", "change"), np.transpose(rows), strict=True))


def own_dogleg(matrix, gradient, radius):
    from scipy.optimize._trustregion_dogleg import DoglegSubproblem

    solver = DoglegSubproblem(np.zeros_like(gradient), lambda x: 0.0, lambda x: gradient, lambda x: matrix)
    p = solver.solve(radius)[0]
    return {"step": p, "model": gradient @ p + 0.5 * p @ matrix @ p}


def own_plane(matrix, gradient, radius):
    lowest = np.linalg.eigvalsh(matrix)[0]
    shifted = matrix + (1.5 * abs(lowest) if lowest < -1e-9 else 0.0) * np.eye(len(gradient))
    plane = np.linalg.qr(np.stack([gradient, np.linalg.pinv(shifted, rcond=1e-6) @ gradient], axis=1))[0]
    found = trust_region_step(plane.T @ matrix @ plane, plane.T @ gradient, radius)
    return {"step": plane @ found["step"], "model": found["model"]}


def own_rule(radius, trials, accept_above=0.0, shrink_below=0.25, expand_above=0.75, shrink=0.5, expand=2.0,
             maximum_radius=1000.0):  # fmt: skip
    found = {"accepted": [], "ratio": [], "radius": []}
    for loss, trial, predicted, length in np.array(trials, dtype=float):
        ratio = (trial - loss) / predicted if predicted < 0 and np.isfinite(trial) else -1.0
        ratio = 1.0 if trial == loss and predicted == 0 else ratio
        following = radius
        if ratio < shrink_below:
            following = shrink * (radius if ratio > accept_above else min(radius, length))
        elif ratio > expand_above and length >= radius:
            following = min(expand * radius, maximum_radius)
        for key, value in zip(found, (float(ratio > accept_above), ratio, following), strict=True):
            found[key].append(value)
    return found


OWN = {
    "arnoldi": own_arnoldi,
    "projected_step": projected_step,
    "reconstruction": own_reconstruction,
    "trust_region_step": trust_region_step,
    "dogleg_step": own_dogleg,
    "two_dimensional_step": own_plane,
    "radius_rule": own_rule,
    "kryball_step": step,
}


@pytest.mark.parametrize("call", OWN)
def test_call_written_once_more_is_right(call):
    assert all(outcome.passed for outcome in check_implementation(call, OWN[call]))


def test_every_call_of_the_group_is_written_once_more():
    assert {case.call for case in cases("kryball")} == {*OWN, "run"}


def test_model_of_the_steps_has_the_derivatives_given():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 4))
    h, g, q = a + a.T, rng.standard_normal(4), rng.standard_normal(4)
    problem = QuarticModel(h, g, q, backend=get_backend())
    at_zero = problem.at(np.zeros(4))
    np.testing.assert_array_equal(at_zero.gradient, g)
    np.testing.assert_array_equal(at_zero.hessian(), h)
    x = rng.standard_normal(4)
    assert float(problem.loss(x)) == pytest.approx(g @ x + 0.5 * x @ h @ x + (q * x**4).sum() / 4)
    from refimpl.verify import check_oracle

    assert check_oracle(problem, x).passed


# -- slips in a function ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "function", "slip", "words"), SLIPS, ids=[f"{s[0]}-{s[2]}" for s in SLIPS])
def test_slip_is_named_and_no_other(call, function, slip, words):
    with pytest.raises(GoldenMismatch) as caught:
        check_implementation(call, partial(function, slip=slip))
    assert str(caught.value).endswith(f"\nlikely cause: {words}")


@pytest.mark.parametrize("slip", ["no radius", "no hard case", "magnitudes", "uphill"])
def test_slip_is_found_in_the_step_alone(slip):
    class Alone(dict):
        """The step, but where it is compared by name."""

    with pytest.raises(GoldenMismatch, match="likely cause") as caught:
        check_implementation("trust_region_step", lambda **given: Alone(trust_region_step(**given, slip=slip)))
    assert REGION_SLIPS[slip] in str(caught.value)


def test_what_is_no_slip_has_no_cause():
    def longer(**given: Any):
        found = step(**given)
        return {**found, "step": 1.1 * found["step"]}

    with pytest.raises(GoldenMismatch) as caught:
        check_implementation("kryball_step", longer)
    assert "likely cause" not in str(caught.value)


# -- a reader's own optimizer -----------------------------------------------------------------------------------------


class State(NamedTuple):
    z: np.ndarray
    radius: float


class Own:
    """KryBall as a reader would write it, with three directions, and a bug or none."""

    name = "own"

    def __init__(self, bug: str = "", m: int = 3, radius: float = 1.0, maximum: float = 1000.0) -> None:
        self.bug, self.m, self.radius, self.maximum = bug, m, radius, maximum

    def init(self, x):
        return State(np.zeros_like(x), self.radius)

    def step(self, point, state):
        g, bug = point.gradient, self.bug
        basis, v = [g / np.linalg.norm(g)], g
        for _ in range(min(self.m, len(g)) - 1):
            v = point.hvp(basis[-1])
            for q in 2 * basis:
                v = v - (q @ v) * q
            basis.append(v / np.linalg.norm(v))
        q = np.stack(basis)
        t = q @ np.stack([point.hvp(row) for row in q]).T
        values, u = np.linalg.eigh(0.5 * (t + t.T))
        sizes = values if bug == "newton" else np.abs(values)
        s = q.T @ (u @ (u[0] / sizes))
        vectors = [g, s] if bug == "forgets" else [g, s, state.z]
        x = scipy.linalg.orth(np.stack([w / (np.linalg.norm(w) or 1.0) for w in vectors], axis=1), rcond=1e-8)
        a = x.T @ np.stack([point.hvp(column) for column in x.T], axis=1)
        found = trust_region_step(
            0.5 * (a + a.T), x.T @ g, state.radius, slip="no radius" if bug == "unbounded" else ""
        )
        p, radius = x @ found["step"], state.radius
        change = float(point.loss_at(point.x + p)) - float(point.loss)
        ratio = change / found["model"]
        ratio = -ratio if bug == "sign" else ratio
        at_boundary = np.linalg.norm(p) > 0.999 * radius or bug == "grows"
        if ratio < 0.25:
            radius = 0.5 * (radius if ratio > 0 or bug == "halves" else min(radius, np.linalg.norm(p)))
            radius = state.radius if bug == "never shrinks" else radius
        elif ratio > 0.75 and at_boundary:
            radius = min(2 * radius, self.maximum)
        accepted = ratio > 0 or bug == "takes all"
        z = p if accepted else state.z
        return Step(point.x + p * accepted, State(z, radius), None)


def test_a_right_one_passes():
    report = check_kryball(Own())
    assert isinstance(report, OracleReport)
    assert report.passed
    assert [check.name for check in report.checks][:2] == ["step 1, without momentum", "step 2"]
    assert str(report).count(" ok") == 10
    assert check_kryball(Own(), Rosenbrock(), [-1.2, 1.0], steps=12).passed
    assert check_kryball(Own(m=2), network(), dimension=2, steps=5).passed
    assert check_kryball(Own(maximum=1.5), x=START, maximum_radius=1.5).passed


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize(
    "knobs",
    [
        {"dimension": 2, "directions": "three"},
        {"dimension": 2, "directions": "space"},
        {"dimension": 1, "directions": "three", "initial_radius": 4.0},
    ],
    ids=str,
)
def test_that_of_the_package_passes(name, dtype, knobs):
    problem = Wood(backend=get_backend(name, dtype))
    optimizer = KryBall(**knobs, gain=0.0, retries=0)
    assert check_kryball(optimizer, problem, START, **knobs, steps=6).passed


@pytest.mark.parametrize(
    ("bug", "slip"),
    [
        ("forgets", "no momentum"), ("unbounded", "no radius"), ("sign", "ratio's sign"), ("takes all", "taken anyway"),
        ("grows", "grows inside"), ("never shrinks", "no shrinking"), ("newton", "newton direction"),
        ("halves", "shrinks from the radius"),
    ],
)  # fmt: skip
def test_bug_is_named(bug, slip):
    given: dict[str, Any] = {}
    if bug == "newton":  # needs a saddle
        case = next(case for case in cases("kryball") if case.id == "kryball/kryball-three").inputs
        model = QuarticModel(case["hessian"], case["gradient"], case["quartic"], backend=get_backend())
        given = {"problem": model, "x": [0.0] * 6}
    if bug == "halves":  # needs a refused step that ended inside
        given = {"problem": Rosenbrock(), "x": [-1.2, 1.0], "initial_radius": 8.0}
    with pytest.raises(StepCheckFailed, match="the steps are not those of KryBall") as caught:
        check_kryball(Own(bug, radius=given.get("initial_radius", 1.0)), **given)
    causes = {check.cause for check in caught.value.report.checks if not check.passed}
    assert len(causes) == 1
    named = causes.pop().split("; or ")
    assert STEP_SLIPS[slip] in named
    assert len(named) <= 2
    assert "FAIL " in str(caught.value)


def test_momentum_of_a_refused_step_changes_nothing():
    # At the same place the Krylov space is the same, and the refused step lies in the plane that comes again.
    class Keeps(Own):
        def step(self, point, state):
            taken = super().step(point, state)
            found = Own("takes all").step(point, state)
            return taken._replace(state=taken.state._replace(z=found.state.z))

    assert check_kryball(Keeps()).passed


def test_plain_gradient_descent_is_not_kryball():
    class Descent(Own):
        def step(self, point, state):
            return Step(point.x - 1e-3 * point.gradient, state, None)

    with pytest.raises(StepCheckFailed, match="no slip of the usual kind"):
        check_kryball(Descent())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_kryball(KryBall), "must be an instance with init and step"),
        (lambda: check_kryball(Own(), Rosenbrock), "must be an instance of a Problem"),
        (lambda: check_kryball(Own(), steps=1), "steps must be a whole number of at least 2"),
    ],
)
def test_wrong_requests_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
