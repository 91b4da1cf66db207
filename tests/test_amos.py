"""AMOS against a golden trace (60-digit arithmetic), a plain NumPy transcription over whole runs, and closed forms.

Most tests dictate the estimates of the diagonal and the places, so that every number follows by hand.
"""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from golden_vectors import golden
from network_cases import LOSSES, network

from refimpl import Counts, get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.groups import Groups
from refimpl.optimizers.sophia import Sophia

GOLDEN = golden("sophia_amos")["amos_trace"]
SIZES = (12, 4, 20, 5, 10, 2)
"""Coordinates of the tensors of the network: matrices and biases in turn."""


def scripted_run(method, places, estimates, shapes, backend=None, gradients=None):
    """States and infos after each step of a method that is told where it is and what the diagonal looks like there."""
    backend = backend or get_backend()

    class Scripted(type(method)):
        def _estimate(self, point, steps, draws=1):
            return backend.asarray(estimates[steps])

    method = Scripted(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})
    problem, state, seen = SimpleNamespace(tensor_shapes=shapes), None, []
    for step, place in enumerate(places):
        x = backend.asarray(place)
        gradient = backend.asarray(np.zeros(x.shape[-1]) if gradients is None else gradients[step])
        state = method.init(x) if state is None else state
        x_next, state, info = method.step(SimpleNamespace(x=x, gradient=gradient, problem=problem), state)
        seen.append((to_numpy(x_next), state, info))
    return seen


def amos(**knobs):
    return AMOS(**{"interval": 1, "offload_rate": 0.5, "threshold": 1.0} | knobs)


def flat(parts):
    return np.array([number for part in parts for number in part])


# -- golden ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["mean", "max"])
@pytest.mark.parametrize("corrected", [False, True], ids=["raw", "corrected"])
def test_golden_trace(aggregation, corrected, backend):
    tolerance = 2e-6 if backend.dtype_name == "float32" else 1e-13
    g = GOLDEN
    method = amos(
        alpha=g["alpha_L"], epsilon2=g["eps2"], threshold=g["L_thresh"], aggregation=aggregation,
        bias_correction=corrected,
    )  # fmt: skip
    seen = scripted_run(method, [flat(t) for t in g["theta"]], [flat(v) for v in g["lam"]], ((2,), (1,)), backend)
    _, state, info = seen[0]
    assert float(info.lipschitz_mean) == 0.0
    assert not to_numpy(state.offloaded).any()
    for row in g["trace"]:
        _, state, info = seen[row["k"]]
        np.testing.assert_allclose(to_numpy(state.lipschitz), flat(row["L"]), rtol=tolerance)
        if "n_updates" in row:
            last = row
        key = f"bias_corrected_{aggregation}" if corrected else aggregation
        np.testing.assert_allclose(to_numpy(info.group_lipschitz), last[key], rtol=tolerance)
        assert to_numpy(state.updates).tolist() == [last["n_updates"]]
        decided = last["first_order_bias_corrected" if corrected else "first_order_raw"]
        if aggregation == "mean":
            assert to_numpy(state.offloaded).tolist() == decided


# -- whole runs -----------------------------------------------------------------------------------------------------


RULES = {
    "mean": {"threshold": 0.1},
    "max": {"threshold": 0.4, "aggregation": "max"},
    "raw": {"threshold": 0.08, "bias_correction": False},
    "chunks": {"threshold": 0.09, "chunk": 5},
    "element": {"threshold": 4.0, "distance": "element"},
    "newton": {"threshold": "newton", "chunk": 4},
    "certificate": {"threshold": "certificate"},
    "certificate-max": {"threshold": "certificate", "aggregation": "max", "chunk": 6},
    "freeze": {"threshold": 0.1, "offload": "freeze"},
    "draws": {"threshold": 0.06, "draws": 3},
    "random": {"selection": "random", "fraction": 0.4},
    "static": {"selection": "static", "static": (1, 4)},
}


@pytest.mark.parametrize("rule", RULES)
def test_thirty_steps_against_a_transcription(rule):
    knobs = RULES[rule]
    problem = network("tanh", LOSSES[1], samples=20)(get_backend("numpy"), batch_size=6)
    method = AMOS(0.03, 0.9, 0.8, 1.0, 0.3, interval=5, seed=7, offload_rate=0.2, alpha=0.7, **knobs)
    rng = np.random.default_rng(0)
    start, samples = problem.initial(rng), [problem.draw(rng) for _ in range(30)]
    x, state, path, shares = start, method.init(start), [], []
    for sample in samples:
        x, state, info = method.step(problem.at(x, sample), state)
        path.append(x)
        shares.append(float(info.offloaded))

    chunk, n = knobs.get("chunk"), problem.n
    group_of = np.arange(n) // chunk if chunk else np.repeat(np.arange(6), SIZES)
    numbers = range(group_of[-1] + 1)
    shrinks = np.repeat([1.0, 0.0] * 3, SIZES)
    x, m, h, L, k = start.copy(), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    previous, away = None, np.zeros(n, bool)
    for step, sample in enumerate(samples):
        point = problem.at(x, sample)
        g = point.gradient
        m = 0.9 * m + 0.1 * g
        timely = step % 5 == 0
        if timely:
            draws = np.random.default_rng([7, step])
            ghats = [point.sampled_gradient(draws)[0] for _ in range(knobs.get("draws", 1))]
            estimate = 6 * np.mean([ghat**2 for ghat in ghats], axis=0)
            h = 0.8 * h + 0.2 * estimate
            if previous is not None:
                moved = np.abs(x - previous[0])
                D = moved if "distance" in knobs else np.full(n, np.sqrt((moved**2).sum()))
                L = 0.7 * L + 0.3 * np.abs(estimate - previous[1]) / (1e-12 + D)
                k = k + 1
            previous = (x, estimate)
        corrected = (
            L if rule == "raw" else np.array([a / (1 - 0.7**b) if b else 0.0 for a, b in zip(L, k, strict=True)])
        )
        d = -0.03 * np.sign(m) * np.minimum(np.abs(m) / (h + 1e-15), 1)
        if timely:
            if rule == "random":
                flags = np.random.default_rng([7, step, 1]).uniform(size=6) < 0.4
            elif rule == "static":
                flags = np.array([False, True, False, False, True, False])
            else:
                score, limit = corrected, knobs["threshold"]
                if isinstance(limit, str):
                    s = d if limit == "certificate" else -g / h
                    score, limit = g * s + h * s**2 / 2 + corrected * np.abs(s) ** 3 / 6, 0.0
                reduce = np.max if knobs.get("aggregation") == "max" else np.mean
                flags = np.array([reduce(score[group_of == i]) for i in numbers]) > limit
            away = flags[group_of]
        resting = x if rule == "freeze" else x - 0.2 * g
        x = np.where(away, resting, x - 0.03 * 0.3 * shrinks * x + d)
        np.testing.assert_allclose(path[step], x, rtol=1e-8, atol=1e-11)
        assert shares[step] == pytest.approx(away.mean(), abs=1e-12)
    assert 0 < np.mean(shares) < 1  # both kinds of step have been taken
    assert rule == "static" or len(set(shares)) > 1


@pytest.mark.parametrize("rule", ["mean", "chunks", "element", "random", "certificate"])
def test_same_run_on_every_backend(rule, backend):
    method = AMOS(0.02, interval=3, offload_rate=0.1, **RULES[rule] | {"threshold": RULES[rule].get("threshold", 1.0)})
    result = minimize(network("tanh", LOSSES[1])(backend, batch_size=5), method, steps=10, seed=1)
    reference = minimize(network("tanh", LOSSES[1])(get_backend(), batch_size=5), method, steps=10, seed=1)
    tolerance = 5e-4 if backend.dtype_name == "float32" else 1e-8
    np.testing.assert_allclose(to_numpy(result.x), reference.x, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(result.trace["offloaded"] > 0, reference.trace["offloaded"] > 0)
    np.testing.assert_allclose(
        result.trace["group_lipschitz"], reference.trace["group_lipschitz"], rtol=50 * tolerance, atol=tolerance
    )
    assert result.counts == reference.counts == Counts(gradient=11, vjp=4)


@pytest.mark.parametrize("rule", ["mean", "element", "random", "newton"])
def test_runs_of_a_batch_decide_for_themselves(rule):
    problem = network("tanh", LOSSES[1])(get_backend())
    starts = np.random.default_rng(3).standard_normal((4, problem.n))
    method = AMOS(0.05, interval=2, offload_rate=0.1, **RULES[rule])
    together = minimize(problem, method, starts, steps=9)
    for run, start in enumerate(starts):
        alone = minimize(problem, method, start, steps=9)
        np.testing.assert_allclose(together.x[run], alone.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(together.trace["offloaded"][:, run], alone.trace["offloaded"])
    if rule == "mean":
        assert (together.trace["offloaded"][:9] != together.trace["offloaded"][:9, :1]).any()


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [{"threshold": 1e300}, {"selection": "random", "fraction": 0.0}])
def test_with_nothing_offloaded_it_is_sophia(knobs):
    problem = network("tanh", LOSSES[1])(get_backend())
    found = minimize(problem, AMOS(0.05, interval=3, offload_rate=0.1, **knobs), steps=10)
    expected = minimize(problem, Sophia(0.05, interval=3), steps=10)
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.counts == expected.counts
    np.testing.assert_array_equal(found.trace["clipped"], expected.trace["clipped"])


@pytest.mark.parametrize(
    "knobs", [{"selection": "static", "static": tuple(range(6))}, {"selection": "random", "fraction": 1.0}]
)
def test_with_everything_offloaded_it_is_gradient_descent(knobs):
    # No decay either, whatever Sophia's is.
    problem = network("tanh", LOSSES[1])(get_backend())
    found = minimize(problem, AMOS(0.05, interval=3, offload_rate=0.1, **knobs), steps=10)
    np.testing.assert_array_equal(found.x, minimize(problem, GradientDescent(0.1), steps=10).x)
    assert set(found.trace["offloaded"][:10]) == {1.0}
    assert set(found.trace["clipped"][:10]) == {0.0}


def test_frozen_groups_stay_where_they_are():
    problem = network("tanh", LOSSES[1])(get_backend())
    method = AMOS(0.05, interval=3, selection="static", static=[0, 5], offload="freeze")
    start = problem.initial(np.random.default_rng(0))
    moved = minimize(problem, method, start, steps=5).x != start
    assert not moved[:12].any()
    assert not moved[-2:].any()
    assert moved[12:-2].all()


def test_momentum_is_kept_up_for_offloaded_groups():
    method = amos(beta1=0.5, selection="static", static=(0,), offload="freeze")
    seen = scripted_run(method, [[1.0]] * 3, [[0.0]] * 3, ((1,),), gradients=[[1.0], [2.0], [4.0]])
    assert [float(state.mean[0]) for _, state, _ in seen] == [0.5, 1.25, 2.625]


# -- the running mean -----------------------------------------------------------------------------------------------


def stream(slopes, spacing=0.5):
    """Places and estimates of one coordinate whose curvature has these slopes."""
    places = [[spacing * k] for k in range(len(slopes) + 1)]
    return places, [[total * spacing] for total in np.cumsum([0.0, *slopes])]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.999])
def test_corrected_mean_of_a_constant_stream_is_the_constant(alpha, backend):
    places, estimates = stream([3.0] * 12)
    seen = scripted_run(amos(alpha=alpha, epsilon2=0.0), places, estimates, ((1,),), backend)
    found = [float(info.lipschitz_mean) for _, _, info in seen]
    assert found[0] == 0.0
    np.testing.assert_allclose(found[1:], 3.0, rtol=1e-5 if backend.dtype_name == "float32" else 1e-12)
    raw = scripted_run(amos(alpha=alpha, epsilon2=0.0, bias_correction=False), places, estimates, ((1,),))
    expected = [3.0 * (1 - alpha**k) for k in range(13)]
    np.testing.assert_allclose([float(info.lipschitz_mean) for _, _, info in raw], expected, rtol=1e-11, atol=1e-15)


def test_without_memory_it_is_the_last_slope():
    slopes = [3.0, -1.0, 0.0, 2.5]
    seen = scripted_run(amos(alpha=0.0, epsilon2=0.0), *stream(slopes), ((1,),))
    np.testing.assert_allclose([float(info.lipschitz_mean) for _, _, info in seen], [0, 3, 1, 0, 2.5], rtol=1e-13)


def test_the_running_mean_is_of_the_estimates_and_not_of_h():
    # h would have moved by a hundredth of that.
    seen = scripted_run(amos(alpha=0.0, beta2=0.99), *stream([3.0]), ((1,),))
    assert float(seen[1][2].lipschitz_mean) == pytest.approx(3.0, rel=1e-11)
    assert float(seen[1][1].curvature[0]) == pytest.approx(0.01 * 1.5)


def test_zero_displacement_changes_nothing_but_the_reference():
    places, estimates = [[0.0], [1.0], [1.0], [2.0]], [[0.0], [4.0], [100.0], [101.0]]
    seen = scripted_run(amos(alpha=0.5, epsilon2=0.0), places, estimates, ((1,),))
    assert [float(state.lipschitz[0]) for _, state, _ in seen] == [0.0, 2.0, 2.0, 1.5]
    assert [float(state.updates[0]) for _, state, _ in seen] == [0, 1, 1, 2]
    assert [state.times for _, state, _ in seen] == [1, 2, 3, 4]


def test_displacement_of_the_vector_and_of_each_coordinate():
    places, estimates = [[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]], [[0.0, 0.0, 0.0], [6.0, 6.0, 6.0]]
    whole = scripted_run(amos(alpha=0.0, epsilon2=1.0), places, estimates, ((3,),))[1][1]
    np.testing.assert_allclose(whole.lipschitz, [1.0, 1.0, 1.0])
    assert whole.updates.tolist() == [1.0]
    each = scripted_run(amos(alpha=0.0, epsilon2=1.0, distance="element"), places, estimates, ((3,),))[1][1]
    np.testing.assert_allclose(each.lipschitz, [6 / 4, 6 / 5, 0.0])
    assert each.updates.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("interval", [1, 3, 4, 20])
def test_hessian_times_where_the_interval_does_not_divide(interval):
    problem = network("tanh", LOSSES[0])(get_backend())
    result = minimize(problem, AMOS(interval=interval, offload_rate=0.1, threshold=0.1, draws=2), steps=11)
    times = [step for step in range(11) if step % interval == 0]
    assert [step for step in range(11) if result.trace["estimated"][step]] == times
    assert result.counts.vjp == 2 * len(times)
    assert result.state.times == len(times)
    assert result.state.updates.tolist() == [len(times) - 1]
    changes = result.trace["group_lipschitz"][1:11] != result.trace["group_lipschitz"][:10]
    assert set(np.flatnonzero(changes.any(axis=1)) + 1) == set(times[1:])


def test_the_mean_of_several_draws():
    problem = network("tanh", LOSSES[1])(get_backend())
    x = problem.initial(np.random.default_rng(0))
    method = amos(draws=4, seed=3)
    found = method.step(problem.at(x), method.init(x)).state.last_estimate
    rng = np.random.default_rng([3, 0])
    ghats = [problem.at(x).sampled_gradient(rng)[0] for _ in range(4)]
    np.testing.assert_allclose(found, 7 * np.mean(np.square(ghats), axis=0), rtol=1e-13)
    assert np.abs(ghats[0] - ghats[1]).max() > 0


# -- decisions ------------------------------------------------------------------------------------------------------


def test_the_threshold_itself_is_not_above_the_threshold():
    # Two slopes of exactly 2 in the mean over two coordinates.
    places, estimates = [[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 3.0]]
    for threshold, away in ((2.0, False), (np.nextafter(2.0, 0.0), True), (np.nextafter(2.0, 3.0), False)):
        seen = scripted_run(amos(alpha=0.0, epsilon2=0.0, threshold=threshold), places, estimates, ((2,),))
        assert seen[1][1].offloaded.tolist() == [away]


def test_mean_and_largest_of_a_group():
    places, estimates = [[0.0] * 3, [1.0, 0.0, 0.0]], [[0.0] * 3, [1.0, 3.0, 7.0]]
    for knobs, expected in (({}, [2.0, 7.0]), ({"aggregation": "max"}, [3.0, 7.0]), ({"chunk": 1}, [1.0, 3.0, 7.0])):
        seen = scripted_run(amos(alpha=0.0, epsilon2=0.0, **knobs), places, estimates, ((2,), (1,)))
        np.testing.assert_allclose(seen[1][2].group_lipschitz, expected)


def test_chunks_are_tensors_where_the_sizes_agree():
    rng = np.random.default_rng(2)
    places, estimates = rng.standard_normal((5, 8)), rng.standard_normal((5, 8)) ** 2
    gradients = rng.standard_normal((5, 8))
    run = [
        scripted_run(amos(threshold=0.3, **knobs), places, estimates, shapes, gradients=gradients)
        for knobs, shapes in (({"chunk": 3}, ((8,),)), ({}, ((3,), (3, 1), (2,))), ({"chunk": 3}, ((4,), (4,))))
    ]
    for (x, state, info), (y, other, same), (z, _, _) in zip(*run, strict=True):
        np.testing.assert_allclose(info.group_lipschitz, same.group_lipschitz, rtol=1e-13)
        np.testing.assert_array_equal(state.offloaded, other.offloaded)
        assert info.offloaded == same.offloaded
        np.testing.assert_allclose(z, x, rtol=1e-13)
        # The matrix (3, 1) is decayed where it is known to be one.
        decayed = np.repeat([False, True, False], [3, 3, 2]) & ~np.repeat(state.offloaded, [3, 3, 2])
        np.testing.assert_array_equal(x != y, decayed)
    assert 0 < np.mean([info.offloaded for _, _, info in run[0]]) < 1


def test_groups_add_up(backend):
    rng = np.random.default_rng(0)
    values = rng.uniform(size=(2, 11))
    there = backend.asarray(values)
    for groups, ends in (
        (Groups.of(((2, 3), (), (4,))), [0, 6, 7, 11]),
        (Groups.of(((11,),), 4), [0, 4, 8, 11]),
        (Groups.of(((11,),), 99), [0, 11]),
        (Groups.of(((11,),), 11), [0, 11]),
    ):
        pieces = [values[:, a:b] for a, b in itertools.pairwise(ends)]
        assert len(groups) == len(pieces)
        for name in ("sum", "mean", "max"):
            expected = np.stack([getattr(piece, name)(axis=1) for piece in pieces], axis=1)
            np.testing.assert_allclose(to_numpy(getattr(groups, name)(there)), expected, rtol=1e-6)
            spread = np.repeat(expected, [piece.shape[1] for piece in pieces], axis=1)
            np.testing.assert_allclose(to_numpy(groups.spread(backend.asarray(expected))), spread, rtol=1e-6)


def test_newton_is_equation_eight():
    # Groups of one coordinate: the full step is harmful exactly where L > 3 h^2 / |g|.
    rng = np.random.default_rng(1)
    places, estimates, gradients = [[0.0] * 40, rng.uniform(0.5, 1, 40)], rng.uniform(0, 1, (2, 40)), None
    gradients = [np.zeros(40), 10 ** rng.uniform(-2, 2, 40) * rng.choice([-1, 1], 40)]
    method = amos(threshold="newton", chunk=1, alpha=0.5, beta2=0.5)
    _, state, info = scripted_run(method, places, estimates, ((40,),), gradients=gradients)[1]
    expected = info.group_lipschitz > 3 * state.curvature**2 / np.abs(gradients[1])
    np.testing.assert_array_equal(state.offloaded, expected)
    assert 5 < expected.sum() < 35


def test_newton_leaves_out_coordinates_without_curvature():
    places, estimates = [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, -1.0]]
    method = amos(threshold="newton", chunk=1, beta2=0.0)
    _, state, _ = scripted_run(method, places, estimates, ((2,),), gradients=[[1.0, 1.0]] * 2)[1]
    assert state.lipschitz[1] > 0
    assert state.offloaded.tolist() == [False, False]


def test_certificate_is_the_bound_of_sophias_own_step():
    # A step of -0.1 with slope 1 and h = 0: -0.1 + L/6000 > 0 exactly where L > 600.
    for L, away in ((599.0, False), (601.0, True)):
        method = amos(learning_rate=0.1, beta1=0.0, beta2=0.999999999, rho=1e-12, threshold="certificate",
                      alpha=0.0, epsilon2=0.0, weight_decay=0.0)  # fmt: skip
        seen = scripted_run(method, [[0.0], [1.0]], [[0.0], [L]], ((1,),), gradients=[[1.0], [1.0]])
        assert seen[1][1].offloaded.tolist() == [away]
        assert seen[1][0][0] == pytest.approx(0.5 if away else 0.9)


def test_random_sets():
    shapes = ((1,),) * 400
    method = amos(selection="random", fraction=0.3, interval=2, seed=5)
    runs = [
        scripted_run(m, [np.zeros(400)] * 40, [np.zeros(400)] * 40, shapes)
        for m in (method, method, dataclasses.replace(method, seed=6))
    ]
    sets = [[to_numpy(state.offloaded) for _, state, _ in run] for run in runs]
    np.testing.assert_array_equal(sets[0], sets[1])
    assert (np.array(sets[0]) != np.array(sets[2])).any()
    for step in range(0, 40, 2):
        np.testing.assert_array_equal(sets[0][step], sets[0][step + 1])  # until the next Hessian time
    fresh = np.array(sets[0][::2])
    assert (fresh[1:] != fresh[:-1]).any(axis=1).all()
    # 8000 draws: four standard deviations
    assert abs(fresh.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / fresh.size)
    # The labels of the estimates do not depend on which sets are drawn.
    problem = network("tanh", LOSSES[1])(get_backend())
    x = problem.initial(np.random.default_rng(0))
    one, two = (amos(**k).step(problem.at(x), amos(**k).init(x)).state.last_estimate
                for k in ({"selection": "random", "fraction": 0.5}, {"threshold": 1.0}))  # fmt: skip
    np.testing.assert_array_equal(one, two)


def test_published_settings():
    found = AMOS.published()
    assert (found.learning_rate, found.beta1, found.beta2, found.rho, found.weight_decay) == (
        6e-4,
        0.9,
        0.95,
        0.01,
        0.1,
    )
    assert (found.offload_rate, found.alpha, found.threshold, found.epsilon2) == (1.25e-5, 0.99, 2e-10, 1e-12)
    assert not found.bias_correction
    assert (found.aggregation, found.distance, found.chunk, found.draws) == ("mean", "global", None, 1)
    assert AMOS.published(threshold="newton", alpha=0.7).alpha == 0.7
    # Raw and started from zero: (1 - alpha) times the first slope.
    seen = scripted_run(dataclasses.replace(found, interval=1), *stream([3.0]), ((1,),))
    assert float(seen[1][2].lipschitz_mean) == pytest.approx(0.03, rel=1e-10)


# -- Torch ----------------------------------------------------------------------------------------------------------


def test_torch_optimizer_saves_and_loads_its_decisions():
    torch = pytest.importorskip("torch")
    from torch_optim_cases import Training

    from refimpl import torch_optim

    knobs = {"learning_rate": 0.03, "interval": 3, "likelihood": "categorical", "offload_rate": 0.2, "threshold": 0.03}
    whole, first, second = Training("ce"), Training("ce"), Training("ce")
    expected = whole.run(torch_optim.AMOS(whole.model.parameters(), **knobs), range(8))
    optimizer = torch_optim.AMOS(first.model.parameters(), **knobs)
    np.testing.assert_array_equal(first.run(optimizer, range(4)), expected[:4])
    assert optimizer.vectors["offloaded"].dtype == torch.bool
    assert 0 < float(optimizer.last_info.offloaded) < 1
    assert optimizer.last_info.group_lipschitz.shape == (4,)
    other = torch_optim.AMOS(second.model.parameters(), **knobs)
    second.model.load_state_dict(first.model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(second.run(other, range(4, 8)), expected[4:])


def test_schedulers_reach_sophias_rate_alone():
    torch = pytest.importorskip("torch")
    from torch_optim_cases import Training

    from refimpl import torch_optim

    training = Training("ce")
    optimizer = torch_optim.AMOS(
        training.model.parameters(), learning_rate=0.04, offload_rate=0.2, estimator="hutchinson", threshold=1.0
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    training.run(optimizer, [0])
    scheduler.step()
    optimizer.param_groups[0]["offload_rate"] *= 0.1
    training.run(optimizer, [1])
    assert optimizer.method.learning_rate == 0.02
    assert optimizer.method.offload_rate == pytest.approx(0.02)


# -- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"threshold": None}, "selection='lipschitz' needs a threshold"),
        ({"threshold": "equation-8"}, "unknown threshold 'equation-8'; choose a number, 'newton' or 'certificate'"),
        ({"threshold": -1.0}, "threshold must be finite and at least zero"),
        ({"threshold": float("nan")}, "threshold"),
        ({"offload_rate": None}, "offload='sgd' needs an offload_rate"),
        ({"offload_rate": 0.0}, "offload_rate must be finite and positive"),
        ({"alpha": 1.0}, r"alpha must lie in \[0.0, 1.0\)"),
        ({"epsilon2": -1e-12}, "epsilon2"),
        ({"aggregation": "median"}, "unknown aggregation 'median'; choose one of.*'max'"),
        ({"distance": "local"}, "unknown distance 'local'"),
        ({"selection": "best"}, "unknown selection 'best'"),
        ({"offload": "adam"}, "unknown offload 'adam'"),
        ({"bias_correction": 1}, "bias_correction must be True or False"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1"),
        ({"draws": 0}, "draws must be a whole number of at least 1"),
        ({"fraction": 0.1}, "fraction=0.1 with selection='lipschitz'"),
        ({"selection": "random"}, "fraction=None with selection='random'"),
        ({"selection": "random", "fraction": 1.1}, "fraction must lie in"),
        ({"static": (0,)}, "static=.* with selection='lipschitz'"),
        ({"selection": "static"}, "static=None with selection='static'"),
        ({"selection": "static", "static": ()}, "at least one"),
        ({"selection": "static", "static": 3}, "must list the numbers of groups"),
        ({"selection": "static", "static": (0, -1)}, "a number in static"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        amos(**knobs)


def test_a_group_that_is_not_there_is_refused_in_the_step():
    problem = network("tanh", LOSSES[1])(get_backend())
    with pytest.raises(ValueError, match="static names group 6, but there are 6"):
        minimize(problem, amos(selection="static", static=(1, 6)), steps=1)
