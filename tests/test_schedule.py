"""Scheduled knobs against Torch's schedulers, and against methods whose knobs are replaced by hand."""

import dataclasses
import math

import numpy as np
import pytest

from refimpl import minimize
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.quasi_newton import LBFGS
from refimpl.optimizers.schedule import Scheduled, warmup_cosine
from refimpl.optimizers.sophia import Sophia
from refimpl.problems.toy import DoubleWell, Rosenbrock

START = [0.3, -1.2, 0.8]


def halving(step):
    return 0.5 ** (step // 3)


def by_hand(method, factor, knobs, steps):
    """The iterates of a run in which the method is made anew before every step."""
    problem, x = DoubleWell(n=3), np.array(START)
    state, path = method.init(x), []
    for step in range(steps):
        today = dataclasses.replace(method, **{knob: factor(step) * getattr(method, knob) for knob in knobs})
        x, state, _ = today.step(problem.at(x), state)
        path.append(x)
    return np.array(path)


def path_of(method, steps):
    places = []
    minimize(DoubleWell(n=3), method, START, steps=steps, callback=lambda _, point: places.append(np.array(point.x)))
    return np.array(places[1:])


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        (GradientDescent(0.05), ("learning_rate",)),
        (AdamW(0.05, weight_decay=0.2), ("learning_rate",)),
        (AdamW(0.05, weight_decay=0.2), ["learning_rate", "weight_decay"]),
        (HeavyBall(0.05, 0.5), ("momentum",)),
        (Sophia(0.05, estimator="hutchinson", interval=2), ("learning_rate",)),
        (
            AMOS(
                0.05, estimator="hutchinson", interval=2, offload_rate=0.02, selection="random", fraction=0.5, chunk=1
            ),
            ("learning_rate", "offload_rate"),
        ),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_same_run_as_by_hand(method, knobs):
    found = path_of(Scheduled(method, halving, knobs), 9)
    np.testing.assert_array_equal(found, by_hand(method, halving, knobs, 9))
    assert np.abs(found - by_hand(method, lambda step: 1.0, knobs, 9)).max() > 1e-4


def test_same_run_as_torch_with_a_scheduler():
    torch = pytest.importorskip("torch")
    x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([x], lr=0.05, weight_decay=0.1)
    factor = warmup_cosine(30, warmup=5, floor=0.2)
    # Torch's own pieces: a linear rise, then a cosine.
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 5, 1.0, total_iters=4),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 25, eta_min=0.2 * 0.05),
        ],
        [5],
    )
    for _ in range(30):
        optimizer.zero_grad()
        ((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2).backward()
        optimizer.step()
        scheduler.step()
    result = minimize(Rosenbrock(), Scheduled(AdamW(0.05, weight_decay=0.1), factor), [-1.2, 1.0], steps=30)
    np.testing.assert_allclose(result.x, x.detach().numpy(), rtol=1e-10)


def test_a_constant_factor_changes_nothing():
    method = Adam(0.1)
    np.testing.assert_array_equal(path_of(Scheduled(method, lambda step: 1), 6), path_of(method, 6))


def test_it_is_a_method_with_the_name_of_the_one_inside():
    scheduled = Scheduled(Sophia(), warmup_cosine(10))
    assert isinstance(scheduled, Optimizer)
    assert scheduled.name == "sophia"
    assert scheduled == Scheduled(Sophia(), warmup_cosine(10))
    assert hash(scheduled) == hash(Scheduled(Sophia(), warmup_cosine(10)))
    assert scheduled != Scheduled(Sophia(), warmup_cosine(11))
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheduled.factor = None


def test_the_state_carries_the_step_and_the_info_is_the_methods():
    method = Scheduled(Sophia(0.1, estimator="hutchinson", interval=2), halving)
    result = minimize(DoubleWell(n=3), method, START, steps=5)
    assert result.state.steps == 5
    assert result.state.method.steps == 5
    assert result.trace["estimated"][:5].tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert [method.at(step).learning_rate for step in (0, 2, 3, 8)] == [0.1, 0.1, 0.05, 0.025]


def test_closed_form_of_warmup_and_cosine():
    factor = warmup_cosine(110, warmup=10, floor=0.1)
    found = np.array([factor(step) for step in range(130)])
    np.testing.assert_allclose(found[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(found[10:110], 0.1 + 0.9 * np.cos(np.pi * np.arange(100) / 200) ** 2, rtol=1e-12)
    np.testing.assert_allclose(found[110:], 0.1, rtol=1e-15)
    assert found.min() > 0
    assert [warmup_cosine(1)(step) for step in (0, 1)] == pytest.approx([1.0, 0.1])
    assert warmup_cosine(4, warmup=4)(3) == 1.0
    assert warmup_cosine(4, warmup=4)(4) == pytest.approx(1.0)
    assert {warmup_cosine(9, floor=1.0)(step) for step in range(12)} == {1.0}


def test_torch_has_schedulers_of_its_own():
    torch = pytest.importorskip("torch")
    from refimpl import torch_optim

    with pytest.raises(ValueError, match=r"give the method inside \(adam\) and one of torch"):
        torch_optim.MethodOptimizer([torch.zeros(2, requires_grad=True)], Scheduled(Adam(), halving))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Scheduled(Adam, halving), "an instance of a method"),
        (lambda: Scheduled("adam", halving), "an instance of a method.*'adam'"),
        (lambda: Scheduled(LBFGS(), halving), "method"),
        (lambda: Scheduled(Adam(), 0.5), "factor must be a function of the step, got 0.5"),
        (lambda: Scheduled(Adam(), halving, "learning_rate"), "knobs must be a tuple of names"),
        (lambda: Scheduled(Adam(), halving, ()), "knobs must be a tuple of names"),
        (lambda: Scheduled(Adam(), halving, ("lr",)), "Adam has no number called 'lr'; choose among"),
        (lambda: Scheduled(CurveBall(), halving), "CurveBall has no number called 'learning_rate'"),
        (lambda: Scheduled(Sophia(), halving, ("interval",)), "no number called 'interval'"),
        (lambda: Scheduled(Adam(), lambda step: 0.0).at(3), "the factor of step 3 must be finite and positive"),
        (lambda: Scheduled(Adam(), lambda step: math.nan).at(0), "the factor of step 0"),
        (lambda: Scheduled(Adam(), lambda step: None).at(0), "the factor of step 0 must be a real number"),
        (lambda: Scheduled(Adam(beta1=0.9), lambda step: 2.0, ("beta1",)).at(0), "beta1 must lie in"),
        (lambda: warmup_cosine(0), "steps must be a whole number of at least 1"),
        (lambda: warmup_cosine(10, warmup=-1), "warmup must be a whole number of at least 0"),
        (lambda: warmup_cosine(10, warmup=11), "warmup must be at most steps = 10, got 11"),
        (lambda: warmup_cosine(10, floor=0.0), "floor must be positive"),
        (lambda: warmup_cosine(10, floor=1.5), "floor must lie in"),
    ],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call()
