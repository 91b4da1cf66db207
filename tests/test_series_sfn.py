"""Saddle-free Newton by the series: the plain method, and what the adaptive one has in common with it.

Oracles: golden numbers (60 digits, another program); a transcription with dense matrices (dense_series.py); gradient
descent with momentum, which one term of the series is. The rest of the adaptive method: test_series_sfn_adaptive.py.
"""

import numpy as np
import pytest
from dense_series import ASTRAY, dense_walk, walk
from golden_vectors import golden

from refimpl import get_backend, minimize
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import CoupledSaddle, DoubleWell, Rosenbrock
from refimpl.verify.golden import cases

GOLDEN = golden("series")["algorithm1_trajectory"]
STEEP = Quadratic(np.diag([1.0, 15.0]))
HIDDEN = np.array([1.0, 1e-6 / 15])
"""Where the gradient of STEEP is (1, 1e-6): the ratio |H^2 g|/|g| hardly sees the eigenvalue 15."""


def published(**knobs):
    about = {"learning_rate": GOLDEN["eta"], "momentum": GOLDEN["momentum"], "scale": GOLDEN["V0"]}
    return SeriesSaddleFreeNewton.published(GOLDEN["K"], GOLDEN["N"], **about, **knobs)


# -- the same with a dense matrix -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerate", ["shanks", "sablonniere"])
@pytest.mark.parametrize("rule", ["fixed", "ratio", "lanczos"])
@pytest.mark.parametrize("mode", ["none", "abs", "square"])
@pytest.mark.parametrize("guard", [True, False])
def test_steps_against_dense_arithmetic(mode, rule, accelerate, guard):
    method = SeriesSaddleFreeNewton(
        7, 2, 0.75, 0.5, 0.0 if mode == "none" else 0.4, mode, accelerate,
        scale=1.0 if rule == "lanczos" else 30.0, scale_rule=rule, scale_decay=0.5, guard=guard,
    )  # fmt: skip
    found, infos, _ = walk(CoupledSaddle(), method, [0.5, 0.75], 3)
    places, scales = dense_walk(CoupledSaddle(), method, [0.5, 0.75], 3)
    np.testing.assert_allclose(found, places, rtol=1e-9)
    np.testing.assert_allclose([info.scale for info in infos], scales, rtol=1e-12)
    assert not any(info.fell_back for info in infos)
    if not (guard and mode == "square"):
        assert not any(info.restarts for info in infos)


def test_golden_trajectory():
    found, infos, _ = walk(Quadratic(GOLDEN["H"]), published(), GOLDEN["x0"], 3)
    np.testing.assert_allclose(found, [step["x"] for step in GOLDEN["iterations"]], rtol=1e-13)
    np.testing.assert_allclose([info.scale for info in infos], [step["V"] for step in GOLDEN["iterations"]], rtol=1e-13)
    result = minimize(Quadratic(GOLDEN["H"]), published(), GOLDEN["x0"], steps=3)
    np.testing.assert_allclose(result.trace["loss"][1:], [step["f"] for step in GOLDEN["iterations"]], rtol=1e-13)
    (vector,) = [case for case in cases("methods") if case.id == "methods/series-sfn-published"]
    assert vector.expected == [step["x"] for step in GOLDEN["iterations"]]


def test_golden_trajectory_in_float32():
    problem = Quadratic(GOLDEN["H"], backend=get_backend("numpy", "float32"))
    knobs = {"learning_rate": 0.75, "momentum": 0.5, "scale": 16.0, "scale_decay": 1.0}
    method = SeriesSaddleFreeNewton(6, 1, **{name: np.float64(value) for name, value in knobs.items()})
    found, infos, state = walk(problem, method, GOLDEN["x0"], 3)
    assert {found.dtype, infos[0].scale.dtype, *(a.dtype for a in state)} == {np.dtype("float32")}
    np.testing.assert_allclose(found, [step["x"] for step in GOLDEN["iterations"]], rtol=1e-5)
    method = AdaptiveSeriesSaddleFreeNewton(5, np.float64(0.1), 1, np.float64(0.5), np.float64(1e-6), np.float64(1e6))
    _, _, state = walk(DoubleWell(backend=problem.backend), method, [0.5, 1.0], 2)
    assert {a.dtype for a in state} == {np.dtype("float32")}


# -- one term ---------------------------------------------------------------------------------------------------------


def test_one_term_with_the_usual_scale():
    found, _, state = walk(Quadratic(GOLDEN["H"]), SeriesSaddleFreeNewton(1), GOLDEN["x0"], 1)
    np.testing.assert_allclose(np.array(GOLDEN["x0"]) - found[0], GOLDEN["K1_direction_with_V100"], rtol=1e-15)
    assert state.scale == 100.0


def test_one_term_is_gradient_descent_with_momentum():
    series = SeriesSaddleFreeNewton(1, learning_rate=2.0**-8, momentum=0.75, scale=16.0)
    found = minimize(Rosenbrock(), series, [-1.25, 1.0], steps=20)
    expected = minimize(Rosenbrock(), HeavyBall(2.0**-10, 0.75), [-1.25, 1.0], steps=20)
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.state.scale == 16.0
    assert found.counts == expected.counts


@pytest.mark.parametrize(
    ("method", "rate"),
    [
        (SeriesSaddleFreeNewton(1, damping=2.0, mode="abs", scale=4.0), 1 / (2 + 2)),
        (SeriesSaddleFreeNewton(1, damping=2.0, mode="abs", scale=4.0, first_term="undamped"), 1 / 2),
        (SeriesSaddleFreeNewton(1, damping=2.0, mode="square", scale=4.0), 1 / 2),
        (SeriesSaddleFreeNewton.released(1, 0, damping=2.0, scale=4.0), 1 / 2),
        (AdaptiveSeriesSaddleFreeNewton(1, 2.0, scale=4.0, solve="released"), 1 / (2 + 2)),
        (AdaptiveSeriesSaddleFreeNewton.released(1, 2.0, scale=4.0), 1 / 2),
    ],
)
def test_one_damped_term(method, rate):
    (found,), _, state = walk(Quadratic(np.diag([3.0, -1.0])), method, [1.0, 1.0], 1)
    np.testing.assert_allclose(found, [1.0 - 3.0 * rate, 1.0 + rate], rtol=1e-15)
    assert state.scale == 4.0


# -- the three readings -----------------------------------------------------------------------------------------------


def test_published_and_released_are_these_knobs():
    rest = {"learning_rate": 0.5, "momentum": 0.25, "scale": 9.0}
    assert SeriesSaddleFreeNewton.published(6, 1, **rest) == SeriesSaddleFreeNewton(6, 1, guard=False, **rest)
    code = {"accelerate": "shanks", "guard": False, "first_term": "undamped"}
    damped = SeriesSaddleFreeNewton(6, 1, damping=0.3, mode="abs", **code, **rest)
    assert SeriesSaddleFreeNewton.released(6, 1, damping=0.3, **rest) == damped
    assert SeriesSaddleFreeNewton.released(6, 1) == SeriesSaddleFreeNewton(6, 1, **code)
    code |= {"solve": "released", "accept": "always"}
    assert AdaptiveSeriesSaddleFreeNewton.released(6, 0.3, 1) == AdaptiveSeriesSaddleFreeNewton(6, 0.3, 1, **code)
    assert SeriesSaddleFreeNewton.released(6, 1, accelerate="sablonniere").accelerate == "sablonniere"


def test_released_has_the_weights_of_shanks_and_published_has_not():
    problem, start = Quadratic(GOLDEN["H"]), GOLDEN["x0"]
    released = SeriesSaddleFreeNewton.released(6, 1, learning_rate=0.75, momentum=0.5, scale=16.0)
    ours, theirs = walk(problem, published(), start, 3)[0], walk(problem, released, start, 3)[0]
    for accelerate, found in (("sablonniere", ours), ("shanks", theirs)):
        expected, _ = dense_walk(problem, published(accelerate=accelerate), start, 3)
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert np.abs(ours - theirs).max() > 0.05


# -- V ----------------------------------------------------------------------------------------------------------------


def scales(method, steps=25, start=(1.0, 0.0), problem=None):
    return [float(info.scale) for info in walk(problem or DoubleWell(), method, list(start), steps)[1]]


def test_published_scale_never_falls_and_one_with_decay_does():
    def ratio(x):
        return (3 * x**2 - 1) ** 2  # H^2 of the double well along its first coordinate

    start = [2.0, 0.0]
    stuck = scales(SeriesSaddleFreeNewton(4, scale=1.0), start=start)
    np.testing.assert_allclose(stuck, ratio(2.0))  # 121
    places, infos, _ = walk(DoubleWell(), SeriesSaddleFreeNewton(4, scale=1.0, scale_decay=0.5), start, 7)
    before, v = np.vstack([start, places])[:-1, 0], 1.0
    for x, info in zip(before, infos, strict=True):
        v = max(0.5 * v, ratio(x))
        assert float(info.scale) == pytest.approx(v)
    assert v == pytest.approx(4.0)  # at the minimum
    # … and so it gets there, while the other crawls.
    crawling = walk(DoubleWell(), SeriesSaddleFreeNewton(4), start, 7)[0]
    assert abs(places[-1, 0] - 1) < 1e-12 < 1e-2 < abs(crawling[-1, 0] - 1)


def test_fixed_scale_stays_and_lanczos_scale_is_new_each_time():
    fixed = SeriesSaddleFreeNewton(4, scale=200.0, scale_rule="fixed")
    assert set(scales(fixed, start=[2.0, 0.0])) == {200.0}
    new = scales(SeriesSaddleFreeNewton(4, scale_rule="lanczos"), steps=6, start=[2.0, 0.0])
    assert new[0] == pytest.approx(1.1 * 121)
    assert new[-1] == pytest.approx(1.1 * 4, rel=1e-3)


def test_a_restart_is_carried_to_the_next_step_but_not_by_a_fixed_scale():
    for rule, kept in (("ratio", True), ("fixed", False)):
        method = SeriesSaddleFreeNewton(100, scale=100.0, scale_rule=rule)
        _, infos, state = walk(STEEP, method, HIDDEN, 1)
        assert infos[0].restarts == 1
        assert 112.5 < infos[0].scale < 1.1 * 225
        assert state.scale == (infos[0].scale if kept else 100.0)


def test_a_restart_touches_only_its_own_run():
    starts = np.array([HIDDEN, [1.0, 0.0]])
    method = SeriesSaddleFreeNewton(100, scale=100.0, momentum=0.5)
    together, infos, _ = walk(STEEP, method, starts, 3)
    assert infos[0].restarts == 1
    for row, start in enumerate(starts):
        alone, told, _ = walk(STEEP, method, start, 3)
        np.testing.assert_allclose(together[:, row], alone, rtol=1e-12)
        np.testing.assert_allclose([info.scale[row] for info in infos], [info.scale for info in told], rtol=1e-12)
    assert infos[0].scale[1] == 100.0


@pytest.mark.parametrize("rule", ["fixed", "ratio", "lanczos"])
def test_without_a_gradient_nothing_moves(rule):
    for method in (
        SeriesSaddleFreeNewton(5, 2, scale=7.0, scale_rule=rule),
        AdaptiveSeriesSaddleFreeNewton(5, 0.5, 2, scale=7.0, scale_rule=rule, solve="released"),
        AdaptiveSeriesSaddleFreeNewton(5, 0.5, 2, scale=7.0, scale_rule=rule),
    ):
        problem = DoubleWell()
        places, infos, state = walk(problem, method, [0.0, 0.0], 2)
        np.testing.assert_array_equal(places, 0.0)
        assert state.scale == 7.0
        assert getattr(state, "damping", 0.5) == 0.5
        assert bool(getattr(infos[-1], "accepted", True))


def test_without_a_gradient_a_decaying_scale_stays():
    _, _, state = walk(DoubleWell(), SeriesSaddleFreeNewton(5, scale=7.0, scale_decay=0.5), [0.0, 0.0], 1)
    assert state.scale == 7.0


def test_without_the_guard_a_scale_too_small_diverges_and_the_trace_stays():
    knobs = {"terms": 100, "scale": 100.0, "scale_rule": "fixed"}
    result = minimize(STEEP, SeriesSaddleFreeNewton(**knobs, guard=False), HIDDEN, steps=80)
    assert result.status == "diverged"
    assert result.steps < 80
    assert len(result.trace) >= result.steps > 10
    assert np.isfinite(result.trace["loss"][:10]).all()
    assert (np.diff(result.trace["loss"][1:10]) > 0).all()
    guarded = minimize(STEEP, SeriesSaddleFreeNewton(**knobs), HIDDEN, steps=6)
    assert guarded.status == "budget"
    assert guarded.loss < 1e-2 * guarded.trace["loss"][0]


# -- what can go wrong ------------------------------------------------------------------------------------------------


def test_a_direction_that_points_the_wrong_way_is_replaced_by_the_plain_sum():
    knobs = {"scale": 1.0, "scale_rule": "fixed"}
    wrong, plain = SeriesSaddleFreeNewton(5, 2, guard=False, **knobs), SeriesSaddleFreeNewton(5, **knobs)
    start = [[1.0], [0.0]]
    assert walk(ASTRAY, wrong, start, 1)[0][0, 0] > 1.0
    assert dense_walk(ASTRAY, wrong, start[0], 1)[0][0, 0] > 1.0
    places, infos, _ = walk(ASTRAY, SeriesSaddleFreeNewton(5, 2, **knobs), start, 1)
    assert infos[0].fell_back.tolist() == [True, False]
    np.testing.assert_array_equal(places, walk(ASTRAY, plain, start, 1)[0])


METHODS = [
    SeriesSaddleFreeNewton(5, 2, momentum=0.5, scale=0.5),
    SeriesSaddleFreeNewton(5, 2, momentum=0.5, scale=0.5, guard=False, mode="square", damping=0.3),
    SeriesSaddleFreeNewton(5, 1, scale_rule="lanczos", accelerate="shanks"),
    SeriesSaddleFreeNewton(1, damping=0.3, mode="abs"),
    AdaptiveSeriesSaddleFreeNewton(5, 0.3, 1, scale=0.5),
    AdaptiveSeriesSaddleFreeNewton(5, 0.3, 1, scale=0.5, scale_rule="lanczos", mode="square"),
    AdaptiveSeriesSaddleFreeNewton.released(5, 0.3, 1, scale=0.5),
]


@pytest.mark.parametrize("method", METHODS, ids=range(len(METHODS)))
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_run_leaves_the_others_alone(method, poison):
    starts = np.array([[0.2, 1.0, -0.5], [poison, 1.0, 1.0], [-1.7, 0.3, 2.0]])
    with np.errstate(all="ignore"):
        together, infos, _ = walk(DoubleWell(n=3), method, starts, 3)
    assert not np.isfinite(together[:, 1]).all(axis=-1).any()
    for row in (0, 2):
        alone, told, _ = walk(DoubleWell(n=3), method, starts[row], 3)
        np.testing.assert_allclose(together[:, row], alone, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose([info.scale[row] for info in infos], [info.scale for info in told], rtol=1e-12)


# -- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [1, 2, 6])
@pytest.mark.parametrize(("rule", "more"), [("fixed", 0), ("ratio", 0), ("lanczos", 8)])
@pytest.mark.parametrize("adaptive", [None, "released", "gauss-newton"])
def test_cost_of_a_step(terms, rule, more, adaptive):
    order = 2 if terms > 5 else 0
    method = SeriesSaddleFreeNewton(terms, order, scale_rule=rule)
    if adaptive:
        method = AdaptiveSeriesSaddleFreeNewton(terms, 0.5, order, scale_rule=rule, solve=adaptive)
    trace = minimize(DoubleWell(n=9), method, np.full(9, 0.5), steps=1).trace
    counted = [trace[f"{key}_count"][0] for key in ("hvp", "gradient", "loss", "ggnvp")]
    assert counted == [2 * (terms - 1) + more, 1, 1 if adaptive else 0, 2 if adaptive == "gauss-newton" else 0]


def test_cost_of_a_restart():
    trace = minimize(STEEP, SeriesSaddleFreeNewton(100, scale=100.0), HIDDEN, steps=1).trace
    assert trace["restarts"][0] == 1
    # Two of the products are shared, and the first attempt ends where V proves too small.
    assert 2 * 99 < trace["hvp_count"][0] < 4 * 99 - 2


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "knobs", "message"),
    [
        (SeriesSaddleFreeNewton, {"terms": 0}, "terms must be a whole number of at least 1"),
        (SeriesSaddleFreeNewton, {"terms": 4, "order": 2}, "order 2 needs at least 5 partial sums, got 4"),
        (SeriesSaddleFreeNewton, {"order": -1}, "order must be a whole number of at least 0"),
        (SeriesSaddleFreeNewton, {"order": 1, "accelerate": "aitken"}, "unknown accelerator 'aitken'"),
        (SeriesSaddleFreeNewton, {"order": 1, "accelerate": None}, "order=1 needs an accelerator"),
        (SeriesSaddleFreeNewton, {"learning_rate": 0.0}, "learning_rate"),
        (SeriesSaddleFreeNewton, {"momentum": 1.0}, "momentum"),
        (SeriesSaddleFreeNewton, {"damping": 0.1}, "choose mode 'abs' or 'square'"),
        (SeriesSaddleFreeNewton, {"damping": -0.1, "mode": "abs"}, "damping"),
        (SeriesSaddleFreeNewton, {"mode": "shift"}, "unknown mode 'shift'"),
        (SeriesSaddleFreeNewton, {"scale": 0.0}, "scale"),
        (SeriesSaddleFreeNewton, {"scale_rule": "trace"}, "unknown scale_rule 'trace'"),
        (SeriesSaddleFreeNewton, {"scale_decay": 0.0}, "scale_decay"),
        (SeriesSaddleFreeNewton, {"scale_decay": 1.5}, "scale_decay"),
        (SeriesSaddleFreeNewton, {"guard": 1}, "guard must be True or False"),
        (SeriesSaddleFreeNewton, {"first_term": "none"}, "unknown first_term 'none'"),
        (AdaptiveSeriesSaddleFreeNewton, {"terms": 4, "order": 2}, "at least 5 partial sums"),
        (AdaptiveSeriesSaddleFreeNewton, {"initial_damping": 0.0}, "initial_damping"),
        (AdaptiveSeriesSaddleFreeNewton, {"initial_damping": 1e9}, "initial_damping"),
        (AdaptiveSeriesSaddleFreeNewton, {"initial_damping": float("nan")}, "damping"),
        (AdaptiveSeriesSaddleFreeNewton, {"omega": 1.0}, "omega"),
        (AdaptiveSeriesSaddleFreeNewton, {"omega": 0.0}, "omega"),
        (AdaptiveSeriesSaddleFreeNewton, {"maximum_damping": 1e-9}, "minimum_damping must be at most maximum_damping"),
        (AdaptiveSeriesSaddleFreeNewton, {"mode": "none"}, "unknown mode 'none'"),
        (AdaptiveSeriesSaddleFreeNewton, {"solve": "best"}, "unknown solve 'best'"),
        (AdaptiveSeriesSaddleFreeNewton, {"accept": "never"}, "unknown accept 'never'"),
        (AdaptiveSeriesSaddleFreeNewton, {"scale": float("inf")}, "scale"),
    ],
)
def test_wrong_knobs(kind, knobs, message):
    good = {"terms": 5} if kind is SeriesSaddleFreeNewton else {"terms": 5, "initial_damping": 0.1}
    with pytest.raises(ValueError, match=message):
        kind(**(good | knobs))


@pytest.mark.parametrize("damping", [np.float64(-1.0), np.float64("nan")])
def test_a_numpy_scalar_is_a_number(damping):
    with pytest.raises(ValueError, match="damping must be finite and at least zero"):
        SeriesSaddleFreeNewton(5, damping=damping, mode="abs")
    assert SeriesSaddleFreeNewton(5, damping=np.float64(0.0)) == SeriesSaddleFreeNewton(5)


@pytest.mark.parametrize("damping", [np.float32(-1.0), np.ones(2)])
def test_what_is_not_a_number_is_refused(damping):
    with pytest.raises(ValueError, match="damping must be"):
        SeriesSaddleFreeNewton(5, damping=damping, mode="abs")


@pytest.mark.parametrize("kind", [SeriesSaddleFreeNewton, AdaptiveSeriesSaddleFreeNewton])
@pytest.mark.parametrize(("dtype", "order", "warned"), [("float32", 2, 1), ("float32", 1, 0), ("float64", 8, 0)])
def test_single_precision_is_warned_of_where_it_decides(kind, dtype, order, warned, recwarn):
    knobs = {} if kind is SeriesSaddleFreeNewton else {"initial_damping": 0.1}
    kind(terms=18, order=order, **knobs).init(get_backend("numpy", dtype).zeros(3))
    assert [f"accelerating {order} times in float32" in str(w.message) for w in recwarn.list] == [True] * warned
