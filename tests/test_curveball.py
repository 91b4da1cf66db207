"""CurveBall: its step, its two parameters and its damping.

Oracles: 60-digit arithmetic; the minimizer of the damped model over the span of z and dz by NumPy's ``lstsq`` on a
dense Gauss–Newton matrix, which knows no 2 × 2 system; a dense Levenberg step; Algorithm 1 of the paper as a plain
loop; SciPy's minimizer of one variable. Its damping, costs and edge cases are in test_curveball_rules.py.
"""

import numpy as np
import pytest
from cases import CASES, PRESENT
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from refimpl import get_backend, minimize
from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.optimizers.curveball import CurveBall, CurveBallState
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic
from refimpl.problems.toy import CoupledSaddle, DoubleWell, Rosenbrock

GOLDEN = golden("curveball_kryball")
LINEAR, VALLEY = GOLDEN["curveball_linear_ls"], GOLDEN["curveball_rosenbrock"]
SEEDS = st.integers(0, 2**32 - 1)
KEPT = CurveBall(adapt_every=0)
PROBLEMS = {case.id: case for case in CASES}


def step_from(problem, x, z, damping, method=KEPT, iteration=1, sample=None):
    """One step at ``x``, the last step having been ``z``."""
    to = problem.backend.asarray
    return method.step(problem.at(to(x), sample), CurveBallState(to(z), to(damping), iteration))


def gauss_newton(point):
    """J^T (d2L/dphi2) J, one column at a time."""
    units = point.problem.backend.eye(point.problem.n)
    columns = [to_numpy(point.vjp(point.output_hvp(point.jvp(units[i, ...])))) for i in range(point.problem.n)]
    return np.array(columns).T


def best_in_plane(matrix, gradient, z):
    """The minimizer of g·s + s·Ms/2 over the span of z and dz = Mz + g, for a positive definite M, and its value."""
    factor = np.linalg.cholesky(matrix)
    plane = np.stack([z, matrix @ z + gradient], axis=-1)
    plane = plane / np.maximum(np.linalg.norm(plane, axis=0), 1e-300)
    step = plane @ np.linalg.lstsq(factor.T @ plane, -np.linalg.solve(factor, gradient), rcond=1e-11)[0]
    return step, gradient @ step + 0.5 * step @ matrix @ step


def network(seed, samples=9, activation="tanh"):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((samples, 3)), rng.integers(0, 3, samples)
    return MLP((3, 4, 3), *data, activation=activation, loss=SoftmaxCrossEntropy(), initialization="torch"), rng


# -- golden vectors ---------------------------------------------------------------------------------------------------


def linear(backend=None):
    return LinearLeastSquares(LINEAR["A"], LINEAR["y"], backend=backend)


@pytest.mark.parametrize(
    ("name", "system", "z"),
    [
        ("damped_2x2 (reference)", "damped", LINEAR["z"]),
        ("undamped_2x2 (eq 18 read literally)", "printed", LINEAR["z"]),
        ("first_step_z0", "damped", [0.0] * 3),
    ],
    ids=["damped", "printed", "first"],
)
def test_linear_least_squares_golden(name, system, z, backend):
    case, method = LINEAR[name], CurveBall(system=system)
    iteration = 5 if any(z) else 0  # both adapt
    step = step_from(linear(backend), LINEAR["w"], z, LINEAR["lambda"], method, iteration)
    tolerance = 1e-12 if backend.dtype_name == "float64" else 2e-5
    assert float(step.info.learning_rate) == pytest.approx(case["beta"], rel=tolerance)
    assert float(step.info.momentum) == pytest.approx(case["rho"], rel=tolerance)
    np.testing.assert_allclose(to_numpy(step.state.step), case["z_new"], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(to_numpy(step.x), case["w_new"], rtol=tolerance, atol=tolerance)
    assert float(step.info.predicted_change) == pytest.approx(case["model_damped"], rel=tolerance)
    assert float(step.info.ratio) == pytest.approx(case["gamma"], rel=tolerance)
    assert float(step.state.damping) == float(backend.asarray(LINEAR["lambda"]))  # between 1/2 and 3/2
    for part in (step.x, step.state.step, step.state.damping):
        assert (dtype_name(part.dtype), device_of(part)) == (backend.dtype_name, backend.device)


def test_fixed_parameters_golden(backend):
    method = CurveBall(0.01, 0.9, adapt_every=0)
    step = step_from(linear(backend), LINEAR["w"], LINEAR["z"], LINEAR["lambda"], method)
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-5
    case = LINEAR["fixed_rho0.9_beta0.01"]
    np.testing.assert_allclose(to_numpy(step.state.step), case["z_new"], rtol=tolerance)
    np.testing.assert_allclose(to_numpy(step.x), case["w_new"], rtol=tolerance)
    assert np.isnan(float(step.info.predicted_change))


@pytest.mark.parametrize("key", ["eps1", "eps0.25"])
def test_rosenbrock_golden(key, backend):
    case, noise = VALLEY[key], float(key.removeprefix("eps"))
    problem = Rosenbrock(noise=3.0, backend=backend)
    step = step_from(problem, VALLEY["w"], VALLEY["z"], 1.0, CurveBall(), 10, sample=noise)
    tolerance = 1e-11 if backend.dtype_name == "float64" else 2e-4
    for found, name in (
        (step.info.learning_rate, "beta"), (step.info.momentum, "rho"), (step.state.step, "z_new"),
        (step.state.step, "levenberg_step_same_lambda"), (step.info.predicted_change, "model_damped"),
        (step.info.ratio, "gamma"),
    ):  # fmt: skip
        np.testing.assert_allclose(to_numpy(found), case[name], rtol=tolerance, err_msg=name)
    raised = case["gamma"] < 0.5
    assert float(step.state.damping) == pytest.approx(0.999**-5 if raised else 1.0, rel=1e-6)


def test_rosenbrock_trajectory_golden():
    path = VALLEY["trajectory_lambda1_fixed_from_-1.2_1 (u,v,f)"]
    seen = []
    minimize(
        Rosenbrock(), KEPT, [-1.2, 1.0], steps=len(path) - 1, callback=lambda _, p: seen.append([*p.x, float(p.loss)])
    )
    np.testing.assert_allclose(seen, path, rtol=1e-9)


def test_gradient_norms_on_a_quadratic_golden():
    case = GOLDEN["plane_minimisation_on_quadratic"]
    norms = case["gradient_norms_by_iteration"]["plane_z_Deltaz (CurveBall auto)"]
    method = CurveBall(initial_damping=0.0, adapt_every=0)
    trace = minimize(Quadratic(np.diag(case["h"])), method, case["x0"], steps=len(norms) - 1).trace
    np.testing.assert_allclose(trace["gradient_norm"], norms, rtol=1e-8)


def test_softmax_gauss_newton_golden():
    case = GOLDEN["softmax_ggn"]
    problem = MLP((2, 3), case["X_rows_are_samples"], case["labels"], loss=SoftmaxCrossEntropy())
    weights, direction = (np.ravel(case[key]) for key in ("W (classes x features, logits=W x)", "V"))
    x, v = np.r_[weights, np.zeros(3)], np.r_[direction, np.zeros(3)]
    point = problem.at(x)
    np.testing.assert_allclose(point.ggnvp(v)[:6], np.ravel(case["ggn_product"]), rtol=1e-13)
    assert v @ point.ggnvp(v) == pytest.approx(case["v_ggn_v"], rel=1e-13)
    method = CurveBall(1.0, 0.0, initial_damping=0.0, adapt_every=0)  # the step is -(G z + g)
    step = step_from(problem, x, v, 0.0, method).state.step
    np.testing.assert_allclose(-step[:6], np.ravel(case["ggn_product"]) + np.ravel(case["grad"]), rtol=1e-12)


def test_ratio_on_a_quadratic_golden():
    assert GOLDEN["gamma_identity"]["value"] == pytest.approx(GOLDEN["gamma_identity"]["gamma_direct"], rel=1e-15)
    step = step_from(linear(), LINEAR["w"], LINEAR["z"], LINEAR["lambda"], CurveBall(adapt_every=1))
    assert step.info.ratio == pytest.approx(GOLDEN["gamma_identity"]["value"], rel=1e-12)


# -- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [c for c in CASES if c.has_outputs], ids=lambda case: case.id)
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_step_is_the_best_in_the_plane(case, damping):
    problem = case.build(get_backend("torch" if case.library else "numpy"))
    rng = np.random.default_rng(1)
    x, sample = to_numpy(problem.initial(rng)), problem.draw(rng)
    z = 0.3 * rng.standard_normal(problem.n)
    point = problem.at(problem.backend.asarray(x), sample)
    matrix, g = gauss_newton(point) + damping * np.eye(problem.n), to_numpy(point.gradient)
    step = step_from(problem, x, z, damping, sample=sample)
    expected, value = best_in_plane(matrix, g, z)
    np.testing.assert_allclose(to_numpy(step.state.step), expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())
    np.testing.assert_allclose(to_numpy(step.x) - x, to_numpy(step.state.step), rtol=1e-9, atol=1e-12)
    assert float(step.info.predicted_change) == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("name", ["rosenbrock-6", "linear-least-squares", "mlp-tanh-softmax", "torch-tanh"])
def test_same_steps_on_every_backend(name, backend):
    case = PROBLEMS[name]
    (spec,) = [spec for spec in PRESENT if spec.get() == backend]
    if not case.runs_on(spec):
        pytest.skip(f"{name} lives on {case.library}")
    results = []
    for place in (backend, get_backend(case.library or "numpy")):
        problem = case.build(place)
        start = to_numpy(case.build(get_backend(case.library or "numpy")).initial(np.random.default_rng(2)))
        results.append(minimize(problem, CurveBall(), start, steps=6))
    tolerance = 2e-3 if backend.dtype_name == "float32" else 1e-9
    np.testing.assert_allclose(to_numpy(results[0].x), to_numpy(results[1].x), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(results[0].trace["ratio"], results[1].trace["ratio"], rtol=50 * tolerance)


@given(seed=SEEDS, damping=st.sampled_from([1e-3, 0.1, 1.0, 10.0]), activation=st.sampled_from(["tanh", "relu"]))
@settings(max_examples=80, deadline=None)
def test_it_descends_and_the_slope_is_the_curvature(seed, damping, activation):
    problem, rng = network(seed, activation=activation)
    x, z = problem.initial(rng), 10.0 ** rng.uniform(-3, 1) * rng.standard_normal(problem.n)
    step = step_from(problem, x, z, damping).state.step
    point = problem.at(x)
    curved = step @ (point.ggnvp(step) + damping * step)
    assert point.gradient @ step == pytest.approx(-curved, rel=1e-6)
    assert point.gradient @ step < 0


@pytest.mark.parametrize("seed", range(4))
def test_in_two_dimensions_it_is_the_levenberg_step(seed):
    rng = np.random.default_rng(seed)
    problem, x, z = Rosenbrock(), rng.uniform(-2, 2, 2), rng.standard_normal(2)
    damping = 10.0 ** rng.uniform(-2, 2)
    step = step_from(problem, x, z, damping).state.step
    jacobian = np.array([[-1.0, 0.0], [-20.0 * x[0], 10.0]])
    residuals = np.array([1.0 - x[0], 10.0 * (x[1] - x[0] ** 2)])
    # f = r·r without 1/2, so G = 2 J^T J.
    dense = np.linalg.solve(2 * jacobian.T @ jacobian + damping * np.eye(2), -2 * jacobian.T @ residuals)
    np.testing.assert_allclose(step, dense, rtol=1e-7)
    theirs = LevenbergMarquardt(damping).step(problem.at(x), damping)
    if theirs.info.accepted:
        np.testing.assert_allclose(x + step, theirs.x, rtol=1e-7)


def test_first_step_is_the_best_multiple_of_the_gradient():
    problem, rng = network(3)
    x = problem.initial(rng)
    point = problem.at(x)
    g = point.gradient
    step = KEPT.step(point, KEPT.init(x))
    length = g @ g / (g @ point.ggnvp(g) + g @ g)
    np.testing.assert_allclose(step.state.step, -length * g, rtol=1e-11)
    assert (step.info.momentum, step.state.iteration) == (0, 1)


def test_products_and_gradient_belong_to_this_place():
    # The step is a function of the place, z and lam alone: a state that comes from elsewhere changes nothing else.
    problem, rng = network(4)
    x = problem.initial(rng)
    state = KEPT.init(x)
    for _ in range(3):
        taken = KEPT.step(problem.at(x), state)
        x, state = taken.x, taken.state
    again = step_from(problem, x, state.step, 1.0)
    expected, _ = best_in_plane(
        gauss_newton(problem.at(x)) + np.eye(problem.n), problem.at(x).gradient, to_numpy(state.step)
    )
    np.testing.assert_allclose(again.state.step, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(KEPT.step(problem.at(x), state).x, again.x)


# -- given parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_fixed_parameters_against_algorithm_1(curvature):
    problem, rng = network(5)
    x, beta, rho, lam = problem.initial(rng), 0.3, 0.9, 0.2
    places = []
    method = CurveBall(beta, rho, curvature, initial_damping=lam, adapt_every=0)
    minimize(problem, method, x, steps=12, callback=lambda _, p: places.append(np.array(p.x)))
    w, z = x, np.zeros(problem.n)
    for place in places:
        np.testing.assert_allclose(place, w, rtol=1e-9, atol=1e-11)
        point = problem.at(w)
        matrix = (point.hessian() if curvature == "hessian" else gauss_newton(point)) + lam * np.eye(problem.n)
        z = rho * z - beta * (matrix @ z + point.gradient)
        w = w + z


@pytest.mark.parametrize("given_one", [{"momentum": 1.0}, {"momentum": 0.5}, {"learning_rate": 0.2}], ids=str)
@pytest.mark.parametrize("system", ["damped", "printed"])
def test_the_other_parameter_minimizes_the_model(given_one, system):
    problem, rng = network(6)
    x, z, lam = problem.initial(rng), 0.5 * rng.standard_normal(problem.n), 0.3
    point = problem.at(x)
    curved, g = gauss_newton(point), point.gradient
    damped = curved + lam * np.eye(problem.n)
    dz, inside = damped @ z + g, damped if system == "damped" else curved

    def model(free):
        beta, rho = (free, given_one["momentum"]) if "momentum" in given_one else (given_one["learning_rate"], free)
        s = rho * z - beta * dz
        return g @ s + 0.5 * s @ inside @ s

    best = optimize.minimize_scalar(model, options={"xtol": 1e-12}).x
    info = step_from(problem, x, z, lam, CurveBall(**given_one, system=system, adapt_every=0)).info
    found = info.learning_rate if "momentum" in given_one else info.momentum
    kept = info.momentum if "momentum" in given_one else info.learning_rate
    assert kept == next(iter(given_one.values()))
    assert found == pytest.approx(best, rel=1e-6)


def test_printed_system_takes_the_undamped_matrix_and_the_damped_dz():
    problem, rng = network(7)
    x, z, lam = problem.initial(rng), rng.standard_normal(problem.n), 2.0
    point = problem.at(x)
    curved, g = gauss_newton(point), point.gradient
    plane = np.stack([(curved + lam * np.eye(problem.n)) @ z + g, z], axis=-1)
    beta, rho = np.linalg.solve(plane.T @ curved @ plane, plane.T @ g) * [1, -1]
    step = step_from(problem, x, z, lam, CurveBall(system="printed", adapt_every=0))
    assert (step.info.learning_rate, step.info.momentum) == (pytest.approx(beta), pytest.approx(rho))
    s = step.state.step  # the prediction is the damped model's all the same
    assert step.info.predicted_change == pytest.approx(g @ s + 0.5 * s @ curved @ s + 0.5 * lam * s @ s)


# -- the Hessian on saddles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "x"),
    [(CoupledSaddle(), [0.1, 0.3]), (DoubleWell(), [0.05, -0.4]), (DoubleWell(n=4), [0.1, 0.3, -0.2, 0.5])],
    ids=["coupled", "well", "well-4"],
)
def test_indefinite_plane_follows_the_saddle_free_rule(problem, x):
    rng = np.random.default_rng(8)
    method = CurveBall(curvature="hessian", initial_damping=1e-3, adapt_every=0)
    indefinite = 0
    for _ in range(20):
        z = 0.2 * rng.standard_normal(problem.n)
        point = problem.at(np.array(x))
        matrix, g = point.hessian() + 1e-3 * np.eye(problem.n), point.gradient
        plane = np.stack([matrix @ z + g, z], axis=-1)
        small = plane.T @ matrix @ plane
        scale = np.sqrt(np.abs(np.diag(small)))
        values, q = np.linalg.eigh(small / np.outer(scale, scale))
        indefinite += values[0] < 0
        expected = -plane @ ((q / np.abs(values)) @ q.T @ (plane.T @ g / scale) / scale)
        step = step_from(problem, x, z, 1e-3, method).state.step
        np.testing.assert_allclose(step, expected, rtol=1e-6, atol=1e-9)
        assert g @ step < 0
    assert indefinite > 5


def test_it_leaves_the_saddle_of_the_double_well():
    method = CurveBall(curvature="hessian", initial_damping=0.1)
    result = minimize(DoubleWell(), method, [1e-3, 0.7], steps=60)
    assert abs(abs(result.x[0]) - 1) < 1e-6


def test_a_convex_loss_has_the_same_step_with_both_curvatures():
    problem = PROBLEMS["linear-least-squares"].build(get_backend())
    rng = np.random.default_rng(9)
    x, z = rng.standard_normal((2, problem.n))
    one, other = (
        step_from(problem, x, z, 0.5, CurveBall(curvature=c, adapt_every=0)) for c in ("gauss-newton", "hessian")
    )
    np.testing.assert_allclose(one.x, other.x, rtol=1e-10)
    assert one.info.predicted_change == pytest.approx(other.info.predicted_change)
