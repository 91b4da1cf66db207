"""Every problem of the case table on every backend, against differences, against NumPy, and against itself.

Oracles: five-point central differences of the loss (which know no derivative), algebraic identities (symmetry,
linearity, adjointness), and the NumPy float64 run of the same case for all other backends. Tolerances are powers of
the machine epsilon times the size of what is compared.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pytest
from cases import CASES, PRESENT

from refimpl.arrays import device_of, dtype_name, get_backend, machine_epsilon, namespace, to_numpy
from refimpl.oracle import Counts

DENSE_UP_TO = 64
"""Larger Hessians are asked for in one test only: they cost n products."""
WITH_OUTPUTS = [case for case in CASES if case.has_outputs]
PLAIN = [case for case in CASES if not case.has_outputs]


@cache
def built(case, spec):
    return case.build(spec.get())


@cache
def home(case):
    """The first backend that can hold the case: NumPy in double precision, or Torch for Torch modules."""
    return next(spec for spec in PRESENT if case.runs_on(spec))


@dataclass(frozen=True)
class Setting:
    """A case on a backend, with a place, a sample and vectors that are the same numbers on every backend."""

    case: object
    spec: object

    @cached_property
    def problem(self):
        return built(self.case, self.spec)

    @cached_property
    def sample(self):
        return self.problem.draw(np.random.default_rng(11))

    @cached_property
    def x(self):
        return self.problem.initial(np.random.default_rng(7))

    @property
    def point(self):
        return self.problem.at(self.x, self.sample)

    @cached_property
    def eps(self):
        return machine_epsilon(self.x)

    def array(self, values):
        return self.problem.backend.asarray(values)

    def direction(self, key, n=None):
        """A random unit vector on this backend."""
        v = np.random.default_rng(100 + key).standard_normal(n or self.problem.n)
        return self.array(v / np.linalg.norm(v))

    def slope(self, function, v):
        """The derivative of ``function`` along ``v`` and the size of its values, by a five-point formula."""
        # The step balances truncation h^4 with rounding eps/h; near a kink it must be too small to reach it.
        h = self.eps**0.2 if self.case.smooth else 1e-6
        values = [np.float64(to_numpy(function(self.x + (k * h) * v))) for k in (-2, -1, 1, 2)]
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
        return slope, max(np.abs(value).max() for value in values)

    @cached_property
    def difference_tolerance(self):
        return 10 * self.eps**0.8 if self.case.smooth else 1e-8


def table(cases, difference=False):
    """A parametrization over cases × backends; single precision cannot see past a kink, so it is left out there."""
    pairs = []
    for case in cases:
        for spec in filter(case.runs_on, PRESENT):
            if difference and not case.smooth and spec.dtype == "float32":
                continue
            backend = spec.param()
            pairs.append(pytest.param(Setting(case, spec), id=f"{case.id}-{spec.id}", marks=backend.marks))
    return pytest.mark.parametrize("setting", pairs)


def host(x):
    return np.float64(to_numpy(x))


@table(CASES, difference=True)
def test_gradient_against_differences_of_the_loss(setting):
    gradient = host(setting.point.gradient)
    n = setting.problem.n
    exact = [setting.array(row) for row in np.eye(n)] if n <= 6 else []
    for v in [*exact, setting.direction(0), setting.direction(1)]:
        slope, size = setting.slope(lambda x: setting.problem.loss(x, setting.sample), v)
        scale = 1 + size + np.linalg.norm(gradient) * (1 + np.linalg.norm(host(setting.x)))
        assert abs(slope - gradient @ host(v)) <= setting.difference_tolerance * scale


@table(CASES, difference=True)
def test_hvp_against_differences_of_the_gradient(setting):
    for key in (2, 3):
        v = setting.direction(key)
        slope, size = setting.slope(lambda x: setting.problem.at(x, setting.sample).gradient, v)
        product = host(setting.point.hvp(v))
        scale = 1 + size + np.linalg.norm(product) * (1 + np.linalg.norm(host(setting.x)))
        assert np.abs(slope - product).max() <= setting.difference_tolerance * scale


@table(CASES)
def test_hvp_is_symmetric_and_linear(setting):
    point, u, v = setting.point, setting.direction(4), setting.direction(5)
    hu, hv, both = host(point.hvp(u)), host(point.hvp(v)), host(point.hvp(2.0 * u - 3.0 * v))
    tolerance = 200 * setting.eps * (1 + np.linalg.norm(hu) + np.linalg.norm(hv) + hessian_size(setting))
    assert abs(host(v) @ hu - host(u) @ hv) <= tolerance
    assert np.abs(both - (2 * hu - 3 * hv)).max() <= tolerance


@table(CASES)
def test_hessian_is_symmetric_and_its_columns_are_products(setting):
    point, n = setting.point, setting.problem.n
    dense = host(point.hessian())
    assert dense.shape == (n, n)
    np.testing.assert_array_equal(dense, dense.T)
    tolerance = 200 * setting.eps * (1 + np.abs(dense).max())
    for i in range(0, n, max(1, n // 8)):
        column = host(point.hvp(setting.array(np.eye(n)[i])))
        assert np.abs(dense[:, i] - column).max() <= tolerance


@table(WITH_OUTPUTS, difference=True)
def test_jvp_against_differences_of_the_outputs(setting):
    v = setting.direction(6)
    slope, size = setting.slope(lambda x: setting.problem.at(x, setting.sample).outputs, v)
    product = host(setting.point.jvp(v))
    scale = 1 + size + np.linalg.norm(product) * (1 + np.linalg.norm(host(setting.x)))
    assert np.abs(slope - product).max() <= setting.difference_tolerance * scale


@table(WITH_OUTPUTS)
def test_jvp_and_vjp_are_adjoint(setting):
    point = setting.point
    v, u = setting.direction(7), setting.direction(8, point.outputs.shape[0])
    forward, backward = host(point.jvp(v)), host(point.vjp(u))
    tolerance = 100 * setting.eps * (1 + np.linalg.norm(forward) + np.linalg.norm(backward))
    assert abs(host(u) @ forward - host(v) @ backward) <= tolerance


@table(WITH_OUTPUTS)
def test_gradient_is_the_vjp_of_the_output_gradient(setting):
    point = setting.point
    gradient, chained = host(point.gradient), host(point.vjp(point.output_gradient))
    assert np.abs(gradient - chained).max() <= 200 * setting.eps * (1 + np.linalg.norm(gradient))


@table(WITH_OUTPUTS)
def test_ggnvp_is_symmetric_and_positive_semidefinite(setting):
    point, u = setting.point, setting.direction(9)
    for key in range(10, 16):
        v = setting.direction(key)
        gv, gu = host(point.ggnvp(v)), host(point.ggnvp(u))
        tolerance = 200 * setting.eps * (1 + np.linalg.norm(gv) + np.linalg.norm(gu) + hessian_size(setting))
        assert host(v) @ gv >= -tolerance
        assert abs(host(u) @ gv - host(v) @ gu) <= tolerance


@table([case for case in WITH_OUTPUTS if case.linear_model])
def test_ggnvp_is_the_hessian_product_where_the_model_is_linear(setting):
    point, v = setting.point, setting.direction(16)
    product = host(point.hvp(v))
    assert np.abs(host(point.ggnvp(v)) - product).max() <= 100 * setting.eps * (1 + np.linalg.norm(product))


@table(CASES)
def test_loss_at_the_same_place_is_the_loss(setting):
    point = setting.point
    assert host(point.loss_at(setting.x)) == host(point.loss) == host(setting.problem.loss(setting.x, setting.sample))


@table(CASES)
def test_asking_twice_changes_nothing(setting):
    point, v = setting.point, setting.direction(17)
    first = [host(q) for q in everything(point, v)]
    second = [host(q) for q in everything(point, v)]
    afresh = [host(q) for q in everything(setting.point, v)]
    for a, b, c in zip(first, second, afresh, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@table(CASES)
def test_dtype_and_device_follow_the_input(setting):
    for quantity in everything(setting.point, setting.direction(18)):
        assert namespace(quantity) is setting.problem.backend.xp
        assert dtype_name(quantity.dtype) == setting.spec.dtype
        assert device_of(quantity) == device_of(setting.x)


@table(CASES)
def test_a_point_cannot_go_stale(setting):
    x, v = setting.array(host(setting.x)), setting.direction(19)
    point = setting.problem.at(x, setting.sample)
    x[...] = 0.25
    for ours, theirs in zip(everything(point, v), everything(setting.point, v), strict=True):
        np.testing.assert_array_equal(host(ours), host(theirs))


@table(CASES)
def test_same_seed_gives_the_same_numbers_as_in_double_precision_on_numpy(setting):
    reference = Setting(setting.case, home(setting.case))
    np.testing.assert_allclose(host(setting.x), host(reference.x), rtol=setting.eps, atol=0)
    # Both start from the place as this dtype rounds it, so that only the arithmetic differs.
    there = reference.problem.at(reference.array(host(setting.x)), reference.sample)
    v = setting.direction(20)
    ours = everything(setting.point, v)
    theirs = everything(there, reference.array(host(v)))
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(host(a) - host(b)).max() <= 500 * setting.eps * (1 + np.abs(host(b)).max())


@table([case for case in CASES if case.library is None])
def test_a_batch_is_its_members(setting):
    problem = setting.problem
    assert problem.batched
    places = [problem.initial(np.random.default_rng(k)) for k in (31, 32, 33)]
    vectors = [setting.direction(k) for k in (34, 35, 36)]
    xp = problem.backend.xp
    together = everything(problem.at(xp.stack(places), setting.sample), xp.stack(vectors))
    for i, (x, v) in enumerate(zip(places, vectors, strict=True)):
        for batch, single in zip(together, everything(problem.at(x, setting.sample), v), strict=True):
            one = host(single)
            assert host(batch)[i].shape == one.shape
            assert np.abs(host(batch)[i] - one).max() <= 100 * setting.eps * (1 + np.abs(one).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_counts_are_exact(case):
    setting = Setting(case, home(case))
    n, v, x = setting.problem.n, setting.direction(21), setting.x
    expected = [
        (lambda p: [], Counts()),
        (lambda p: [p.loss], Counts(loss=1)),
        (lambda p: [p.loss, p.loss], Counts(loss=1)),
        (lambda p: [p.gradient], Counts(gradient=1)),
        (lambda p: [p.gradient, p.gradient], Counts(gradient=1)),
        (lambda p: [p.loss, p.gradient, p.loss], Counts(gradient=1)),
        (lambda p: [p.hvp(v), p.hvp(v)], Counts(hvp=2)),
        (lambda p: [p.gradient, p.hvp(v)], Counts(gradient=1, hvp=1)),
        (lambda p: [p.hessian(), p.hessian()], Counts(hvp=n)),
        (lambda p: [p.loss_at(x), p.loss_at(x)], Counts(loss=2)),
        (lambda p: [p.loss, p.loss_at(x)], Counts(loss=2)),
        (lambda p: [p.gradient, p.loss_at(x), p.loss], Counts(loss=1, gradient=1)),
        (lambda p: [p.is_finite()], Counts(gradient=1)),
    ]
    if case.has_outputs:
        u = setting.direction(22, setting.point.outputs.shape[0])
        expected += [
            (lambda p: [p.gradient, p.outputs, p.output_gradient, p.output_hvp(u)], Counts(gradient=1)),
            (lambda p: [p.jvp(v)], Counts(jvp=1)),
            (lambda p: [p.vjp(u), p.vjp(u)], Counts(vjp=2)),
            (lambda p: [p.ggnvp(v)], Counts(jvp=1, vjp=1, ggnvp=1)),
        ]
    for row, (ask, counts) in enumerate(expected):
        point = setting.point
        ask(point)
        assert point.counts == counts, f"row {row} of the table"


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.id)
def test_without_outputs_the_gauss_newton_questions_are_refused(case):
    setting = Setting(case, home(case))
    point, v = setting.point, setting.direction(23)
    assert not point.has_outputs
    asks = [
        lambda: point.outputs,
        lambda: point.output_gradient,
        lambda: point.output_hvp(v),
        lambda: point.jvp(v),
        lambda: point.vjp(v),
        lambda: point.ggnvp(v),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match="not a convex function of outputs"):
            ask()
    assert point.counts == Counts()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_wrong_places_and_vectors_are_refused(case):
    setting = Setting(case, home(case))
    n = setting.problem.n
    single = get_backend(setting.spec.name, "float32").zeros(n)
    for wrong in (setting.array(np.zeros(n + 1)), single, [0.0] * n, setting.array(0.0)):
        with pytest.raises(ValueError, match="x must"):
            setting.problem.at(wrong)
        with pytest.raises(ValueError, match="v must"):
            setting.point.hvp(wrong)
        with pytest.raises(ValueError, match="x_trial must"):
            setting.point.loss_at(wrong)


def test_work_follows_its_documented_weights():
    assert Counts(loss=3, gradient=1, hvp=2, jvp=3, vjp=3, ggnvp=3).work == pytest.approx(1 + 1 + 4 + 2 + 2)


def everything(point, v):
    """All quantities of a point, so that a property can be asked of each."""
    found = [point.loss, point.gradient, point.hvp(v), point.loss_at(point.x + v)]
    if point.problem.n <= DENSE_UP_TO:
        found.append(point.hessian())
    if point.has_outputs:
        u = point.jvp(v)
        found += [point.outputs, point.output_gradient, point.output_hvp(u), u, point.vjp(u), point.ggnvp(v)]
    return found


def hessian_size(setting):
    """About the Frobenius norm of the Hessian: a product with a random unit vector is 1/√n of it."""
    sizes = [np.linalg.norm(host(setting.point.hvp(setting.direction(k)))) for k in (40, 41, 42)]
    return max(sizes) * np.sqrt(setting.problem.n)
