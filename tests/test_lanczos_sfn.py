"""Saddle-free Newton in a Krylov space.

Oracles: eigenvalues of the whole matrix, which a space of full dimension must reproduce; the model and the direction
in dense arithmetic, on a basis from a QR factorization; losses that say what they are told, for the rules.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.problems.quadratic import Quadratic, gaussian_symmetric
from refimpl.problems.toy import DoubleWell, Rosenbrock, Wood

MODES = pytest.mark.parametrize("mode", ["abs", "square"])
GENTLE = settings(max_examples=150, deadline=None, derandomize=True)


def saddle(seed, n=12):
    rng = np.random.default_rng(seed)
    return Quadratic(gaussian_symmetric(n, rng), linear=rng.standard_normal(n)), np.zeros(n)


def one_step(problem, method, x, damping=None):
    x = problem.backend.asarray(x)
    state = method.init(x) if damping is None else problem.backend.asarray(damping)
    return method.step(problem.at(x), state)


def through(matrix, mode, damping):
    """(|A| + d)^{-1} or (A^2 + d^2)^{-1/2}."""
    values, q = np.linalg.eigh(matrix)
    size = np.abs(values) + damping if mode == "abs" else np.hypot(values, damping)
    return (q / size) @ q.T


def krylov(h, g, m):
    """An orthonormal basis of g, Hg, … (m, n), each new vector orthogonalized against all before."""
    basis = [g / np.linalg.norm(g)]
    for _ in range(m - 1):
        q, _ = np.linalg.qr(np.stack([*basis, h @ basis[-1]], axis=-1))
        basis.append(q[:, -1])
    return np.array(basis)


# -- the direction and the model --------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("damping", [1e-3, 0.5, 40.0])
def test_full_space_gives_the_exact_direction(mode, damping):
    problem, x = saddle(1)
    step = one_step(problem, LanczosSaddleFreeNewton(12, damping, mode=mode, accept="always"), x)
    expected = through(problem.matrix, mode, damping) @ problem.at(x).gradient
    np.testing.assert_allclose(x - step.x, expected, rtol=1e-9, atol=1e-11)
    assert step.info.smallest_ritz == pytest.approx(problem.eigenvalues[0])
    assert step.info.largest_ritz == pytest.approx(problem.eigenvalues[-1])


@MODES
@pytest.mark.parametrize("m", [1, 3, 7])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_direction_and_predicted_change_against_dense_arithmetic(mode, m, rate):
    problem, x = saddle(2)
    g, h = problem.at(x).gradient, problem.matrix
    step = one_step(problem, LanczosSaddleFreeNewton(m, 0.4, mode, rate, accept="always"), x)
    q = krylov(h, g, m)
    s = rate * q.T @ through(q @ h @ q.T, mode, 0.4) @ (q @ g)
    np.testing.assert_allclose(x - step.x, s, rtol=1e-9, atol=1e-12)
    assert step.info.predicted_change == pytest.approx(-g @ s + 0.5 * s @ h @ s, rel=1e-12)
    ritz = np.linalg.eigvalsh(q @ h @ q.T)
    np.testing.assert_allclose([step.info.smallest_ritz, step.info.largest_ritz], ritz[[0, -1]], rtol=1e-10)
    # The loss is quadratic: the model is right.
    assert step.info.ratio == pytest.approx(1.0, rel=1e-10)


@GENTLE
@given(seed=st.integers(0, 10**6), m=st.integers(1, 9), power=st.integers(-6, 4), square=st.booleans(),
       rate=st.floats(0.01, 1.0), size=st.integers(-3, 3))  # fmt: skip
def test_model_always_falls_and_the_step_is_bounded(seed, m, power, square, rate, size):
    rng = np.random.default_rng(seed)
    problem, lam = Quadratic(10.0**size * gaussian_symmetric(9, rng), linear=rng.standard_normal(9)), 10.0**power
    method = LanczosSaddleFreeNewton(m, lam, "square" if square else "abs", rate, accept="always")
    step = one_step(problem, method, np.zeros(9))
    assert step.info.predicted_change < 0
    # f(t) <= 1/lam, and 1/|t| of what the space sees.
    assert np.linalg.norm(step.x) <= np.linalg.norm(problem.linear) / lam * (1 + 1e-12)


@MODES
def test_without_a_gradient_nothing_moves(mode):
    for accept in ("bounded", "decrease", "finite", "always"):
        step = one_step(DoubleWell(n=3), LanczosSaddleFreeNewton(2, 0.3, mode, accept=accept), np.zeros(3))
        np.testing.assert_array_equal(step.x, 0.0)
        assert (step.state, step.info.predicted_change, bool(step.info.accepted)) == (0.3, 0.0, True)


def test_ritz_values_of_an_exhausted_space():
    step = one_step(Quadratic(np.diag([2.0, 3.0, 3.0])), LanczosSaddleFreeNewton(3), np.ones(3))
    assert step.info.smallest_ritz == pytest.approx(2.0)


def test_step_in_an_exhausted_space_is_exact():
    problem, x = Quadratic(np.diag([2.0, -3.0, -3.0, 5.0])), np.array([1.0, 1.0, 1.0, 0.0])
    step = one_step(problem, LanczosSaddleFreeNewton(4, 0.5, accept="always"), x)
    np.testing.assert_allclose(step.x, [1 - 2 / 2.5, 1 + 3 / 3.5, 1 + 3 / 3.5, 0.0], rtol=1e-13)
    assert step.info.predicted_change == pytest.approx(float(problem.loss(step.x) - problem.loss(x)), rel=1e-12)


# -- the rules --------------------------------------------------------------------------------------------------------


class Told(Quadratic):
    """f = 4x at x = 0, so with damping 2 the step is 2 and the model predicts -8; the loss elsewhere is what we say."""

    def __init__(self, trial):
        super().__init__([[0.0]], linear=[4.0])
        self.trial = trial

    def loss(self, x, sample=None):
        return np.full(x.shape[:-1], self.trial)


NAN, INF = float("nan"), float("inf")
TAKEN = {  # loss at the trial -> who takes the step, and the damping then (2 before, omega 1/2)
    -20.0: ("bounded decrease finite always", 1.0),
    -8.0: ("bounded decrease finite always", 1.0),
    np.nextafter(-6.0, -7): ("bounded decrease finite always", 1.0),
    -6.0: ("bounded decrease finite always", 2.0),
    -2.0: ("bounded decrease finite always", 2.0),
    np.nextafter(-2.0, -1): ("bounded decrease finite always", 4.0),
    0.0: ("bounded decrease finite always", 4.0),
    1e-9: ("bounded finite always", 4.0),
    8.0: ("bounded finite always", 4.0),
    np.nextafter(8.0, 9): ("finite always", 4.0),
    1e9: ("finite always", 4.0),
    INF: ("always", 4.0),
    NAN: ("always", 2.0),
}


@pytest.mark.parametrize("accept", ["bounded", "decrease", "finite", "always"])
@pytest.mark.parametrize(("trial", "rule"), TAKEN.items())
def test_what_is_taken_and_what_becomes_of_the_damping(trial, rule, accept):
    who, damping = rule
    step = one_step(Told(trial), LanczosSaddleFreeNewton(1, 2.0, accept=accept, damping_cap=1e8), [0.0])
    assert step.info.predicted_change == -8.0
    assert step.info.damping == 2.0
    taken = accept in who.split()
    assert bool(step.info.accepted) is taken
    assert step.x.tolist() == [-2.0 if taken else 0.0]
    assert step.state == (damping if taken else 4.0)


def test_a_refusal_doubles_whatever_omega_is():
    for omega in (0.1, 0.9, 1.0):
        assert one_step(Told(INF), LanczosSaddleFreeNewton(1, 2.0, omega=omega), [0.0]).state == 4.0
    for trial, damping in ((-8.0, 2.0), (0.0, 2.0)):
        assert one_step(Told(trial), LanczosSaddleFreeNewton(1, 2.0, omega=1.0), [0.0]).state == damping


@pytest.mark.parametrize(
    ("cap", "before", "trial", "after"),
    [
        (None, 2.0, 0.0, 2.0),  # the initial damping, 2
        (3.0, 2.0, 0.0, 3.0),
        (5.0, 2.0, 0.0, 4.0),
        (3.0, 2.0, -8.0, 1.0),
        (3.0, 2.0, INF, 4.0),  # a refusal may go beyond
        (3.0, 4.0, INF, 8.0),
        (3.0, 64.0, -8.0, 3.0),  # … and the next step that is taken comes back
        (3.0, 64.0, 0.0, 3.0),
    ],
)
def test_the_rule_stops_at_the_cap(cap, before, trial, after):
    method = LanczosSaddleFreeNewton(1, 2.0, damping_cap=cap, accept="finite")
    assert one_step(Told(trial), method, [0.0], damping=before).state == after


def test_damping_stays_within_its_bounds():
    bounds = {"minimum_damping": 1.5, "maximum_damping": 3.0, "damping_cap": 1e8}
    for trial, damping in ((-8.0, 1.5), (0.0, 3.0), (NAN, 3.0)):
        assert one_step(Told(trial), LanczosSaddleFreeNewton(1, 2.0, **bounds), [0.0]).state == damping


def test_damping_in_a_run_follows_the_ratio():
    trace = minimize(Rosenbrock(), LanczosSaddleFreeNewton(2, 0.25, damping_cap=1.5), [-1.0, 2.0], steps=18).trace
    ratio, damping, accepted = trace["ratio"][:18], trace["damping"][:18], trace["accepted"][:18] == 1
    factors = np.where(~accepted, 2.0, np.where(ratio > 0.75, 0.5, np.where(ratio < 0.25, 2.0, 1.0)))[:-1]
    assert set(factors.tolist()) == {0.5, 1.0, 2.0}
    assert not accepted.all()
    top = np.where(accepted, 1.5, 1e8)[:-1]
    np.testing.assert_allclose(damping[1:], np.clip(damping[:-1] * factors, 1e-8, top), rtol=1e-12)
    assert damping.max() > 1.5
    assert (trace["step_norm"][:18][~accepted] == 0).all()
    assert (trace["predicted_change"][:18] < 0).all()


# -- runs -------------------------------------------------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("offset", [1e-6, 1e-12])
def test_the_saddle_is_left(mode, offset):
    result = minimize(DoubleWell(n=5), LanczosSaddleFreeNewton(3, mode=mode), [offset, 1.0, -1.0, 0.5, 0.0], steps=150)
    np.testing.assert_allclose(result.x, [1.0, 0.0, 0.0, 0.0, 0.0], atol=1e-6)


def test_rosenbrock_is_solved():
    assert minimize(Rosenbrock(), LanczosSaddleFreeNewton(2), [-1.2, 1.0], steps=100).loss < 1e-10


@MODES
def test_batched_equals_separate_runs(mode):
    rng = np.random.default_rng(3)
    starts = np.vstack([[-3.0, -1.0, -3.0, -1.0], 2 * rng.standard_normal((4, 4))])
    method = LanczosSaddleFreeNewton(3, 0.01, mode=mode)
    together = minimize(Wood(), method, starts, steps=15)
    assert len({tuple(row) for row in together.trace["accepted"][:15].T.tolist()}) > 1  # they decide differently
    for row, start in enumerate(starts):
        alone = minimize(Wood(), method, start, steps=15)
        np.testing.assert_allclose(together.x[row], alone.x, rtol=1e-7)
        np.testing.assert_allclose(together.trace["damping"][:15, row], alone.trace["damping"][:15], rtol=1e-12)
    nested = minimize(Wood(), method, starts[:4].reshape(2, 2, 4), steps=5)
    separate = minimize(Wood(), method, starts[:4], steps=5)
    np.testing.assert_allclose(nested.x.reshape(4, 4), separate.x, rtol=1e-9)


@pytest.mark.parametrize("poison", [NAN, INF])
@pytest.mark.parametrize("accept", ["bounded", "always"])
def test_a_poisoned_run_leaves_the_others_alone(poison, accept, backend):
    starts = np.array([[-3.0, -1.0, -3.0, -1.0], [poison, 1.0, 1.0, 1.0], [0.5, 0.25, 2.0, 1.0]])
    problem, method = Wood(backend=backend), LanczosSaddleFreeNewton(3, 0.5, accept=accept)
    with np.errstate(all="ignore"):
        step = one_step(problem, method, starts, damping=[0.5, 0.25, 2.0])
        expected = one_step(problem, method, starts[::2], damping=[0.5, 2.0])
    rtol = 1e-12 if backend.dtype_name == "float64" else 1e-4
    np.testing.assert_allclose(to_numpy(step.x)[::2], to_numpy(expected.x), rtol=rtol)
    np.testing.assert_array_equal(to_numpy(step.state)[::2], to_numpy(expected.state))
    assert not np.isfinite(to_numpy(step.x)[1]).all()
    assert to_numpy(step.state)[1] == (0.5 if accept == "bounded" else 0.25)


@pytest.mark.parametrize(("m", "products"), [(1, 1), (4, 4), (9, 9), (16, 9)])
def test_cost_of_a_step(m, products):
    problem, x = saddle(4, n=9)
    trace = minimize(problem, LanczosSaddleFreeNewton(m), x, steps=1).trace
    counted = [trace[f"{key}_count"][0] for key in ("hvp", "gradient", "loss", "jvp", "vjp")]
    assert counted == [products, 1, 1, 0, 0]


def test_float32_stays_float32():
    method = LanczosSaddleFreeNewton(
        2, learning_rate=np.float64(0.5), omega=np.float64(0.5),
        initial_damping=np.float64(0.5), minimum_damping=np.float64(1e-6), maximum_damping=np.float64(1e6),
    )  # fmt: skip
    result = minimize(Rosenbrock(backend=get_backend("numpy", "float32")), method, [-1.2, 1.0], steps=3)
    assert (result.x.dtype, result.state.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(result.x, minimize(Rosenbrock(), method, [-1.2, 1.0], steps=3).x, rtol=1e-4)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"products": 0}, "products must be a whole number of at least 1"),
        ({"products": 2.0}, "products must be a whole number"),
        ({"initial_damping": 0.0}, "initial_damping"),
        ({"initial_damping": 1e9}, "initial_damping"),
        ({"initial_damping": -1.0}, "damping"),
        ({"initial_damping": np.float64(-1.0)}, "damping"),
        ({"mode": "none"}, "unknown mode 'none'"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": 1.5}, "learning_rate"),
        ({"omega": 0.0}, "omega"),
        ({"omega": 1.5}, "omega"),
        ({"minimum_damping": 0.0}, "minimum_damping"),
        ({"minimum_damping": 10.0, "maximum_damping": 1.0}, "minimum_damping must be at most maximum_damping"),
        ({"damping_cap": 0.0}, "damping_cap"),
        ({"damping_cap": float("nan")}, "damping_cap"),
        ({"accept": "never"}, "unknown accept 'never'"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        LanczosSaddleFreeNewton(**knobs)
