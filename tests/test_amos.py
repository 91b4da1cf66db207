"""AMOS against a golden trace (60-digit arithmetic), a plain NumPy transcription over whole runs, and closed forms.

Most tests dictate the estimates of the diagonal and the places, so that every number follows by hand.
"""

import numpy as np
import pytest
from amos_cases import SIZES, amos, flat, scripted_run, stream
from golden_vectors import golden
from network_cases import LOSSES, network

from refimpl import Counts, get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.sophia import Sophia

GOLDEN = golden("sophia_amos")["amos_trace"]


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
