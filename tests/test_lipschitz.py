"""Constants L_i that make the sum of majorizers a bound, and some that do not.

Oracles: golden rows worked by hand; NumPy's einsum; the remainder of cubic losses, which is their third derivative;
cases in which the bound is reached. The negative tests keep false constants false.
"""

import numpy as np
import pytest
from golden_vectors import golden

from refimpl.arrays import get_backend, machine_epsilon, to_numpy
from refimpl.curvature.cubic import elmo_step, least_majorizer
from refimpl.curvature.lipschitz import own_direction, rotated, row_sum, row_sum_bound, separable, uniform
from refimpl.problems.cubic_beds import RandomSines, SeparableCubic
from refimpl.problems.quadratic import random_orthogonal
from refimpl.problems.quartics import BentWell, TripleWell, Well

GOLDEN = golden("elmo")["lipschitz_rowsum"]


def tensor(rng, n):
    """A random symmetric tensor."""
    t = rng.standard_normal((n, n, n))
    return sum(t.transpose(p) for p in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))) / 6


def remainder(third, d):
    """What a cubic loss differs from its quadratic model."""
    return np.einsum("ijk,i,j,k", third, d, d, d) / 6


def bound(constants, vectors, d):
    return float(np.sum(constants * np.abs(vectors.T @ d) ** 3) / 6)


def of_product(n, entries):
    """The symmetric tensor with the entries of the golden rows: "112" is T_112 and its permutations."""
    third = np.zeros((n, n, n))
    for name, value in entries.items():
        i, j, k = (int(a) - 1 for a in name)
        for place in ((i, j, k), (i, k, j), (j, i, k), (j, k, i), (k, i, j), (k, j, i)):
            third[place] = value
    return third


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["desc"])
def test_golden_row_sums(case, backend):
    n = len(case["L"])
    third, identity = of_product(n, case["T_nonzero"]), np.eye(n)
    for function in (row_sum, row_sum_bound):
        found = to_numpy(function(backend.asarray(third), backend.asarray(identity)))
        np.testing.assert_array_equal(found, case["L"])
    d = np.array(case["point"])
    assert remainder(third, d) == pytest.approx(case["remainder"], rel=1e-14)
    # Reached: the row sum cannot be made smaller.
    assert bound(np.array(case["L"]), identity, d) == pytest.approx(case["bound"], rel=1e-14)
    assert case["bound"] == pytest.approx(case["remainder"])


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_rotated_and_row_sums_against_einsum(n, backend):
    rng = np.random.default_rng(n)
    third, vectors = tensor(rng, n), random_orthogonal(n, rng)
    turned = np.einsum("abc,ai,bj,ck->ijk", third, vectors, vectors, vectors)
    given = backend.asarray(third), backend.asarray(vectors)
    tolerance = {"rtol": 0, "atol": 50 * n**2 * machine_epsilon(given[0])}
    np.testing.assert_allclose(to_numpy(rotated(*given)), turned, **tolerance)
    np.testing.assert_allclose(to_numpy(row_sum(*given)), np.abs(turned).sum(axis=(1, 2)), **tolerance)
    np.testing.assert_allclose(to_numpy(own_direction(*given)), np.abs(np.einsum("iii->i", turned)), **tolerance)
    size, sides = np.abs(third), np.abs(vectors)
    wanted = np.einsum("abc,ai,bj,ck->i", size, sides, sides, sides)
    found = to_numpy(row_sum_bound(backend.asarray(size), given[1]))
    np.testing.assert_allclose(found, wanted, rtol=50 * n * machine_epsilon(given[0]))


# -- what is valid ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 6])
def test_row_sums_bound_the_remainder_of_random_cubics_in_any_basis(n):
    rng = np.random.default_rng(10 + n)
    worst = {"row": 0.0, "entrywise": 0.0, "own": 0.0}
    for _ in range(200):
        third, vectors = tensor(rng, n), random_orthogonal(n, rng)
        constants = {
            "row": row_sum(third, vectors), "entrywise": row_sum_bound(np.abs(third), vectors),
            "own": own_direction(third, vectors),
        }  # fmt: skip
        for _ in range(50):
            d = vectors @ (rng.standard_normal(n) * 10.0 ** rng.uniform(-1, 1, n))
            for key, found in constants.items():
                worst[key] = max(worst[key], abs(remainder(third, d)) / bound(found, vectors, d))
    assert worst["row"] <= 1
    assert worst["entrywise"] <= worst["row"]
    # Not an idle bound in the plane; and slopes along the own directions are far from one, in every dimension.
    assert worst["row"] > {2: 0.9, 3: 0.5, 6: 0.1}[n]
    assert worst["own"] > 3


@pytest.mark.parametrize("n", [2, 3, 6])
def test_entrywise_suprema_bound_every_tensor_below_them(n):
    rng = np.random.default_rng(20 + n)
    for _ in range(50):
        top, vectors = np.abs(tensor(rng, n)), random_orthogonal(n, rng)
        most = row_sum_bound(top, vectors)
        for _ in range(20):
            below = top * tensor(rng, n).clip(-1, 1)
            assert (row_sum(below, vectors) <= most * (1 + 1e-13)).all()


def test_uniform_constant_bounds_sums_of_sines():
    rng = np.random.default_rng(30)
    for n in range(2, 9):
        f = RandomSines.random(n, terms=3, seed=n)
        constant = uniform(f.lipschitz, n)
        assert constant == pytest.approx(f.lipschitz * n**0.5, rel=1e-15)
        for _ in range(50):
            x, d = rng.uniform(-5, 5, n), rng.standard_normal(n) * 10.0 ** rng.uniform(-2, 0)
            point, vectors = f.at(x), random_orthogonal(n, rng)
            left = float(f.loss(x + d)) - float(point.loss) - point.gradient @ d - 0.5 * d @ point.hvp(d)
            rounding = 1e-14 * (-f.lower_bound)
            assert abs(left) <= bound(np.full(n, constant), vectors, d) + rounding
            # The entrywise suprema are another valid choice, for the same steps.
            assert abs(left) <= bound(row_sum_bound(f.third_derivative_bound(), vectors), vectors, d) + rounding


@pytest.mark.parametrize("make", [Well, TripleWell, BentWell])
def test_suprema_over_a_ball_bound_quartics_within_it(make):
    f, rng = make(), np.random.default_rng(31)
    for _ in range(300):
        x, radius = rng.uniform(-2, 2, 2), 10.0 ** rng.uniform(-2, 0.5)
        d = rng.standard_normal(2)
        d *= radius * rng.uniform(0, 1) / np.linalg.norm(d)
        point, vectors = f.at(x), random_orthogonal(2, rng)
        constants = row_sum_bound(f.third_derivative_bound(x, radius), vectors)
        left = float(f.loss(x + d)) - float(point.loss) - point.gradient @ d - 0.5 * d @ point.hvp(d)
        assert abs(left) <= bound(constants, vectors, d) + 1e-13


def test_separable_constants_of_a_bed_in_any_basis(backend):
    bed = SeparableCubic.balanced(5, 1.0, seed=1)
    rng = np.random.default_rng(32)
    for _ in range(100):
        vectors = random_orthogonal(5, rng)
        constants = separable(bed.directions, bed.slopes, vectors)
        x, d = 10.0 ** rng.uniform(-1, 1) * rng.standard_normal((2, 5))
        point = bed.at(x)
        left = float(bed.loss(x + d)) - float(point.loss) - point.gradient @ d - 0.5 * d @ point.hvp(d)
        assert abs(left) <= bound(constants, vectors, d) * (1 + 1e-12) + 1e-13 * abs(float(point.loss))
    given = [backend.asarray(a) for a in (bed.directions, bed.slopes, vectors)]
    np.testing.assert_allclose(to_numpy(separable(*given)), constants, rtol=100 * machine_epsilon(given[0]))


def test_separable_constants_are_the_slopes_in_their_own_basis_and_row_sums_of_each_term():
    rng = np.random.default_rng(33)
    q, slopes = random_orthogonal(4, rng), 10.0 ** rng.uniform(-2, 2, 4)
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    np.testing.assert_allclose(separable(q, slopes, q * signs), slopes, rtol=1e-11)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(separable(q, slopes, q[:, order]), slopes[order], rtol=1e-11)
    vectors = random_orthogonal(4, rng)
    terms = [s * np.einsum("i,j,k->ijk", a, a, a) for s, a in zip(slopes, q.T, strict=True)]
    wanted = sum(row_sum(term, vectors) for term in terms)
    np.testing.assert_allclose(separable(q, slopes, vectors), wanted, rtol=1e-13)
    # Fewer directions than coordinates will do.
    np.testing.assert_allclose(
        separable(q[:, :2], slopes[:2], vectors), sum(row_sum(t, vectors) for t in terms[:2]), rtol=1e-13
    )


def test_step_with_uniform_constants_gains_what_it_promises_where_the_bound_is_reached():
    # f = -a·x + (a·x)^3/6 with a = (1, ..., 1)/3 in nine dimensions: H = 0 and L_H = 1 at the origin.
    a = np.full(9, 1 / 3)

    def f(x):
        return -a @ x + (a @ x) ** 3 / 6

    valid = uniform(1.0, 9)
    x = elmo_step(np.zeros(9), a, np.full(9, valid))
    promised = float(np.sum(least_majorizer(np.zeros(9), a, np.full(9, valid))))
    assert f(x) == pytest.approx(promised, rel=1e-13)
    assert promised == pytest.approx(-(2**0.5) * 2 / 3, rel=1e-13)
    assert row_sum(np.einsum("i,j,k->ijk", a, a, a), np.eye(9)) == pytest.approx(np.full(9, valid), rel=1e-13)


# -- what is not ------------------------------------------------------------------------------------------------------


def test_lipschitz_constant_of_the_hessian_is_no_bound_direction_by_direction():
    # The same loss with L_H itself: 1.63 is promised, nothing is gained.
    a = np.full(9, 1 / 3)
    x = elmo_step(np.zeros(9), a, np.ones(9))
    promised = float(np.sum(least_majorizer(np.zeros(9), a, np.ones(9))))
    assert promised == pytest.approx(-9 * 8**0.5 / 3 * 3**-1.5, rel=1e-13)
    assert -a @ x + (a @ x) ** 3 / 6 == pytest.approx(0.0, abs=1e-14)


def test_slopes_of_the_eigenvalues_are_no_bound():
    # f = x^2/2 + y^2 + x^2 y at the origin: no eigenvalue changes along its own direction, yet f leaves its model.
    third = of_product(2, {"112": 2.0})
    assert own_direction(third, np.eye(2)).tolist() == [0.0, 0.0]
    d = np.array([0.5, 0.5])
    assert remainder(third, d) == 0.125 > bound(own_direction(third, np.eye(2)), np.eye(2), d) == 0.0
    # The slopes of both eigenvalues along x are indeed zero.
    h = [np.linalg.eigvalsh(np.array([[1.0, 2 * t], [2 * t, 2.0]])) for t in (-1e-5, 1e-5)]
    np.testing.assert_allclose((h[1] - h[0]) / 2e-5, 0.0, atol=1e-9)


# -- at the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [row_sum, row_sum_bound, own_direction, rotated])
@pytest.mark.parametrize(
    ("third", "vectors", "message"),
    [
        (np.zeros((2, 2, 2)), np.eye(3), r"third must have shape \(3, 3, 3\), got \(2, 2, 2\)"),
        (np.zeros((5, 2, 2, 2)), np.eye(2), r"third must have shape \(2, 2, 2\)"),
        (np.zeros((2, 2, 2)), np.zeros((4, 2, 2)), r"vectors must have shape \(n, n\)"),
        (np.zeros((2, 2, 2)), np.zeros((2, 3)), r"vectors must have shape \(n, n\)"),
        (np.zeros((0, 0, 0)), np.zeros((0, 0)), r"vectors must have shape \(n, n\)"),
    ],
)
def test_wrong_tensors(function, third, vectors, message):
    with pytest.raises(ValueError, match=message):
        function(third, vectors)


def test_other_wrong_arguments():
    with pytest.raises(ValueError, match=r"directions must have shape \(3, m\) and slopes \(m,\)"):
        separable(np.eye(2), np.ones(2), np.eye(3))
    with pytest.raises(ValueError, match=r"directions must have shape \(2, m\) and slopes \(m,\)"):
        separable(np.eye(2), np.ones(3), np.eye(2))
    for constant in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="constant must be finite and at least zero"):
            uniform(constant, 3)
    with pytest.raises(ValueError, match="n must be a whole number"):
        uniform(1.0, 0)
    strict = get_backend("array-api-strict")
    with pytest.raises(ValueError, match="one library"):
        row_sum(np.zeros((2, 2, 2)), strict.eye(2))
