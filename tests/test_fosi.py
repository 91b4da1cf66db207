"""FOSI: a Newton step along extreme eigenvectors beside a first-order step in the rest.

Oracles: a split step of 60-digit arithmetic; the recursion written out with NumPy's dense eigenvectors, over whole
runs; saddle-free Newton and the base methods, which it contains; counts written down by hand.
"""

import copy
import io
from dataclasses import dataclass, replace

import numpy as np
import pytest
from golden_vectors import golden

from refimpl import get_backend, minimize
from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.optimizers import fosi
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.oracle import Counts, Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic, gaussian_symmetric
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock

HADAMARD = 0.5 * np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
CURVATURES = [-2.0, -0.5, 0.75, 4.0]
SLOPE = [0.3, -1.2, 0.5, 0.9]
GOLDEN = golden("elmo")["newton_sfn_cauchy_4x4"]

BASES = [GradientDescent(0.05), HeavyBall(0.02, 0.7), Nesterov(0.02, 0.7), Adam(0.03, 0.8, 0.95), AdamW(0.03)]
BY_BASE = pytest.mark.parametrize("base", BASES, ids=lambda base: base.name)


def four(backend=None):
    """A quadratic with the eigenvectors of a Hadamard matrix and the gradient SLOPE at zero."""
    matrix = (HADAMARD * CURVATURES) @ HADAMARD.T
    return Quadratic(matrix, linear=SLOPE, backend=backend)


def step_from_zero(problem, method):
    x = problem.backend.zeros(problem.n)
    found = method.step(problem.at(x), method.init(x))
    return to_numpy(found.x), found


def batches(seed=0, **options):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((40, 3)), rng.integers(0, 3, 40)
    return MLP((3, 4, 3), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch", batch_size=10,
               **options)  # fmt: skip


# -- one step ---------------------------------------------------------------------------------------------------------


def test_split_step_golden():
    np.testing.assert_allclose(four().at(np.zeros(4)).gradient, SLOPE, rtol=1e-15)
    for seed in range(5):  # other vectors to start from, other signs of the eigenvectors
        x, found = step_from_zero(four(), FOSI(GradientDescent(0.01), 1, 1, alpha=0.1, seed=seed))
        np.testing.assert_allclose(x, GOLDEN["fosi_sgd"], rtol=1e-12)
        assert found.info.smallest_ritz == pytest.approx(-2.0, rel=1e-13)
        assert found.info.largest_ritz == pytest.approx(4.0, rel=1e-13)
        assert found.info.refreshed
        assert found.info.factor == 1.0
        coefficients = HADAMARD.T @ SLOPE
        assert found.info.share == pytest.approx((coefficients[[0, 3]] ** 2).sum() / np.dot(SLOPE, SLOPE), rel=1e-12)


def test_all_eigenvectors_make_saddle_free_newton():
    for pairs in ((4, 0), (0, 4), (2, 2), (3, 5)):
        x, _ = step_from_zero(four(), FOSI(Adam(0.1), *pairs, alpha=1.0, momentum=0.0))
        np.testing.assert_allclose(x, GOLDEN["sfn"], rtol=1e-12)
    rng = np.random.default_rng(3)
    problem = Quadratic(gaussian_symmetric(9, rng), linear=rng.standard_normal(9))
    x, _ = step_from_zero(problem, FOSI(GradientDescent(1.0), 9, alpha=1.0))
    expected, _ = step_from_zero(problem, SaddleFreeNewton())
    np.testing.assert_allclose(x, expected, rtol=1e-9)


@BY_BASE
def test_no_eigenvectors_make_the_base(base):
    for method in (FOSI(base, 0, 0), FOSI(base, 5, warmup=31)):
        expected = minimize(batches(), base, steps=30, seed=2)
        found = minimize(batches(), method, steps=30, seed=2)
        np.testing.assert_array_equal(found.x, expected.x)
        assert found.counts == expected.counts
        assert not found.trace["refreshed"][:-1].any()


@BY_BASE
def test_the_two_parts_are_orthogonal(base):
    rng = np.random.default_rng(1)
    problem = Quadratic(gaussian_symmetric(12, rng), linear=rng.standard_normal(12))
    _, found = step_from_zero(problem, FOSI(base, 3, 2, alpha=0.3, momentum=0.0))
    vectors, h, g = found.state.vectors, problem.matrix, problem.at(np.zeros(12)).gradient
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-13)
    values, q = np.linalg.eigh(h)
    extreme = q[:, [0, 1, 9, 10, 11]]
    newton = -0.3 * extreme @ (extreme.T @ g / np.abs(values[[0, 1, 9, 10, 11]]))
    rest = found.x - newton
    assert abs(newton @ rest) < 1e-12 * np.linalg.norm(newton) * np.linalg.norm(rest)
    np.testing.assert_allclose(extreme.T @ rest, 0, atol=1e-12)
    assert np.linalg.norm(rest) > 1e-3


def test_scaling_compares_the_largest_with_the_last_of_the_largest():
    for spectrum, largest, scaling, factor in (
        ([4.0, 2.5, 1.0, 0.1], 2, None, 1.6), ([4.0, 2.5, 1.0, 0.1], 3, None, 3.0),
        ([4.0, 2.5, 1.0, 0.1], 3, 10.0, 4.0), ([4.0, 2.5, 1.0, 0.1], 1, 10.0, 1.0),
        ([4.0, 2.5, 1.0, 0.1], 2, 1.0, 1.0), ([1.0, -4.0, -5.0, -6.0], 2, None, 1.0),
    ):  # fmt: skip
        problem = Quadratic.from_spectrum(spectrum, seed=2)
        method = FOSI(GradientDescent(0.1), largest, scaling=scaling)
        x0 = np.ones(4)
        found = method.step(problem.at(x0), method.init(x0))
        assert found.info.factor == pytest.approx(factor, rel=1e-12)
        values, q = np.linalg.eigh(problem.matrix)
        top, g = q[:, -largest:], problem.at(x0).gradient
        rest = g - top @ (top.T @ g)
        newton = top @ (top.T @ g / np.abs(values[-largest:]))
        np.testing.assert_allclose(x0 - found.x, 0.1 * factor * rest + 0.1 * newton, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(
    ("base", "momentum", "average", "scaling"),
    [(BASES[0], 0.0, "sum", 3.0), (BASES[1], 0.7, "sum", 3.0), (BASES[2], 0.7, "sum", 3.0),
     (BASES[3], 0.8, "mean", 1.0), (BASES[4], 0.9, "mean", 1.0)],
)  # fmt: skip
def test_what_the_base_decides(base, momentum, average, scaling):
    given = FOSI(base, 2, 1, 3, momentum=momentum, average=average, scaling=scaling)
    one, other = (minimize(batches(), method, steps=20) for method in (FOSI(base, 2, 1, 3), given))
    np.testing.assert_array_equal(one.x, other.x)


@pytest.mark.parametrize(("base", "average"), [(Adam(0.02, 0.6), "mean"), (HeavyBall(0.02, 0.6), "sum")])
def test_momentum_is_the_documented_recursion(base, average):
    # All eigenvectors: the base has nothing to do, and Newton's part is the whole step.
    problem = Quadratic.from_spectrum([5.0, -1.0, 2.0], seed=1, linear=[1.0, -2.0, 0.5])
    found = minimize(problem, FOSI(base, 3, alpha=0.2), np.ones(3), steps=6)
    values, q = np.linalg.eigh(problem.matrix)
    inverse = (q / np.abs(values)) @ q.T
    x, m = np.ones(3), np.zeros(3)
    for _ in range(6):
        m = 0.6 * m + (0.4 if average == "mean" else 1.0) * problem.at(x).gradient
        x = x - 0.2 * inverse @ m
    np.testing.assert_allclose(found.x, x, rtol=1e-10)


def test_damping_is_a_floor():
    x, _ = step_from_zero(four(), FOSI(GradientDescent(1.0), 4, alpha=1.0, damping=1.5))
    expected = -HADAMARD @ (HADAMARD.T @ SLOPE / np.maximum(np.abs(CURVATURES), 1.5))
    np.testing.assert_allclose(x, expected, rtol=1e-12)


# -- runs -------------------------------------------------------------------------------------------------------------


def dense_run(problem, steps, seed, knobs):
    """FOSI on heavy ball with NumPy's eigenvectors of the dense Hessian of each sample that Lanczos would see."""
    rate, mu, k, l, interval, warmup, alpha = knobs
    rng = np.random.default_rng(seed)
    x = problem.initial(rng)
    velocity, momentum, v, factor = np.zeros_like(x), np.zeros_like(x), np.zeros((0, x.size)), 1.0
    values = np.zeros(0)
    for t in range(steps):
        point = problem.at(x, problem.draw(rng))
        if t >= warmup and (t - warmup) % interval == 0:
            w, q = np.linalg.eigh(point.hessian())
            chosen = [*range(l), *range(len(w) - k, len(w))]
            values, v, factor = w[chosen], q[:, chosen].T, np.clip(abs(w[-1] / w[-k]), 1, 3)
        g = point.gradient
        g1 = v.T @ v @ g
        momentum = mu * momentum + g1
        velocity = mu * velocity + rate * (g - g1)
        base = velocity - v.T @ v @ velocity
        x = x - factor * base - alpha * v.T @ (v @ momentum / np.abs(values))
    return x


@pytest.mark.parametrize(
    "knobs", [(0.2, 0.5, 3, 1, 4, 0, 0.1), (0.1, 0.9, 2, 2, 7, 3, 0.05), (0.3, 0.0, 4, 0, 1, 10, 0.5)]
)
def test_runs_are_those_of_dense_eigenvectors(knobs):
    # 31 parameters: 32 Lanczos steps and more find the whole spectrum.
    rate, mu, k, l, interval, warmup, alpha = knobs
    more = max(0, 8 - k - l)
    for seed in range(3):
        problem, method = batches(seed), Full(HeavyBall(rate, mu), k, l, interval, warmup, alpha, more=more)
        found = minimize(problem, method, steps=25, seed=seed)
        np.testing.assert_allclose(found.x, dense_run(batches(seed), 25, seed, knobs), rtol=1e-6, atol=1e-8)


@dataclass(frozen=True)
class Full(FOSI):
    """FOSI whose Lanczos processes take 4 ``more`` steps, so that they end with the whole spectrum."""

    more: int = 0

    def _extreme_pairs(self, point, process):
        original = fosi.lanczos
        longer = lambda *given, **knobs: original(*given[:2], given[2] + 4 * self.more, **knobs)  # noqa: E731
        fosi.lanczos = longer
        try:
            return super()._extreme_pairs(point, process)
        finally:
            fosi.lanczos = original


def test_products_are_counted():
    method = FOSI(GradientDescent(0.01), 2, 1, interval=5, warmup=3)
    result = minimize(batches(), method, steps=14)
    assert result.counts == Counts(gradient=14 + 1, hvp=3 * 4 * 3)  # steps 3, 8, 13, and the last look
    assert np.flatnonzero(result.trace["refreshed"][:-1]).tolist() == [3, 8, 13]
    assert np.isnan(result.trace["largest_ritz"][:3]).all()
    few = minimize(Quadratic.from_spectrum([3.0, 2.0, 1.0], seed=0), FOSI(GradientDescent(0.1), 3), steps=1)
    assert few.counts.hvp == 3  # no more than n


def test_saddle_is_left_and_newton_is_not():
    start = [1.0, 1e-4]
    away = minimize(HorseSaddle(), FOSI(GradientDescent(0.05), 1, 1, interval=1, alpha=0.5), start, steps=10)
    newton = minimize(HorseSaddle(), Newton(), start, steps=10)
    values, vectors = np.linalg.eigh(HorseSaddle().at(np.zeros(2)).hessian())
    assert values[0] < 0 < values[1]
    downhill = vectors[:, 0]
    assert abs(downhill @ away.x) > 30 * 1e-4
    assert np.linalg.norm(newton.x) < 1e-12
    assert away.loss < -1e-7


@pytest.mark.parametrize("largest", [2, 3])
def test_multiple_eigenvalues_and_zeros_leave_the_rest_to_the_base(largest):
    # diag(2, 2, 0, 0): Lanczos sees 2 and 0 once each; 0 is no curvature to divide by.
    problem = Quadratic(np.diag([2.0, 2.0, 0.0, 0.0]), linear=[1.0, -2.0, 3.0, 4.0])
    x, found = step_from_zero(problem, FOSI(GradientDescent(0.1), largest, alpha=1.0))
    assert found.state.eigenvalues.tolist() == pytest.approx([2.0])
    assert np.isfinite(x).all()
    np.testing.assert_allclose(x[2:], [-0.3, -0.4], rtol=1e-12)
    flat = Quadratic(np.zeros((3, 3)), linear=[1.0, 2.0, 3.0])
    x, found = step_from_zero(flat, FOSI(GradientDescent(0.1), largest))
    np.testing.assert_allclose(x, [-0.1, -0.2, -0.3], rtol=1e-12)
    assert np.isnan(found.info.largest_ritz)


def test_zero_gradient_stands_still():
    problem = Quadratic(np.diag([2.0, 1.0, -1.0]))
    x, found = step_from_zero(problem, FOSI(HeavyBall(0.1), 1, 1))
    assert x.tolist() == [0.0, 0.0, 0.0]
    assert found.info.share == 0.0


class Broken(Problem):
    """A quadratic whose products are not finite at negative places."""

    def __init__(self):
        self.inner = Quadratic(np.diag([3.0, 2.0, 1.0]), linear=[1.0, 1.0, 1.0])
        super().__init__(3)

    def initial(self, rng):
        return np.ones(3)

    def evaluation(self, x, sample):
        found = self.inner.evaluation(x, sample)
        if x[0] < 0:
            found.hvp = lambda v: v * np.nan
        return found


def test_products_that_are_not_finite_leave_the_pairs_from_before():
    method, problem = FOSI(GradientDescent(0.1), 2, interval=1), Broken()
    good = method.step(problem.at(np.ones(3)), method.init(np.ones(3)))
    bad = method.step(problem.at(-np.ones(3)), good.state)
    assert bad.state.eigenvalues.tolist() == good.state.eigenvalues.tolist()
    assert np.isfinite(bad.x).all()
    start = method.step(problem.at(-np.ones(3)), method.init(np.ones(3)))
    np.testing.assert_allclose(start.x, -1 - 0.1 * problem.at(-np.ones(3)).gradient)
    lost = method.step(problem.at(np.full(3, np.nan)), good.state)
    assert np.isnan(lost.x).all()


# -- precision, libraries, other callers ------------------------------------------------------------------------------


def test_the_lanczos_basis_is_in_float64(monkeypatch):
    seen = []

    def watched(matvec, start, steps, **knobs):
        seen.append((dtype_name(start.dtype), dtype_name(matvec(start).dtype)))
        return original(matvec, start, steps, **knobs)

    original = fosi.lanczos
    monkeypatch.setattr(fosi, "lanczos", watched)
    problem = batches(backend=get_backend("numpy", "float32"))
    result = minimize(problem, FOSI(Adam(0.01), 4, 2, 5), steps=12)
    assert seen == [("float64", "float64")] * 3
    assert result.x.dtype == result.state.vectors.dtype == result.state.eigenvalues.dtype == np.float32
    v = result.state.vectors
    np.testing.assert_allclose(v @ v.T, np.eye(6), atol=5e-7)


@BY_BASE
def test_every_backend(base, backend):
    method = FOSI(base, 2, 1, interval=2, warmup=1, seed=4)
    start = [0.2, 1.0, -0.5, 0.7]
    result = minimize(DoubleWell(n=4, backend=backend), method, start, steps=5)
    reference = minimize(DoubleWell(n=4), method, start, steps=5)
    tolerance = 5e-4 if backend.dtype_name == "float32" else 1e-9
    np.testing.assert_allclose(to_numpy(result.x), reference.x, rtol=tolerance, atol=tolerance)
    assert result.counts == reference.counts
    for array in (result.x, result.state.momentum, result.state.vectors, result.state.eigenvalues):
        assert dtype_name(array.dtype) == backend.dtype_name
        assert device_of(array) == backend.device


def test_a_base_of_second_order_is_refused_by_name():
    with pytest.raises(ValueError, match="asked for 'hessian'"):
        minimize(Rosenbrock(), FOSI(SaddleFreeNewton(), 1), [0.0, 1.0], steps=1)


def test_torch_optimizer_and_its_saved_state():
    torch = pytest.importorskip("torch")
    from refimpl.torch_optim import MethodOptimizer

    def training():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        inputs, targets = torch.randn(20, 3).double(), torch.randn(20, 2).double()
        return model, lambda: torch.nn.functional.mse_loss(model(inputs), targets)

    def flat(model):
        return torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    method = FOSI(Adam(0.02), 3, 1, interval=4)
    model, closure = training()
    optimizer = MethodOptimizer(model.parameters(), method)
    losses = [float(optimizer.step(closure)) for _ in range(9)]
    assert losses[-1] < losses[0]
    assert optimizer.counts == Counts(gradient=9, hvp=3 * 16)

    again, other_closure = training()
    first = MethodOptimizer(again.parameters(), method)
    for _ in range(5):
        first.step(other_closure)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = MethodOptimizer(again.parameters(), replace(method, base=Adam(0.5)))
    second.load_state_dict(torch.load(file, weights_only=False))  # the base is an object, and not plain data
    assert second.method == method
    third = copy.deepcopy(second)
    assert third.counts == second.counts
    for _ in range(4):
        second.step(other_closure)
    assert torch.equal(flat(again), flat(model))
