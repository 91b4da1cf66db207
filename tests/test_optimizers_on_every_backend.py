"""Every method on every backend and precision: the iterates of NumPy float64, in the problem's own dtype and place."""

import dataclasses

import numpy as np
import pytest

from refimpl import get_backend, minimize
from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.adaptive_saddle_free import AdaptiveSaddleFreeNewton
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.arc import ARC
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.elmo import ELMO
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.optimizers.hessian_free import HessianFree
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.krylov_descent import KrylovSubspaceDescent
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.optimizers.lipschitz_oracles import Secant, Uniform
from refimpl.optimizers.newton import DampedNewton, Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.optimizers.schedule import Scheduled, warmup_cosine
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.optimizers.sophia import Sophia
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.problems.toy import DoubleWell

BATCHED = [
    GradientDescent(0.2),
    HeavyBall(0.1, 0.8),
    Nesterov(0.1, 0.8),
    Adam(0.1),
    AdamW(0.1, weight_decay=0.1),
    Newton(0.5),
    DampedNewton(2.0),
    DampedNewton(0.5, mode="abs"),
    DampedNewton(0.5, mode="square"),
    SaddleFreeNewton(0.5, momentum=0.5),
    SaddleFreeNewton(threshold=0.4, replacement=1.5),
    SaddleFreeNewton(damping=0.2, mode="abs"),
    SaddleFreeNewton(damping=0.2, mode="square"),
    AdaptiveSaddleFreeNewton(0.3),
    AdaptiveSaddleFreeNewton(0.3, ema=0.0),
    SeriesSaddleFreeNewton(6, 2, learning_rate=0.5, momentum=0.5, damping=0.3, mode="abs"),
    SeriesSaddleFreeNewton(6, 2, damping=0.3, mode="square", accelerate="shanks", scale_rule="lanczos"),
    SeriesSaddleFreeNewton(5, scale=0.5, scale_rule="fixed", damping=0.3, mode="square"),
    SeriesSaddleFreeNewton.released(1, 0, damping=0.3),
    AdaptiveSeriesSaddleFreeNewton(5, 0.3, 1),
    AdaptiveSeriesSaddleFreeNewton.released(5, 0.3, 1),
    LanczosSaddleFreeNewton(2, 0.3),
    LanczosSaddleFreeNewton(3, 0.3, mode="square", accept="decrease"),
    CurveBall(),
    CurveBall(0.1, 0.8, adapt_every=2, omega=0.5),
    CurveBall(momentum=1.0, system="printed"),
    CurveBall(curvature="hessian", adapt_every=1),
    Sophia(0.1, rho=0.5, interval=2, estimator="hutchinson"),
    Sophia(0.1, decay="all", estimator="hutchinson"),
    AMOS(0.1, interval=2, estimator="hutchinson", offload_rate=0.05, threshold=1.0, chunk=1),
    AMOS(0.1, interval=1, estimator="hutchinson", offload_rate=0.05, threshold="certificate", aggregation="max"),
    AMOS(0.1, interval=1, estimator="hutchinson", offload_rate=0.05, threshold="newton", chunk=2, draws=2),
    AMOS(0.1, interval=2, estimator="hutchinson", offload="freeze", selection="random", fraction=0.5, chunk=1),
    Scheduled(Sophia(0.1, interval=2, estimator="hutchinson"), warmup_cosine(5, 2)),
]
READS_BACK = [HessianFree(), HessianFree(2, "hessian", warm_start=0.95)]
"""Methods that look at the host in every step, and say so."""
_SHORT = {"initial_radius": 0.1, "maximum_radius": 0.1}
SINGLE = [
    LevenbergMarquardt(),
    LevenbergMarquardt(0.1, scaling="diagonal"),
    TrustRegion(**_SHORT),
    TrustRegion(**_SHORT, subproblem="two-dimensional"),
    TrustRegion(**_SHORT, subproblem="dogleg"),
    KryBall(**_SHORT, dimension=2, gain=0.0),
    KryBall(**_SHORT, dimension=2, gain=0.0, refresh=2, momentum="gradient"),
    KryBall.published(**_SHORT, dimension=1),
    StochasticKryBall(dimension=2, momentum=0.5),
    KrylovSubspaceDescent(1, inner_steps=1),
    ELMO(20.0),
    ELMO(Uniform(5.0), safeguard=True, maximum_step=0.3),
    ELMO(Secant(0.5), safeguard=True, maximum_step=0.2),
    ARC(initial_sigma=20.0),
    ARC(initial_sigma=20.0, dimension=2),
    ARC(initial_sigma=20.0, dimension=1, search=2),
    FOSI(HeavyBall(0.1, 0.8), 1, 1, interval=2, scaling=2.0),
    FOSI(Adam(0.1), 2, interval=3, warmup=1),
]
"""Methods that run one problem at a time. Small regions: five steps do not reach a minimum."""
START = [0.2, 1.0, -0.5]
STARTS = [[0.2, 1.0, -0.5], [-1.7, 0.3, 2.0], [3.0, 0.0, 0.1], [-0.05, 2.0, 1.0]]


def label(method):
    knobs = [str(value) for value in dataclasses.astuple(method) if isinstance(value, str)]
    return "-".join([method.name, *knobs])


def arrays_in(state):
    if isinstance(state, tuple):
        return [leaf for part in state for leaf in arrays_in(part)]
    # Decisions are kept as they are; everything else is in the precision of the problem.
    return [state] if hasattr(state, "dtype") and dtype_name(state.dtype) != "bool" else []


@pytest.mark.parametrize("method", BATCHED + READS_BACK + SINGLE, ids=label)
def test_same_iterates_as_numpy_float64(method, backend):
    tolerance = 2e-4 if backend.dtype_name == "float32" else 1e-10
    result = minimize(DoubleWell(n=3, backend=backend), method, START, steps=5)
    reference = minimize(DoubleWell(n=3), method, START, steps=5)
    np.testing.assert_allclose(to_numpy(result.x), reference.x, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(result.trace["loss"], reference.trace["loss"], rtol=tolerance, atol=tolerance)
    assert result.counts == reference.counts
    for array in [result.x, *arrays_in(result.state)]:
        assert dtype_name(array.dtype) == backend.dtype_name
        assert device_of(array) == backend.device


@pytest.mark.parametrize("method", BATCHED + READS_BACK, ids=label)
def test_batched_equals_loop(method):
    together = minimize(DoubleWell(n=3), method, STARTS, steps=6)
    for run, start in enumerate(STARTS):
        alone = minimize(DoubleWell(n=3), method, start, steps=6)
        np.testing.assert_allclose(together.x[run], alone.x, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(together.trace["loss"][:, run], alone.trace["loss"], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", BATCHED + READS_BACK, ids=label)
def test_batched_on_every_backend(method, backend):
    together = minimize(DoubleWell(n=3, backend=backend), method, STARTS, steps=4)
    reference = minimize(DoubleWell(n=3), method, STARTS, steps=4)
    tolerance = 1e-3 if backend.dtype_name == "float32" else 1e-10
    np.testing.assert_allclose(to_numpy(together.x), reference.x, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", BATCHED + READS_BACK, ids=label)
def test_two_leading_axes(method):
    starts = np.array(STARTS).reshape(2, 2, 3)
    nested = minimize(DoubleWell(n=3), method, starts, steps=3)
    np.testing.assert_allclose(nested.x.reshape(4, 3), minimize(DoubleWell(n=3), method, STARTS, steps=3).x, rtol=1e-12)


@pytest.mark.parametrize("method", SINGLE, ids=label)
def test_single_methods_refuse_leading_axes(method):
    with pytest.raises(ValueError, match=r"\(n,\)"):
        minimize(DoubleWell(n=3), method, STARTS, steps=1)


@pytest.mark.parametrize("method", BATCHED, ids=label)
def test_a_step_never_looks_at_the_host(method, monkeypatch):
    # A read-back is what stops a step from being captured on a GPU. Conversions of strict arrays are made to fail.
    if getattr(method, "guard", False):  # it reads one number per term, and says so
        method = dataclasses.replace(method, guard=False)
    strict = pytest.importorskip("array_api_strict")
    problem = DoubleWell(n=3, backend=get_backend("array-api-strict", device="device1"))
    point = problem.at(problem.backend.asarray(STARTS))
    state = method.init(point.x)

    def refuse(self):
        raise AssertionError("a step read an array back to the host")

    kind = type(strict.zeros(1))
    for conversion in ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__"):
        if hasattr(kind, conversion):
            monkeypatch.setattr(kind, conversion, refuse)
    for _ in range(2):
        step = method.step(point, state)
        state = step.state
    monkeypatch.undo()
    assert tuple(step.x.shape) == (4, 3)


def test_numpy_scalars_among_the_knobs_keep_float32():
    problem = DoubleWell(n=3, backend=get_backend("numpy", "float32"))
    f = np.float64
    methods = [
        GradientDescent(f(0.1)),
        HeavyBall(f(0.1), f(0.5)),
        Nesterov(f(0.1), f(0.5)),
        AdamW(f(0.1), f(0.9), f(0.99), f(1e-8), f(0.1)),
        Newton(f(0.5)),
        DampedNewton(f(0.5), learning_rate=f(0.5)),
        SaddleFreeNewton(f(0.5), f(0.5), f(0.1), f(1.0)),
        SaddleFreeNewton(damping=f(0.5), mode="square"),
        AdaptiveSaddleFreeNewton(f(0.1), f(0.5), f(0.9), f(1e-6), f(1e6)),
        LevenbergMarquardt(f(1.0), f(2.0), f(2.0)),
        CurveBall(initial_damping=f(1.0), omega=f(0.5)),
        CurveBall(f(0.1), f(0.5)),
        Sophia(f(0.1), f(0.9), f(0.9), f(0.1), f(0.1), estimator="hutchinson", epsilon=f(1e-15)),
        AMOS(f(0.1), estimator="hutchinson", interval=1, offload_rate=f(0.1), threshold=f(1.0), alpha=f(0.9)),
        Scheduled(Sophia(f(0.1), estimator="hutchinson"), lambda step: f(0.5)),
        HessianFree(initial_damping=f(1.0), omega=f(0.5), warm_start=f(0.5)),
        TrustRegion(initial_radius=f(0.5), shrink=f(0.5)),
        KryBall(initial_radius=f(0.5), momentum_factor=f(0.5), gain=f(0.1), clip_relative=f(1e-4)),
        StochasticKryBall(initial_radius=f(0.1), momentum=f(0.5)),
        KrylovSubspaceDescent(2, clip_relative=f(1e-4)),
        ELMO(f(5.0), cluster=f(1e-6), maximum_step=f(1.0)),
        ELMO(Secant(f(0.1)), safeguard=True, factor=f(3.0)),
        ARC(initial_sigma=f(2.0), factor=f(3.0), minimum_weight=f(1e-8)),
        ARC(initial_sigma=f(2.0), dimension=2),
        FOSI(HeavyBall(f(0.1), f(0.5)), 1, alpha=f(0.1), scaling=f(2.0), damping=f(1e-3)),
        FOSI(Adam(f(0.1)), 1, 1, momentum=f(0.5)),
    ]
    for method in methods:
        result = minimize(problem, method, START, steps=3)
        assert all(array.dtype == np.float32 for array in [result.x, *arrays_in(result.state)]), method


@pytest.mark.parametrize("method", BATCHED + READS_BACK + SINGLE, ids=label)
def test_methods_are_frozen_and_hashable(method):
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.name = "other"
    assert hash(method) == hash(dataclasses.replace(method))
    assert method == dataclasses.replace(method)


@pytest.mark.parametrize("method", BATCHED + READS_BACK + SINGLE, ids=label)
def test_a_step_changes_neither_its_point_nor_its_state(method):
    problem = DoubleWell(n=3)
    point, state = problem.at(np.array(START)), method.init(np.array(START))
    for _ in range(2):
        step = method.step(point, state)
        before = [np.array(a) for a in [point.x, *arrays_in(step.state)]]
        method.step(problem.at(step.x), step.state)
        for old, new in zip(before, [point.x, *arrays_in(step.state)], strict=True):
            np.testing.assert_array_equal(old, new)
        state = step.state
