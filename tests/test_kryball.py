"""KryBall: single steps.

Oracles: 60-digit steps; a step written out with dense NumPy matrices, with bases from Householder QR; lists of products
and losses; what must not change: order and signs of directions.
"""

import dataclasses

import numpy as np
import pytest
from kryball_cases import GOLDEN, Quartic, network

from refimpl import get_backend
from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature import subspace
from refimpl.curvature.trust_region import trust_region_step
from refimpl.optimizers import kryball
from refimpl.optimizers.kryball import KryBall, KryBallState
from refimpl.oracle import Counts
from refimpl.problems.toy import HorseSaddle, Rosenbrock, Wood

AS_GOLDEN = {
    "dimension": GOLDEN["M"], "maximum_radius": GOLDEN["Dmax"], "gain": 0.0, "directions": "three", "refresh": 2,
    "stale": "exact", "retries": 0,
}  # fmt: skip


def start(method, point, **changes):
    """The state before the first step, with changes."""
    return method.init(point.x)._replace(**changes)


def close(found, wanted, backend, slack=1.0):
    tolerance = slack * (2e-13 if backend.dtype_name == "float64" else 2e-5)
    np.testing.assert_allclose(np.asarray(found, dtype=float), wanted, rtol=tolerance, atol=tolerance)


# -- golden -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["step0_refresh", "step_with_large_radius_Delta3"])
def test_refresh_step_golden(key, backend):
    case, problem = GOLDEN[key], Quartic(backend)
    method = KryBall(**AS_GOLDEN)
    point, z = problem.at(backend.asarray(GOLDEN["x"])), backend.asarray(GOLDEN["momentum_direction"])
    taken = method.step(point, start(method, point, radius=case["Delta"], momentum=z))
    info, state = taken.info, taken.state
    close(to_numpy(taken.x), case["x_new"], backend)
    close([info.predicted_change, info.ratio], [-case["pred"], case["rho"]], backend, slack=20)
    close([state.radius, info.multiplier], [case["Delta_new"], case["lam"]], backend, slack=20)
    assert (info.accepted, info.fresh, info.radius) == (case["accepted"], True, case["Delta"])
    assert (info.dimension, info.refused, state.iteration) == (3, int(not case["accepted"]), 1)
    ends = np.linalg.eigvalsh(case["A_k"])[[0, -1]]
    close([info.smallest_ritz, info.largest_ritz], ends, backend, slack=20)
    # What is kept: the Krylov space, and the step if it was taken.
    close(to_numpy(state.basis), np.array(case["Q"]).T, backend)
    close(state.matrix, case["T"], backend)
    close(to_numpy(state.momentum), case["p"] if case["accepted"] else GOLDEN["momentum_direction"], backend)
    for array in (taken.x, state.momentum, state.basis):
        assert (dtype_name(array.dtype), device_of(array)) == (backend.dtype_name, backend.device)
    assert point.counts == Counts(loss=1, gradient=1, hvp=3)


def test_stale_step_golden(backend):
    first, second = GOLDEN["step0_refresh"], GOLDEN["step1_stale_basis_momentum_is_last_step"]
    problem, method = Quartic(backend), KryBall(**AS_GOLDEN)
    point = problem.at(backend.asarray(first["x_new"]))
    state = KryBallState(
        first["Delta_new"], backend.asarray(first["p"]), backend.asarray(np.array(first["Q"]).T), first["T"], 1
    )
    taken = method.step(point, state)
    close(to_numpy(taken.x), second["x_new"], backend)
    values = taken.info.predicted_change, taken.info.ratio, taken.info.multiplier, taken.state.radius
    close(values, [-second["pred"], second["rho"], second["lam"], second["Delta_new"]], backend, slack=20)
    assert (taken.info.dimension, taken.info.fresh, taken.info.accepted) == (4, False, True)
    close(to_numpy(taken.state.momentum), second["p"], backend)
    assert point.counts == Counts(loss=1, gradient=1, hvp=4)


def test_both_steps_in_a_row():
    problem, method = Quartic(), KryBall(**AS_GOLDEN)
    point = problem.at(np.array(GOLDEN["x"]))
    taken = method.step(point, start(method, point, radius=0.5, momentum=np.array(GOLDEN["momentum_direction"])))
    taken = method.step(problem.at(taken.x), taken.state)
    np.testing.assert_allclose(taken.x, GOLDEN["step1_stale_basis_momentum_is_last_step"]["x_new"], rtol=0, atol=1e-13)


def test_momentum_as_printed_is_renewed_a_step_later():
    # Line 20 asks for a gradient that is known in the next step only.
    first, method = GOLDEN["step0_refresh"], KryBall(**AS_GOLDEN | {"momentum": "gradient"})
    problem = Quartic()
    point = problem.at(np.array(GOLDEN["x"]))
    z = np.array(GOLDEN["momentum_direction"])
    taken = method.step(point, start(method, point, radius=0.5, momentum=z))
    np.testing.assert_array_equal(taken.state.momentum, z)
    taken = method.step(problem.at(np.array(first["x_new"])), taken.state)
    wanted = GOLDEN["alt_momentum_after_step0_textual (z<-0.9 z+g_{1})"]
    np.testing.assert_allclose(taken.state.momentum, wanted, rtol=0, atol=1e-14)


# -- against a dense step ---------------------------------------------------------------------------------------------


def dense_subspace(point, m, z, directions):
    """Columns: orthonormal, from QR of powers of the dense Hessian on g (m = 0: none) and z."""
    h, g = point.hessian(), point.gradient
    basis = np.empty((len(g), 0))
    v = g
    for _ in range(m):
        basis = np.linalg.qr(np.c_[basis, v / np.linalg.norm(v)])[0]
        v = h @ basis[:, -1]
    if directions == "three":
        values, u = np.linalg.eigh(basis.T @ h @ basis)
        newton = basis @ (u @ ((u.T @ (basis.T @ g)) / np.abs(values)))
        basis = np.stack([g, newton], axis=1)
    if z.any():
        basis = np.c_[basis, z]
    return np.linalg.qr(basis / np.linalg.norm(basis, axis=0))[0]


def dense_trial(point, basis, radius):
    h, g = point.hessian(), point.gradient
    found = trust_region_step(basis.T @ h @ basis, basis.T @ g, radius)
    return basis @ found.step, found.model


@pytest.mark.parametrize("directions", ["three", "space"])
@pytest.mark.parametrize("momentum", ["step", "gradient", "none"])
@pytest.mark.parametrize("reuse_products", [True, False])
def test_fresh_step_is_that_of_dense_matrices(directions, momentum, reuse_products):
    rng = np.random.default_rng(0)
    for problem, size in [(network(), 1.0), (Wood(), 2.0), (Quartic(), 1.0)]:
        m = min(3, problem.n - 1)
        for radius in (0.01, 0.5, 5.0):
            method = KryBall(
                dimension=m, gain=0.0, directions=directions, momentum=momentum, reuse_products=reuse_products,
                retries=0, initial_radius=radius,
            )  # fmt: skip
            point, z = problem.at(size * rng.standard_normal(problem.n)), rng.standard_normal(problem.n)
            state = start(method, point, momentum=0 * z if momentum == "none" else z)
            taken = method.step(point, state)
            p, predicted = dense_trial(point, dense_subspace(point, m, state.momentum, directions), radius)
            assert taken.info.predicted_change == pytest.approx(predicted, rel=1e-9)
            rho = (float(problem.loss(point.x + p)) - float(point.loss)) / predicted
            assert taken.info.ratio == pytest.approx(rho, rel=1e-6, abs=1e-8)
            np.testing.assert_allclose(taken.x, point.x + p * (rho > 0), rtol=0, atol=1e-7 * radius)


@pytest.mark.parametrize("stale", ["exact", "reuse", "drop"])
def test_stale_step_is_that_of_dense_matrices(stale):
    rng, problem = np.random.default_rng(1), network()
    old, point = (problem.at(rng.standard_normal(problem.n)) for _ in range(2))
    z, radius = rng.standard_normal(problem.n), 0.7
    q = dense_subspace(old, 3, 0 * z, "space")
    method = KryBall(dimension=3, gain=0.0, refresh=5, stale=stale, retries=0)
    known = q.T @ old.hessian() @ q
    taken = method.step(point, KryBallState(radius, z, q.T, known.tolist(), 2))
    h, g = point.hessian(), point.gradient
    own = [g, z] if stale == "drop" else [*q.T, g, z]
    basis = np.linalg.qr(np.stack(own, axis=1))[0]
    matrix = basis.T @ h @ basis
    if stale == "reuse":  # what was known among the old vectors is kept, from the old place
        matrix[:3, :3] = basis[:, :3].T @ old.hessian() @ basis[:, :3]
    found = trust_region_step(matrix, basis.T @ g, radius)
    assert taken.info.predicted_change == pytest.approx(found.model, rel=1e-9)
    assert taken.info.dimension == {"exact": 5, "reuse": 5, "drop": 2}[stale]
    if taken.info.accepted:
        np.testing.assert_allclose(taken.x, point.x + basis @ found.step, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(taken.state.basis, q.T)
    np.testing.assert_array_equal(taken.state.matrix, known)


def test_step_does_not_depend_on_order_and_signs(monkeypatch):
    problem, rng = network(), np.random.default_rng(2)
    x, z = rng.standard_normal(problem.n), rng.standard_normal(problem.n)
    honest = subspace.orthonormalize
    places = []
    for turn in (lambda vs: vs, lambda vs: vs[::-1], lambda vs: [-v for v in vs], lambda vs: [*vs[1:], -3 * vs[0]]):
        monkeypatch.setattr(
            kryball, "orthonormalize", lambda vs, *rest, turn=turn, **knobs: honest(turn(list(vs)), *rest, **knobs)
        )
        method = KryBall(dimension=3, gain=0.0, directions="three", reuse_products=False)
        point = problem.at(x)
        places.append(method.step(point, start(method, point, momentum=z)).x)
        assert np.linalg.norm(places[-1] - x) > 0.1
    np.testing.assert_allclose(places, [places[0]] * 4, rtol=0, atol=1e-9)
    # And the sign of the momentum never matters.
    method = KryBall(dimension=3, gain=0.0)
    point = problem.at(x)
    both = [method.step(point, start(method, point, momentum=s * z)).x for s in (1, -0.25)]
    np.testing.assert_allclose(both[0], both[1], rtol=0, atol=1e-10)


# -- counts -----------------------------------------------------------------------------------------------------------


def products(method, problem, steps, x=None):
    """Products of each step of a run."""
    x = problem.initial(np.random.default_rng(0)) if x is None else x
    state, seen = method.init(x), []
    for _ in range(steps):
        point = problem.at(x)
        taken = method.step(point, state)
        x, state = taken.x, taken.state
        seen.append(point.counts.hvp)
        assert point.counts.gradient == 1
        assert point.counts.loss == taken.info.refused + taken.info.accepted
    return seen


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize("directions", ["three", "space"])
def test_products_of_a_fresh_step(m, directions):
    knobs = {"dimension": m, "gain": 0.0, "directions": directions}
    assert products(KryBall(**knobs), network(), 4) == [m, m + 1, m + 1, m + 1]
    assert products(KryBall(**knobs, momentum="none"), network(), 4) == [m] * 4
    # z = 0.9 z + g: in the second step that is g itself, which lies in the Krylov space.
    assert products(KryBall(**knobs, momentum="gradient"), network(), 4)[2:] == [m + 1] * 2


@pytest.mark.parametrize(
    ("stale", "wanted"),
    [("reuse", [5, 1, 2, 6, 2, 2, 6, 2, 2]), ("drop", [5, 2, 2, 6, 2, 2, 6, 2, 2]),
     ("exact", [5, 6, 7, 6, 7, 7, 6, 7, 7])],
)  # fmt: skip
def test_products_between_refreshes(stale, wanted):
    # The first step lies in the Krylov space, so that the momentum of the second one adds nothing to it.
    found = products(KryBall(dimension=5, gain=0.0, refresh=3, stale=stale), network(), 9)
    assert found == wanted
    if stale != "exact":
        assert np.mean(found) <= 4.0


def test_products_as_published():
    # Refresh steps: M for Arnoldi, and one for each of three directions. Between them: gradient, momentum, M old ones.
    found = products(KryBall.published(), network(), 12)
    assert found[3:] == [8, 7, 7] * 3
    assert np.mean(found[3:]) == pytest.approx(22 / 3)
    # The first steps have no momentum beside the gradient.
    assert found[0] == 7


def test_published_knobs():
    method = KryBall.published(dimension=3)
    assert (method.dimension, method.refresh, method.momentum, method.momentum_factor) == (3, 3, "gradient", 0.9)
    assert (method.retries, method.noise, method.escape_below, method.minimum_radius) == (0, 0.0, 0.0, 0.0)
    assert (method.directions, method.stale, method.reuse_products, method.gain) == ("three", "exact", False, 0.0)
    assert KryBall.published(refresh=1).refresh == 1


def test_counts_of_retries():
    problem = Rosenbrock()
    x = np.array([-0.5, 0.6])
    for seed in range(200):
        x = np.random.default_rng(seed).uniform(-2, 2, 2)
        point = problem.at(x)
        method = KryBall(retries=5, initial_radius=50.0)
        taken = method.step(point, method.init(x))
        if taken.info.refused > 1 and taken.info.accepted:
            break
    assert taken.info.refused > 1
    # One product per direction, one loss per trial, and the last radius is the one that was used.
    assert point.counts == Counts(loss=1 + taken.info.refused, gradient=1, hvp=2)
    assert taken.info.radius <= 0.5**taken.info.refused * 50.0
    alone = dataclasses.replace(method, retries=0)
    refused = alone.step(problem.at(x), alone.init(x))
    assert not refused.info.accepted
    assert (refused.info.refused, refused.info.radius) == (1, 50.0)
    np.testing.assert_array_equal(refused.x, x)
    # The trials are those of so many separate steps that are refused.
    for _ in range(taken.info.refused):
        before, refused = refused, alone.step(problem.at(x), refused.state)
    assert before.info.ratio < 0 or not before.info.accepted
    np.testing.assert_allclose(refused.x, taken.x, rtol=0, atol=1e-12)
    assert refused.state.radius == taken.state.radius
    assert refused.info.radius == taken.info.radius


# -- what must not happen ---------------------------------------------------------------------------------------------


def test_refused_steps_leave_no_trace():
    problem, method = Quartic(), KryBall(**AS_GOLDEN)
    point, z = problem.at(np.array(GOLDEN["x"])), np.array(GOLDEN["momentum_direction"])
    taken = method.step(point, start(method, point, radius=3.0, momentum=z))
    np.testing.assert_array_equal(taken.x, point.x)
    np.testing.assert_array_equal(taken.state.momentum, z)
    assert taken.state.iteration == 1


@pytest.mark.parametrize("beyond", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("retries", [0, 3])
def test_trial_that_is_not_finite_is_refused(beyond, retries, monkeypatch):
    problem, method = network(), KryBall(dimension=3, retries=retries, initial_radius=2.0)
    x = np.random.default_rng(3).standard_normal(problem.n)
    point, asked = problem.at(x), []
    monkeypatch.setattr(point, "loss_at", lambda place: asked.append(place) or np.asarray(beyond))
    taken = method.step(point, method.init(x))
    np.testing.assert_array_equal(taken.x, x)
    assert not taken.info.accepted
    assert (taken.info.ratio, taken.info.refused, len(asked)) == (-1.0, retries + 1, retries + 1)
    assert taken.state.radius <= 2.0 * 0.5 ** (retries + 1)
    assert not taken.state.momentum.any()


@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_no_model_no_step(where):
    problem = HorseSaddle()
    point = problem.at(np.ones(2))
    broken = np.full(2, np.nan) if where == "gradient" else np.asarray(np.nan)
    point._known[where] = broken
    method = KryBall()
    taken = method.step(point, method.init(point.x))
    assert taken.x.tolist() == [1.0, 1.0]
    assert not taken.info.accepted
    assert taken.state.radius == 1.0
    assert point.counts.hvp == 0


@pytest.mark.parametrize("curvature", [np.nan, np.inf])
def test_hessian_that_is_not_finite_gives_no_step_out_of_nowhere(curvature):
    class Broken(HorseSaddle):
        def hessian_at(self, place):
            return np.full((2, 2), curvature)

    method = KryBall()
    point = Broken().at(np.array([1.0, 0.5]))
    with np.errstate(all="ignore"):
        taken = method.step(point, method.init(point.x))
    assert np.isfinite(taken.x).all()


@pytest.mark.parametrize("knobs", [{}, {"directions": "three", "gain": 0.0}, {"refresh": 3}], ids=str)
def test_critical_point_without_curvature_to_follow(knobs):
    bowl = Rosenbrock()
    method = KryBall(**knobs)
    point = bowl.at(np.ones(2))
    taken = method.step(point, method.init(point.x))
    assert taken.x.tolist() == [1.0, 1.0]
    assert taken.info.accepted
    assert not taken.info.escape
    assert taken.state.radius == 1.0
    assert taken.state.iteration == 1


def test_float32_state_is_in_float32():
    problem = Wood(backend=get_backend("numpy", "float32"))
    method = KryBall(dimension=np.int64(3), momentum_factor=np.float64(0.9), initial_radius=np.float64(1.0))
    point = problem.at(np.array([-3, -1, -3, -1], np.float32))
    taken = method.step(point, method.init(point.x))
    assert {a.dtype for a in (taken.x, taken.state.momentum, taken.state.basis)} == {np.dtype("float32")}


@pytest.mark.parametrize("call", [lambda m: m.init(np.zeros((3, 2))), lambda m: m.step(
    HorseSaddle().at(np.zeros((3, 2))), m.init(np.zeros(2)))])  # fmt: skip
def test_one_problem_at_a_time(call):
    with pytest.raises(ValueError, match=r"KryBall runs one problem at a time: x must have shape \(n,\), got \(3, 2\)"):
        call(KryBall())
