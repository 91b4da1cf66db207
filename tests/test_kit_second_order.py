"""Second-order methods of the conformance kit: the textbook forms are right, and every slip is seen and named.

Oracles: SciPy and closed forms for the textbook forms, the package's own optimizers for whole runs, and for the slips
their words: each one planted must be named, alone unless another gives the same places.
"""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from refimpl.verify.kit import LEVELS, METHODS, check_method
from refimpl.verify.kit.adapter import as_adapter
from refimpl.verify.kit.tasks import TASKS
from refimpl.verify.kit.textbook_second_order import MOVES, SLIPS, textbook
from refimpl.verify.kit.walks import take

FIXED = {"learning_rate": 0.1, "momentum": 0.8}
SHOWN_BY = {
    ("saddle-free-newton", "inside"): {"mode": "abs"},
    ("lanczos-sfn", "outside"): {"mode": "square"},
    ("series-sfn", "shanks"): {"order": 2},
    ("series-sfn", "not accelerated"): {"order": 2},
    ("curveball", "damping not in dz"): {"momentum": 0.8},
    ("curveball", "swapped"): FIXED,
    ("curveball", "no gradient"): FIXED,
    ("curveball", "rho on dz"): FIXED,
    ("curveball", "damping not in the system"): {"momentum": 0.8},
    ("curveball", "damping nowhere"): {"momentum": 0.8},
}
"""Slips that the usual settings do not show, or not apart from others, and settings that do."""

ONE_STEP = {
    "newton": SLIPS["newton"],
    "damped-newton": SLIPS["damped-newton"],
    "series-sfn": SLIPS["series-sfn"],
    "lanczos-sfn": SLIPS["lanczos-sfn"],
    "saddle-free-newton": {
        "uphill", "no rate", "diagonal", "transposed", "newton", "no root", "root twice", "positive part", "before",
        "half", "not squared", "outside", "inside",
    },
    "levenberg-marquardt": {
        "uphill", "no output curvature", "gradient without its factor", "textbook", "hessian", "magnitudes",
        "no damping", "half", "squared", "marquardt", "diagonal",
    },
    "kryball": {"no saddle-free direction", "newton direction", "no radius", "cut", "ratio's sign"},
    "gauss-newton": SLIPS["gauss-newton"],
    "cubic": {"half sigma", "twice sigma", "uphill", "newton", "magnitudes"},
    "arc": {"half sigma", "twice sigma"},
}  # fmt: skip
"""Slips that one step tells apart from all others."""

PLANTED = [(method, slip) for method, slips in SLIPS.items() for slip in slips]


def moved(name, task, slip="", **settings):
    """What one step adds to x."""
    walk = take(as_adapter(textbook(name, slip)), task, 1, {**METHODS[name].settings, **settings})
    assert not walk.problem
    return walk.places[1] - walk.places[0]


# -- the textbook forms are right -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SLIPS)
def test_reference_and_textbook_conform(name):
    method = METHODS[name]
    card = check_method(name, method.textbook(""))
    assert card.passed, card.text()
    assert card.levels == LEVELS
    assert card.cause == ""
    assert max(row.error for row in card.rows if row.level != "precision") < 1e-9
    own = check_method(name, method.reference, levels=["invariances", "edge cases", "precision"])
    assert own.passed, own.text()


@pytest.mark.parametrize("task", ["saddle", "double well", "wood"])
def test_dense_directions_are_those_of_scipy(task):
    here = TASKS[task]
    h, g, one = here.hessian(here.start), here.gradient(here.start), np.eye(here.n)
    root = scipy.linalg.sqrtm(h @ h).real
    damped = scipy.linalg.sqrtm(h @ h + 0.09 * one).real
    wanted = {
        "newton": scipy.linalg.solve(h, g),
        "damped-newton": scipy.linalg.solve(h + 0.7 * one, g),
        "saddle-free-newton": scipy.linalg.solve(damped, g),
    }
    for name, direction in wanted.items():
        assert moved(name, here) == pytest.approx(-0.5 * direction, rel=1e-9)
    undamped = moved("saddle-free-newton", here, mode="none", learning_rate=1.0)
    assert undamped == pytest.approx(-scipy.linalg.solve(root, g), rel=1e-7)
    lanczos = moved("lanczos-sfn", here, products=here.n, damping=0.3, learning_rate=1.0)
    assert lanczos == pytest.approx(-scipy.linalg.solve(root + 0.3 * one, g), rel=1e-7)


def test_the_series_is_a_binomial_series():
    here = TASKS["saddle"]
    h, g = here.hessian(here.start), here.gradient(here.start)
    values, basis = np.linalg.eigh(h)
    z = 1 - values**2 / 20.0
    sums = np.polyval([231 / 1024, 63 / 256, 35 / 128, 5 / 16, 3 / 8, 1 / 2, 1], z)
    assert moved("series-sfn", here, learning_rate=1.0) == pytest.approx(-basis @ (sums / 20**0.5 * (basis.T @ g)))


@pytest.mark.parametrize("task", ["least squares", "rosenbrock", "wood"])
def test_gauss_newton_is_a_linear_least_squares_problem(task):
    here = TASKS[task]
    x = here.start
    residuals, jacobian = here.outputs(x), np.stack([here.jvp(x, e) for e in np.eye(here.n)], axis=-1)
    stacked = np.r_[jacobian, np.sqrt(0.35) * np.eye(here.n)]  # r·r without 1/2: lam I against 2 J^T J
    wanted = np.linalg.lstsq(stacked, -np.r_[residuals, np.zeros(here.n)], rcond=None)[0]
    assert moved("gauss-newton", here, learning_rate=1.0) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("name", ["trust-region", "cubic"])
def test_subproblems_are_solved_to_the_global_minimum(name):
    here = TASKS["saddle"]
    h, g = here.hessian(here.start), here.gradient(here.start)

    def model(s):
        return g @ s + 0.5 * s @ h @ s + (0.5 * np.linalg.norm(s) ** 3 if name == "cubic" else 0.0)

    ball = [] if name == "cubic" else [{"type": "ineq", "fun": lambda s: 1.0 - s @ s}]
    starts = np.random.default_rng(0).standard_normal((6, here.n)) / 3
    found = [scipy.optimize.minimize(model, s, method="SLSQP", constraints=ball, tol=1e-12).fun for s in starts]
    assert model(moved(name, here)) == pytest.approx(min(found), rel=1e-6)


# -- every slip -------------------------------------------------------------------------------------------------------


def test_there_are_enough_slips():
    assert len(PLANTED) >= 25
    assert set(SLIPS) == set(MOVES) <= set(METHODS)
    assert all(len(slips) >= 6 for slips in SLIPS.values())


@pytest.mark.parametrize(("name", "slip"), PLANTED, ids=[f"{name}-{slip}" for name, slip in PLANTED])
def test_slip_is_seen_and_named(name, slip):
    settings = SHOWN_BY.get((name, slip), {})
    levels = ["edge cases"] if slip == "no hard case" else ["one step", "ten steps"]
    levels = ["one step"] if slip in ONE_STEP.get(name, ()) else levels
    card = check_method(name, textbook(name, slip), levels=levels, settings=settings)
    assert not card.passed
    assert card.cause == SLIPS[name][slip]


@pytest.mark.parametrize("planted", SHOWN_BY, ids=lambda planted: "-".join(planted))
def test_what_the_usual_settings_do_not_tell_is_not_guessed(planted):
    name, slip = planted
    card = check_method(name, textbook(name, slip), levels=["one step", "ten steps"])
    if card.passed:
        assert card.cause == ""
    else:  # it gives the places of another slip as well
        assert SLIPS[name][slip] in card.cause.split("; or ")
        assert "; or " in card.cause


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown method 'adam'; choose one of .*curveball"):
        textbook("adam")
    with pytest.raises(ValueError, match="newton has no slip 'none'; it has"):
        textbook("newton", "none")
