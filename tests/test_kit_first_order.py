"""The kit's textbook forms of first-order methods against torch.optim, pytorch_optimizer and the golden vectors.

Oracles: a second library that does its own bookkeeping, in float64, over ten steps on three losses whose gradients
Torch computes by automatic differentiation; for Sophia the golden vectors, whose answers were computed with 60 digits.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import Rosenbrock
from refimpl.verify import golden
from refimpl.verify.kit.task import Task
from refimpl.verify.kit.tasks import TASKS as KIT_TASKS
from refimpl.verify.kit.textbook_first_order import DEFAULTS, FIRST_ORDER, SLIPS, TextbookState, textbook

MATRIX = np.array([[2.0, -1.0, 0.5], [-1.0, -1.5, 0.25], [0.5, 0.25, 4.0]])
TASKS = {
    "rosenbrock": Task("rosenbrock", lambda backend: Rosenbrock(backend=backend), np.array([-1.2, 1.0])).scaled(0.01),
    "saddle": Task("saddle", lambda backend: Quadratic(MATRIX, backend=backend), np.array([1.0, 0.7, -0.5])),
    "coupled": KIT_TASKS["coupled saddle"],  # where gradients grow, so that ADOPT clips
}
STEPS = 10


def places(adapter, task, settings, steps=STEPS):
    """(steps + 1, n)."""
    state = adapter.init(task, **settings)
    found = [adapter.read(state)]
    for _ in range(steps):
        state = adapter.step(task, state)
        found.append(adapter.read(state))
    return np.array(found)


def library_places(make, task, dtype="float64"):
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)  # NAdam keeps the product of its momenta in the default dtype
    try:
        return _library_places(torch, make, task, dtype)
    finally:
        torch.set_default_dtype(torch.float32)


def _library_places(torch, make, task, dtype):
    x = torch.tensor(task.start, dtype=getattr(torch, dtype), requires_grad=True)
    optimizer = make(torch, [x])
    found = [x.detach().numpy().copy()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        task.torch_loss(x).backward()
        optimizer.step()
        found.append(x.detach().numpy().copy())
    return np.array(found)


def betas(k):
    return (k["beta1"], k["beta2"])


LIBRARY = {
    "gradient-descent": lambda t, p, k: t.optim.SGD(p, lr=k["learning_rate"]),
    "heavy-ball": lambda t, p, k: t.optim.SGD(p, lr=k["learning_rate"], momentum=k["momentum"]),
    "nesterov": lambda t, p, k: t.optim.SGD(p, lr=k["learning_rate"], momentum=k["momentum"], nesterov=True),
    "adagrad": lambda t, p, k: t.optim.Adagrad(p, lr=k["learning_rate"], eps=k["epsilon"]),
    "rmsprop": lambda t, p, k: t.optim.RMSprop(p, lr=k["learning_rate"], alpha=k["beta"], eps=k["epsilon"]),
    "adadelta": lambda t, p, k: t.optim.Adadelta(p, lr=k["learning_rate"], rho=k["beta"], eps=k["epsilon"]),
    "adam": lambda t, p, k: t.optim.Adam(p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"]),
    "adamw": lambda t, p, k: t.optim.AdamW(
        p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"], weight_decay=k["weight_decay"]
    ),
    "amsgrad": lambda t, p, k: t.optim.Adam(p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"], amsgrad=True),
    "nadam": lambda t, p, k: t.optim.NAdam(
        p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"], momentum_decay=k["momentum_decay"]
    ),
    "adamax": lambda t, p, k: t.optim.Adamax(p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"]),
    # This library's bound counts the first gradient; the paper's starts with the first step that moves.
    "adopt": lambda _, p, k: pytest.importorskip("pytorch_optimizer").ADOPT(
        p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"], clip_lambda=lambda step: (step - 1) ** 0.25
    ),
    "lion": lambda _, p, k: pytest.importorskip("pytorch_optimizer").Lion(
        p, lr=k["learning_rate"], betas=betas(k), weight_decay=k["weight_decay"]
    ),
}


@pytest.mark.parametrize("on", TASKS)
@pytest.mark.parametrize("name", LIBRARY)
def test_same_places_as_the_library(name, on):
    task, settings = TASKS[on], DEFAULTS[name]
    found = places(textbook(name), task, settings)
    wanted = library_places(lambda t, p: LIBRARY[name](t, p, settings), task)
    assert found.shape == (STEPS + 1, task.n)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


# Knobs as they are used in practice: epsilons near zero, long memories, no decay.
PRACTICE = {
    "adam": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
    "adamw": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
    "nadam": {"learning_rate": 2e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "momentum_decay": 4e-3},
    "rmsprop": {"learning_rate": 1e-2, "beta": 0.99, "epsilon": 1e-8},
    "adadelta": {"learning_rate": 1.0, "beta": 0.9, "epsilon": 1e-6},
    "adopt": {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.9999, "epsilon": 1e-6},
    "lion": {"learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0},
}


@pytest.mark.parametrize("name", PRACTICE)
def test_same_places_with_the_knobs_of_practice(name):
    task, settings = TASKS["rosenbrock"], PRACTICE[name]
    wanted = library_places(lambda t, p: LIBRARY[name](t, p, settings), task)
    np.testing.assert_allclose(places(textbook(name), task, settings), wanted, rtol=1e-12, atol=1e-12)


SLIPPED = {
    ("heavy-ball", "dampening"): lambda t, p, k: t.optim.SGD(
        p, lr=k["learning_rate"], momentum=k["momentum"], dampening=k["momentum"]
    ),
    ("heavy-ball", "look-ahead"): LIBRARY["nesterov"],
    ("nesterov", "no look-ahead"): LIBRARY["heavy-ball"],
    ("rmsprop", "centered"): lambda t, p, k: t.optim.RMSprop(
        p, lr=k["learning_rate"], alpha=k["beta"], eps=k["epsilon"], centered=True
    ),
    ("adamw", "coupled"): lambda t, p, k: t.optim.Adam(
        p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"], weight_decay=k["weight_decay"]
    ),
    ("adamw", "no decay"): LIBRARY["adam"],
    ("amsgrad", "no maximum"): LIBRARY["adam"],
    ("nadam", "no look-ahead"): LIBRARY["adam"],
    ("adam", "uphill"): lambda t, p, k: t.optim.Adam(
        p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"], maximize=True
    ),
    ("adopt", "bound counts the first"): lambda _, p, k: pytest.importorskip("pytorch_optimizer").ADOPT(
        p, lr=k["learning_rate"], betas=betas(k), eps=k["epsilon"]
    ),
    ("lion", "coupled"): lambda _, p, k: pytest.importorskip("pytorch_optimizer").Lion(
        p, lr=k["learning_rate"], betas=betas(k), weight_decay=k["weight_decay"], weight_decouple=False
    ),
    ("lion", "decay without rate"): lambda _, p, k: pytest.importorskip("pytorch_optimizer").Lion(
        p, lr=k["learning_rate"], betas=betas(k), weight_decay=k["weight_decay"], fixed_decay=True
    ),
}


@pytest.mark.parametrize(("name", "slip"), SLIPPED, ids=lambda part: part.replace(" ", "-"))
def test_slips_that_a_library_has_as_an_option(name, slip):
    task, settings = TASKS["coupled"], DEFAULTS[name]
    wanted = library_places(lambda t, p: SLIPPED[name, slip](t, p, settings), task)
    np.testing.assert_allclose(places(textbook(name, slip), task, settings), wanted, rtol=1e-12, atol=1e-12)


def test_sophia_against_the_golden_vectors():
    cases = [case for case in golden.cases("elmo") if case.call == "sophia_step"]
    assert len(cases) >= 3
    for case in cases:
        known = {key: np.asarray(value, dtype=float) for key, value in case.inputs.items() if isinstance(value, list)}
        knobs = {key: case.inputs[key] for key in ("learning_rate", "beta1", "beta2", "rho", "weight_decay")}
        sampled = known.get("sampled_gradient")
        curvature = np.diag(case.inputs["samples"] * sampled**2) if sampled is not None else None
        task = SimpleNamespace(
            start=known["place"], gradient=lambda _, g=known["gradient"]: g, hessian=lambda _, h=curvature: h
        )
        adapter = textbook("sophia")
        state = adapter.init(task, **knobs, interval=2, epsilon=1e-15)
        memory = {"mean": known["mean"], "curvature": known["curvature"]}
        steps = 0 if sampled is not None else 1
        after = adapter.step(task, dataclasses.replace(state, memory=memory, steps=steps))
        np.testing.assert_allclose(adapter.read(after), case.expected["place"], rtol=case.rtol)
        np.testing.assert_allclose(after.memory["mean"], case.expected["mean"], rtol=case.rtol)
        np.testing.assert_allclose(after.memory["curvature"], case.expected["curvature"], rtol=case.rtol)


def test_nesterov_s_other_form_is_the_same_iteration_seen_elsewhere():
    """His x and its look-ahead y = x - rate * momentum * velocity: the y are the places of Torch's form."""
    task, (rate, mu) = TASKS["saddle"], DEFAULTS["nesterov"].values()
    x = places(textbook("nesterov", "other form"), task, {})
    seen = x[1:] + mu * (x[1:] - x[:-1])
    np.testing.assert_allclose(seen, places(textbook("nesterov"), task, {})[1:], rtol=1e-12)
    assert rate > 0


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_slip_is_seen_within_ten_steps_and_no_two_look_alike(name):
    with np.errstate(all="ignore"):
        found = {
            slip: np.concatenate(
                [np.ravel(places(textbook(name, slip), KIT_TASKS[on], {})) for on in FIRST_ORDER[name].tasks]
            )
            for slip in ("", *SLIPS[name])
        }
    for slip, one in found.items():
        for other, two in found.items():
            if slip < other:
                difference = np.abs(np.nan_to_num(one - two, nan=1.0, posinf=1.0, neginf=1.0)).max()
                assert difference > 1e-4, f"{name}: {slip!r} and {other!r} take the same places"


def test_counts():
    assert set(SLIPS) == set(DEFAULTS)
    assert len(DEFAULTS) == 14
    assert sum(map(len, SLIPS.values())) >= 100
    assert len({slip for slips in SLIPS.values() for slip in slips}) >= 25
    for slips in SLIPS.values():
        assert len(set(slips.values())) == len(slips), "two slips of a method have the same words"


@pytest.mark.parametrize("name", DEFAULTS)
def test_states_are_not_changed_in_place_and_float32_stays(name):
    task = TASKS["saddle"].in_dtype("float32")
    adapter = textbook(name)
    first = adapter.step(task, adapter.init(task))
    before = (first.x.copy(), {key: np.copy(value) for key, value in first.memory.items()})
    once, again = adapter.step(task, first), adapter.step(task, first)
    np.testing.assert_array_equal(once.x, again.x)
    np.testing.assert_array_equal(first.x, before[0])
    assert all(np.array_equal(first.memory[key], value) for key, value in before[1].items())
    assert adapter.read(once).dtype == np.float32
    assert all(np.asarray(value).dtype == np.float32 for key, value in once.memory.items() if key != "product")


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_leads_to_no_place(name, bad):
    task = SimpleNamespace(start=np.array([1.0, 2.0]), gradient=lambda _: np.array([bad, 1.0]))
    assert np.isnan(places(textbook(name), task, {}, steps=2)[1:]).all()


@pytest.mark.parametrize("name", DEFAULTS)
def test_without_a_gradient_nothing_moves_but_weights_that_decay(name):
    x = np.array([1.0, -2.0])
    task = SimpleNamespace(start=x, gradient=lambda _: np.zeros(2), hessian=lambda _: np.zeros((2, 2)))
    found = places(textbook(name), task, {}, steps=3)
    share = 1.0 - DEFAULTS[name].get("weight_decay", 0.0) * DEFAULTS[name]["learning_rate"]
    np.testing.assert_allclose(found, [share**t * x for t in range(4)], rtol=1e-14)


def test_doors():
    with pytest.raises(ValueError, match=r"unknown first-order method 'sgd'; choose one of \['adadelta'"):
        textbook("sgd")
    with pytest.raises(ValueError, match="adam has no slip 'coupled'"):
        textbook("adam", "coupled")
    with pytest.raises(ValueError, match=r"adam has no setting \['lr'\]; it has \['beta1'"):
        textbook("adam").init(TASKS["saddle"], lr=0.1)
    assert isinstance(textbook("adam").init(TASKS["saddle"], epsilon=0.5), TextbookState)
