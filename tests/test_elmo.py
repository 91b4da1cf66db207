"""ELMO: the step in all directions, the rules where the paper leaves it open, and what every step is promised to gain.

Oracles: 60-digit numbers (tests/golden/elmo.json); a plain NumPy transcription; the same loss in turned bases; the
method of cubic regularization in one dimension; inequalities that hold for valid constants, on losses whose constants
and least values are known in closed form.
"""

import math

import numpy as np
import pytest
from golden_vectors import golden
from krylov_cases import with_spectrum
from scipy.optimize import brentq

from refimpl import get_backend, minimize
from refimpl.arrays import backend_of, device_of, dtype_name, machine_epsilon, to_numpy
from refimpl.curvature.cubic import elmo_step, least_majorizer
from refimpl.curvature.lipschitz import own_direction, row_sum_bound
from refimpl.curvature.spectrum import Spectrum, eigen
from refimpl.optimizers import elmo as module
from refimpl.optimizers.arc import ARC
from refimpl.optimizers.elmo import ELMO, ELMOState, preconditioner, slopes_and_signs, turned
from refimpl.optimizers.lipschitz_oracles import RowSum, Secant, SelfConsistent, Separable, Uniform, as_oracle
from refimpl.oracle import Counts
from refimpl.problems.cubic_beds import RandomSines, SeparableCubic
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.quartics import BentWell, TripleWell, Well
from refimpl.problems.toy import CoupledSaddle, DoubleWell, HorseSaddle, MonkeySaddle

GOLDEN = golden("elmo")
FOUR = GOLDEN["elmo_4x4"]
CONSTANTS = FOUR["L_by_ascending_eigenvalue"]


def given(values):
    """An oracle that gives these constants, whatever the point."""
    return lambda point, spectrum: backend_of(point.x).asarray(values)


def one_step(method, hessian, gradient, backend=None):
    """The step at x = 0 of g·x + x·Hx/2, and what it reports."""
    problem = Quadratic(hessian, linear=gradient, backend=backend or get_backend())
    x = problem.backend.zeros(problem.n)
    taken = method.step(problem.at(x), method.init(x))
    return to_numpy(taken.x), taken.info


def plain(hessian, gradient, constants):
    """ELMO's step with NumPy, for simple spectra and slopes that are not zero."""
    values, vectors = np.linalg.eigh(hessian)
    c = vectors.T @ gradient
    s = np.sqrt(values**2 + 2 * constants * np.abs(c))
    x = np.where(values > 0, 2 * np.abs(c) / (values + s), (s - values) / constants)
    return -vectors @ (np.sign(c) * x)


def in_a_ball(problem):
    """Row sums of bounds that hold within a radius."""
    return SelfConsistent(lambda x, r, v: row_sum_bound(problem.third_derivative_bound(x, r), v))


# -- golden steps -----------------------------------------------------------------------------------------------------


def test_golden_step(backend):
    eps = machine_epsilon(backend.zeros(1))
    step, info = one_step(ELMO(given(CONSTANTS)), FOUR["H"], FOUR["grad"], backend)
    np.testing.assert_allclose(step, FOUR["step"], rtol=0, atol=50 * eps * np.abs(FOUR["step"]).max())
    assert -info.predicted_change == pytest.approx(FOUR["predicted_decrease"], rel=50 * eps)
    assert info.step_norm == pytest.approx(np.linalg.norm(FOUR["coef"]), rel=50 * eps)
    assert info.smallest_eigenvalue == pytest.approx(FOUR["eigenvalues"][0], rel=20 * eps)
    assert info.largest_eigenvalue == pytest.approx(FOUR["eigenvalues"][-1], rel=20 * eps)
    assert (info.smallest_lipschitz, info.largest_lipschitz) == (0.125, 8.0)
    assert info.accepted
    assert info.kappa == 1
    assert math.isnan(info.ratio)


def test_golden_preconditioner(backend):
    eps = machine_epsilon(backend.zeros(1))
    spectrum, gradient = eigen(backend.asarray(FOUR["H"])), backend.asarray(FOUR["grad"])
    found = preconditioner(spectrum, gradient, backend.asarray(CONSTANTS))
    assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
    np.testing.assert_allclose(to_numpy(found), FOUR["preconditioner"], rtol=100 * eps)
    np.testing.assert_allclose(-to_numpy(found) @ FOUR["grad"], FOUR["step"], rtol=100 * eps)


@pytest.mark.parametrize("tie", [1, -1])
def test_golden_saddle_takes_the_side_it_is_told(tie, backend):
    case = GOLDEN["elmo_saddle"]
    step, info = one_step(ELMO(given(case["L"]), tie=tie), case["H"], case["grad"], backend)
    wanted = case["step_tie_plus" if tie == 1 else "step_tie_minus"]
    np.testing.assert_allclose(step, wanted, rtol=10 * machine_epsilon(backend.zeros(1)))
    promise = float(np.sum(least_majorizer(np.array([-1.0, 2.0]), np.array([0.0, 1.0]), np.array(case["L"]))))
    # Both sides promise the same.
    assert info.predicted_change == pytest.approx(promise, rel=1e-6)


def test_golden_degenerate_step_does_not_depend_on_the_basis(backend):
    case = GOLDEN["elmo_degenerate"]
    step, _ = one_step(ELMO(case["L"]), case["H"], case["grad"], backend)
    np.testing.assert_allclose(step, case["step_cluster_rule"], rtol=10 * machine_epsilon(backend.zeros(1)))
    # Coordinate by coordinate it would be another step.
    alone = -elmo_step(np.zeros(2), np.array(case["grad"]), case["L"])
    np.testing.assert_allclose(alone, case["step_identity_basis"], rtol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_against_a_plain_transcription(n):
    rng = np.random.default_rng(n)
    for _ in range(30):
        h, _ = with_spectrum(rng.standard_normal(n) * 10.0 ** rng.uniform(-2, 2), rng)
        g, constants = rng.standard_normal(n), 10.0 ** rng.uniform(-3, 3, n)
        step, info = one_step(ELMO(given(constants)), h, g)
        np.testing.assert_allclose(step, plain(h, g, constants), rtol=0, atol=1e-9 * np.linalg.norm(step))
        assert info.predicted_change < 0


def test_path_of_a_transcription():
    problem = BentWell()
    method, x = ELMO(7.0), np.array([0.3, 0.9])
    result = minimize(problem, method, x, steps=12)
    for _ in range(12):
        point = problem.at(x)
        x = x + plain(point.hessian(), point.gradient, np.full(2, 7.0))
    np.testing.assert_allclose(result.x, x, rtol=1e-11)


# -- bases ------------------------------------------------------------------------------------------------------------


def test_signs_of_eigenvectors_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    for h, g in ((np.array(FOUR["H"]), np.array(FOUR["grad"])), (np.diag([-1.0, -0.25, 2.0]), np.array([0.0, 0.5, 0]))):
        constants = np.array([0.5, 2.0, 0.125, 8.0])[: len(g)]
        wanted, _ = one_step(ELMO(given(constants)), h, g)
        for _ in range(8):
            signs = rng.choice([-1.0, 1.0], len(g))

            def flipped(matrix, signs=signs):
                found = eigen(matrix)
                return Spectrum(found.eigenvalues, found.eigenvectors * signs)

            monkeypatch.setattr(module, "eigen", flipped)
            step, _ = one_step(ELMO(given(constants)), h, g)
            np.testing.assert_allclose(step, wanted, rtol=0, atol=1e-14 * np.linalg.norm(wanted))
            monkeypatch.undo()


@pytest.mark.parametrize(("first", "count"), [(0, 2), (2, 3), (0, 3), (0, 5)])
def test_bases_of_a_repeated_eigenvalue_change_nothing(monkeypatch, first, count):
    values = np.array([-2.0, -1.0, 0.5, 1.5, 4.0])
    values[first : first + count] = values[first]
    rng = np.random.default_rng(1)
    h, _ = with_spectrum(values, rng)
    g = rng.standard_normal(5)
    wanted, told = one_step(ELMO(0.7), h, g)
    without = []
    for _ in range(8):
        inside = np.eye(5)
        inside[first : first + count, first : first + count] = np.linalg.qr(rng.standard_normal((count, count)))[0]

        def rotated(matrix, inside=inside):
            found = eigen(matrix)
            return Spectrum(found.eigenvalues, found.eigenvectors @ inside)

        monkeypatch.setattr(module, "eigen", rotated)
        step, info = one_step(ELMO(0.7), h, g)
        without.append(one_step(ELMO(0.7, cluster=0.0), h, g)[1].predicted_change)
        assert info.predicted_change == pytest.approx(told.predicted_change, rel=1e-12)
        if values[first] < 0 and count > 2:
            # Without slope, every direction of the eigenspace is as good: a tie not of two sides but of a sphere.
            bend = wanted @ h @ wanted
            assert step @ h @ step == pytest.approx(bend, rel=1e-12)
        else:
            np.testing.assert_allclose(step, wanted, rtol=0, atol=1e-12 * np.linalg.norm(wanted))
        monkeypatch.undo()
    # eigh leaves the repeated values apart by rounding: without a tolerance, even the promise depends on the basis.
    assert max(without) - min(without) > 1e-3 * abs(told.predicted_change)


def test_turned_basis_spans_the_same_spaces_and_one_vector_carries_the_slope(backend):
    rng = np.random.default_rng(2)
    vectors = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    values = [-1.0, -1.0, -1.0, 0.5, 2.0, 2.0]
    spectrum = Spectrum(backend.asarray(values), backend.asarray(vectors))
    for g in (rng.standard_normal(6), -vectors[:, 1], vectors[:, 0] + vectors[:, 4], vectors[:, 3]):
        found = to_numpy(turned(spectrum, backend.asarray(g), 1e-6).eigenvectors)
        tolerance = {"rtol": 0, "atol": 50 * machine_epsilon(backend.zeros(1))}
        np.testing.assert_allclose(found.T @ found, np.eye(6), **tolerance)
        for block in (slice(0, 3), slice(3, 4), slice(4, 6)):
            old, new = vectors[:, block], found[:, block]
            np.testing.assert_allclose(new @ new.T, old @ old.T, **tolerance)
            slopes = np.abs(new.T @ g)
            np.testing.assert_allclose(slopes[0], np.linalg.norm(old.T @ g), **tolerance)
            np.testing.assert_allclose(slopes[1:], 0.0, **tolerance)


def test_eigenvalues_close_in_a_chain_count_as_one():
    values = np.array([1.0, 1.0 + 5e-4, 1.0 + 1e-3, 3.0])
    spectrum = Spectrum(values, np.eye(4))
    g = np.array([3.0, 0.0, 4.0, 1.0])
    slopes = np.abs(turned(spectrum, g, 2e-4).eigenvectors.T @ g)  # 2e-4 times 3 is more than 5e-4
    np.testing.assert_allclose(slopes, [5.0, 0.0, 0.0, 1.0], atol=1e-14)
    np.testing.assert_allclose(turned(spectrum, g, 1e-4).eigenvectors, np.eye(4))


@pytest.mark.parametrize("tie", [1, -1])
def test_tie_follows_the_largest_component(tie):
    # The vector of the eigenvalue -1 is (3, -4)/5 or its negative: turned, -4/5 becomes positive.
    v, w = np.array([3.0, -4.0]) / 5, np.array([4.0, 3.0]) / 5
    h = -np.outer(v, v) + 2 * np.outer(w, w)
    step, _ = one_step(ELMO(1.0, tie=tie), h, np.zeros(2))
    np.testing.assert_allclose(step, tie * 2.0 * -v, rtol=1e-14)


def test_slope_that_is_rounding_is_a_tie_and_one_that_is_not_decides():
    h = np.diag([-1.0, 2.0])
    for c in (1e-18, -1e-18):
        assert one_step(ELMO(1.0), h, np.array([c, 1.0]))[0][0] == pytest.approx(2.0)
    assert one_step(ELMO(1.0), h, np.array([1e-12, 1.0]))[0][0] == pytest.approx(-2.0)
    assert one_step(ELMO(1.0), h, np.array([-1e-12, 1.0]))[0][0] == pytest.approx(2.0)


# -- relations --------------------------------------------------------------------------------------------------------


def test_in_one_dimension_it_is_cubic_regularization_with_half_the_constant():
    rng = np.random.default_rng(3)
    for _ in range(50):
        h, g, constant = rng.standard_normal((1, 1)), rng.standard_normal(1), 10.0 ** rng.uniform(-2, 2)
        step, info = one_step(ELMO(constant), h, g)
        problem = Quadratic(h, linear=g)
        method = ARC(initial_sigma=constant / 2, accept_above=0.0)
        other = method.step(problem.at(np.zeros(1)), method.init(np.zeros(1)))
        np.testing.assert_allclose(step, other.x, rtol=1e-13)
        assert info.predicted_change == pytest.approx(other.info.predicted_change, rel=1e-12)


def test_towards_newton_where_the_constants_vanish():
    rng = np.random.default_rng(4)
    h, vectors = with_spectrum([0.5, 1.0, 4.0], rng)
    g = rng.standard_normal(3)
    newton = -np.linalg.solve(h, g)
    np.testing.assert_allclose(one_step(ELMO(0.0), h, g)[0], newton, rtol=1e-13)
    for constant in (1e-3, 1e-6):
        step, _ = one_step(ELMO(constant), h, g)
        # Each coordinate is short by half of z = L|c|/lam^2.
        short = 1 - (vectors.T @ step) / (vectors.T @ newton)
        z = constant * np.abs(vectors.T @ g) / np.array([0.5, 1.0, 4.0]) ** 2
        np.testing.assert_allclose(short, z / 2, rtol=2 * z.max() + 1e-8)


def test_golden_newton_step_is_longer_in_convex_directions_and_uphill_in_concave_ones():
    known, vectors = GOLDEN["newton_sfn_cauchy_4x4"], np.array(FOUR["V"])
    step, _ = one_step(ELMO(given(CONSTANTS)), FOUR["H"], FOUR["grad"])
    mine, newton, saddle_free = (vectors.T @ np.array(s) for s in (step, known["newton"], known["sfn"]))
    assert (np.abs(mine) < np.abs(newton))[2:].all()
    assert (mine * newton < 0)[:2].all()
    assert (mine * saddle_free > 0).all()


def test_preconditioner_turns_the_gradient_into_the_step():
    rng = np.random.default_rng(5)
    for _ in range(50):
        h, _ = with_spectrum(rng.standard_normal(6) * 10.0 ** rng.uniform(-2, 2), rng)
        g, constants = rng.standard_normal(6), 10.0 ** rng.uniform(-3, 3, 6)
        found = preconditioner(eigen(h), g, constants)
        step, _ = one_step(ELMO(given(constants)), h, g)
        np.testing.assert_allclose(-found @ g, step, rtol=0, atol=1e-12 * np.linalg.norm(step))
        np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-12 * np.abs(found).max())
        assert np.linalg.eigvalsh(found)[0] > 0


def test_preconditioner_does_not_exist_at_a_saddle():
    case = GOLDEN["elmo_saddle"]
    spectrum = eigen(np.array(case["H"]))
    with pytest.raises(ValueError, match="no preconditioner here: along an eigenvector"):
        preconditioner(spectrum, np.array(case["grad"]), np.array(case["L"]))
    with pytest.raises(ValueError, match="no preconditioner"):  # nor where a step is infinite
        preconditioner(spectrum, np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="no preconditioner"):  # nor in a direction without slope or curvature
        preconditioner(eigen(np.zeros((2, 2))), np.array([1.0, 0.0]), np.ones(2))
    # With no slope but positive curvature it is Newton's there.
    found = preconditioner(eigen(np.diag([2.0, 4.0])), np.array([0.0, 1.0]), np.ones(2))
    assert found[0, 0] == pytest.approx(0.5, rel=1e-15)


# -- what a step gains ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Well, TripleWell, BentWell])
@pytest.mark.parametrize("start", [[1e-3, 1.0], [0.0, 0.0], [0.4, -1.0], [0.01, 0.02], [0.3, 0.1]])
def test_self_consistent_row_sums_gain_what_they_promise(make, start):
    problem = make()
    most = {"well": 4, "triple-well": 15, "bent-well": 13}[problem.name]
    result = minimize(
        problem, ELMO(in_a_ball(problem)), start, steps=most, gradient_tolerance=None,
        loss_target=problem.least_value + 1e-8,
    )  # fmt: skip
    losses, promised = result.trace["loss"], result.trace["predicted_change"][:-1]
    assert (np.diff(losses) <= promised + 1e-14).all()
    if make is TripleWell and start == [0.0, 0.0]:
        # Neither slope nor curvature: no second-order method moves.
        assert (losses == losses[0]).all()
    else:
        assert result.status == "converged"


def test_self_consistent_radius_is_the_least_that_holds_its_step():
    problem, x = BentWell(), np.array([0.4, -1.0])
    point = problem.at(x)
    spectrum = eigen(point.hessian())
    slopes = np.abs(spectrum.eigenvectors.T @ point.gradient)

    def excess(radius):
        constants = row_sum_bound(problem.third_derivative_bound(x, radius), spectrum.eigenvectors)
        return np.linalg.norm(elmo_step(spectrum.eigenvalues, slopes, constants)) - radius

    radius = brentq(excess, 1e-6, 10.0)
    wanted = row_sum_bound(problem.third_derivative_bound(x, radius), spectrum.eigenvectors)
    found = in_a_ball(problem)(point, spectrum)
    assert (found >= wanted * (1 - 1e-12)).all()
    np.testing.assert_allclose(found, wanted, rtol=2e-3)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_spread_of_constants_costs_nothing_where_they_are_known(spread, seed):
    bed = SeparableCubic.balanced(50, spread, seed)
    x = bed.initial(np.random.default_rng(seed))
    target = bed.least_value + 1e-8 * (float(bed.loss(x)) - bed.least_value)
    options = {"steps": 25, "gradient_tolerance": None, "loss_target": target}
    known = minimize(bed, ELMO(Separable(bed.directions, bed.slopes)), x, **options)
    assert (known.status, len(known.trace) - 1) == ("converged", 6)
    # The largest constant for all directions is valid too, and the worse the wider they are spread.
    largest = minimize(bed, ELMO(float(bed.slopes.max())), x, **options)
    if spread == 0:
        assert len(largest.trace) == len(known.trace)
    else:
        assert len(largest.trace) - 1 > 18
    for result in (known, largest):
        losses, promised = result.trace["loss"], result.trace["predicted_change"][:-1]
        assert (np.diff(losses) <= promised + 1e-13 * abs(losses[:-1])).all()


def test_rate_of_separable_losses():
    # f_t - f_{t+1} >= sum L x^3/12 with |g+| <= L x^2 and -lam+ <= 1.5 L x along each direction.
    bed = SeparableCubic.balanced(8, 1.0, seed=4)
    x, q, slopes = bed.initial(np.random.default_rng(0)), bed.directions, bed.slopes
    method, least = ELMO(Separable(q, slopes)), bed.least_value
    first, rates = float(bed.loss(x)), []
    for t in range(1, 9):
        point = bed.at(x)
        following = bed.at(method.step(point, ELMOState(1.0)).x)
        moved = np.abs(q.T @ (following.x - x))
        assert float(point.loss - following.loss) >= np.sum(slopes * moved**3) / 12 - 1e-12 * abs(least)
        assert (np.abs(q.T @ following.gradient) <= slopes * moved**2 * (1 + 1e-9) + 1e-12).all()
        curvature = np.einsum("ia,ij,ja->a", q, following.hessian(), q)
        assert (-curvature <= 1.5 * slopes * moved + 1e-12).all()
        x = following.x
        rates.append(np.sum(np.abs(q.T @ following.gradient) ** 1.5 / slopes**0.5))
        assert min(rates) <= 12 * (first - least) / t


def test_uniform_constants_gain_what_they_promise_on_sums_of_sines():
    for n in range(2, 9):
        f, rng = RandomSines.random(n, terms=4, seed=40 + n), np.random.default_rng(n)
        method, x = ELMO(Uniform(f.lipschitz)), rng.uniform(-3, 3, n)
        for _ in range(25):
            point = f.at(x)
            taken = method.step(point, ELMOState(1.0))
            moved, after = taken.x - x, f.at(taken.x)
            rounding = 1e-14 * -f.lower_bound
            assert float(after.loss - point.loss) <= taken.info.predicted_change + rounding
            constant = f.lipschitz * n**0.5
            coordinates = np.abs(eigen(point.hessian()).eigenvectors.T @ moved)
            assert float(point.loss - after.loss) >= constant * np.sum(coordinates**3) / 12 - rounding
            most = (n**0.5 + 1) / 2 * f.lipschitz * (moved @ moved)
            assert np.linalg.norm(after.gradient) <= most + rounding * f.lipschitz
            x = taken.x


def test_slopes_of_eigenvalues_promise_what_the_loss_does_not_keep():
    # On the bent well the coupling is invisible to the eigenvalues' own slopes: a step that should lower f raises it.
    problem = BentWell()

    def own(point, spectrum):
        return own_direction(problem.third_derivative(point.x), spectrum.eigenvectors) + 1e-12

    broken = 0
    for seed in range(20):
        x = np.random.default_rng(seed).uniform(-1, 1, 2)
        point = problem.at(x)
        taken = ELMO(own).step(point, ELMOState(1.0))
        broken += float(problem.loss(taken.x)) - float(point.loss) > 0 > taken.info.predicted_change
    assert broken >= 5


def test_row_sums_of_a_cubic_need_no_safeguard():
    problem = CoupledSaddle()
    third = np.zeros((2, 2, 2))
    third[0, 1, 1] = third[1, 0, 1] = third[1, 1, 0] = 2.0
    for make in (lambda: third, lambda: lambda x: third):
        result = minimize(problem, ELMO(RowSum(make())), [0.6, 0.5], steps=10)
        assert (np.diff(result.trace["loss"]) <= result.trace["predicted_change"][:-1] + 1e-13).all()
    # With entrywise bounds the constants are larger, and the steps shorter.
    point = problem.at(np.array([0.3, 0.4]))
    sharp, wide = (ELMO(RowSum(third, entrywise=e)).step(point, ELMOState(1.0)).info for e in (False, True))
    assert wide.largest_lipschitz > sharp.largest_lipschitz
    assert wide.step_norm < sharp.step_norm


# -- estimates and their safeguard ------------------------------------------------------------------------------------


def test_secants_are_differences_of_curvature_along_each_direction(backend):
    problem = BentWell(backend=backend)
    point = problem.at(backend.asarray([0.7, -0.3]))
    spectrum = eigen(point.hessian())
    wide = BentWell()
    radius = 0.25
    values, vectors = np.linalg.eigh(wide.at(np.array([0.7, -0.3])).hessian())
    signs = np.sign(np.sum(vectors * to_numpy(spectrum.eigenvectors), axis=0))
    vectors = vectors * signs
    wanted = []
    for value, v in zip(values, vectors.T, strict=True):
        there = wide.at(np.array([0.7, -0.3]) + radius * v).hessian()
        wanted.append(abs(v @ there @ v - value) / radius)
    found = to_numpy(Secant(radius)(point, spectrum))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=200 * machine_epsilon(backend.zeros(1)) / radius)


def test_safeguard_by_hand():
    # Along x the secant of the well is right; a constant that is far too small must be refused and doubled.
    problem = DoubleWell()
    method = ELMO(1e-3, safeguard=True)
    x, state = np.array([0.1, 0.0]), method.init(np.zeros(2))
    kappas, refused = [], 0
    for _ in range(25):
        point = problem.at(x)
        taken = method.step(point, state)
        info = taken.info
        assert info.kappa == state.kappa
        change = float(point.loss_at(x + plain_step(point, 1e-3 * state.kappa))) - float(point.loss)
        if abs(change) > 1e-13:
            assert info.ratio == pytest.approx(change / info.predicted_change, rel=1e-6)
            wanted = 2 if info.ratio < 0.1 else 0.5 if info.ratio >= 0.9 else 1
            assert taken.state.kappa == wanted * state.kappa
            assert info.accepted == (info.ratio >= 0.1)
        refused += not info.accepted
        if not info.accepted:
            np.testing.assert_array_equal(taken.x, x)
        kappas.append(state.kappa)
        x, state = taken.x, taken.state
    assert refused >= 5
    assert max(kappas) > 100
    assert abs(abs(x[0]) - 1) < 1e-6


def plain_step(point, constant):
    g, h = point.gradient, point.hessian()
    g = np.where(g == 0, 1e-300, g)
    return plain(h, g, np.full(len(g), constant))


def test_safeguarded_secants_reach_a_minimum_and_never_rise():
    for make, start in ((BentWell, [0.1, 0.9]), (TripleWell, [0.3, 0.1]), (Well, [0.2, 1.5])):
        problem = make()
        result = minimize(problem, ELMO(Secant(1e-2), safeguard=True), start, steps=80)
        assert (np.diff(result.trace["loss"]) <= 1e-14).all()
        assert float(problem.loss(result.x)) == pytest.approx(problem.least_value, abs=1e-10)


def test_noise_floor_stops_the_constants_from_growing():
    problem = BentWell()
    result = minimize(
        problem, ELMO(in_a_ball(problem), safeguard=True), [0.4, -1.0], steps=200, gradient_tolerance=None
    )
    assert result.trace["accepted"][:-1].all()
    assert result.trace["kappa"][:-1].max() == 1.0
    # The steps with rounding for a ratio leave kappa where it is.
    tail = result.trace["kappa"][-50:-1]
    assert (tail == tail[0]).all()
    noisy = minimize(
        problem, ELMO(in_a_ball(problem), safeguard=True, noise=0.0), [0.4, -1.0], steps=200, gradient_tolerance=None
    )
    assert not noisy.trace["accepted"][:-1].all()
    assert noisy.trace["kappa"][:-1].max() > 1e6


# -- cost, edges ------------------------------------------------------------------------------------------------------


def test_cost():
    n = 4
    f = RandomSines.random(n, seed=0)
    plans = [
        (ELMO(1.0), Counts(loss=0, gradient=1, hvp=n)),
        (ELMO(1.0, safeguard=True), Counts(loss=1, gradient=1, hvp=n)),
        (ELMO(Uniform(1.0)), Counts(loss=0, gradient=1, hvp=n)),
        (ELMO(Secant()), Counts(loss=0, gradient=1, hvp=2 * n)),
    ]
    for method, wanted in plans:
        point = f.at(np.full(n, 0.3))
        method.step(point, method.init(point.x))
        assert point.counts == wanted, method


def test_infinite_steps_are_capped_or_end_the_run():
    saddle = HorseSaddle()
    step = ELMO(0.0, maximum_step=3.0).step(saddle.at(np.array([1.0, 0.5])), ELMOState(1.0))
    np.testing.assert_allclose(step.x, [0.0, 3.5], rtol=1e-15)
    # The bound is one of each coordinate.
    step = ELMO(0.0, maximum_step=0.25).step(saddle.at(np.array([1.0, 0.5])), ELMOState(1.0))
    np.testing.assert_allclose(step.x, [0.75, 0.75], rtol=1e-15)
    assert step.info.predicted_change == pytest.approx(float(saddle.loss(step.x)) - 0.75, rel=1e-13)
    assert minimize(saddle, ELMO(0.0), [1.0, 0.5], steps=3).status == "diverged"


def test_no_slope_and_no_curvature_is_no_step():
    taken = ELMO(1.0).step(MonkeySaddle().at(np.zeros(2)), ELMOState(1.0))
    assert taken.x.tolist() == [0.0, 0.0]
    assert (taken.info.step_norm, taken.info.predicted_change) == (0.0, 0.0)


def test_a_place_that_is_not_finite_is_left_alone():
    problem, x = BentWell(), np.array([1e200, 1.0])
    with np.errstate(all="ignore"):
        taken = ELMO(1.0).step(problem.at(x), ELMOState(2.0))
    assert taken.x.tolist() == x.tolist()
    assert not taken.info.accepted
    assert taken.state == ELMOState(2.0)


def test_slopes_and_signs(backend):
    spectrum = Spectrum(backend.asarray([-1.0, 1.0, 2.0]), backend.asarray(np.diag([1.0, -1.0, 1.0])))
    slopes, sides = slopes_and_signs(spectrum, backend.asarray([0.0, 3.0, -2.0]), -1)
    np.testing.assert_array_equal(to_numpy(slopes), [0.0, 3.0, 2.0])
    np.testing.assert_array_equal(to_numpy(sides), [-1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (lambda p, s: np.ones(3), r"must return a numpy array of shape \(2,\)"),
        (lambda p, s: np.ones((2, 1)), r"of shape \(2,\)"),
        (lambda p, s: 1.0, r"of shape \(2,\)"),
        (lambda p, s: [1.0, 2.0], r"of shape \(2,\)"),
        (lambda p, s: np.array([1.0, -1.0]), "finite numbers of at least zero"),
        (lambda p, s: np.array([1.0, np.nan]), "finite numbers of at least zero"),
        (lambda p, s: np.array([1.0, np.inf]), "finite numbers of at least zero"),
        (lambda p, s: get_backend("array-api-strict").asarray([1.0, 1.0]), "must return a numpy array"),
        (SelfConsistent(lambda x, r, v: np.zeros(2)), "no radius that holds"),
        (RowSum(np.zeros((3, 3, 3))), r"third must have shape \(2, 2, 2\)"),
        (Separable(np.eye(3), np.ones(3)), "directions must have shape"),
    ],
)
def test_oracles_that_return_something_else(oracle, message):
    with pytest.raises(ValueError, match=message):
        ELMO(oracle).step(HorseSaddle().at(np.array([1.0, 0.5])), ELMOState(1.0))


def test_a_number_is_an_oracle():
    spectrum = eigen(np.diag([1.0, 2.0]))
    assert as_oracle(3.0)(HorseSaddle().at(np.ones(2)), spectrum).tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="lipschitz must be finite and at least zero"):
        as_oracle(-1.0)
