"""EigenARC at a frozen place, repaired and as printed, and the study that measures with it.

Oracles: golden decisions (every trial, computed in 60-digit arithmetic from the printed formulas with the repairs);
closed forms on quadratics and cubics, where the ratio is known; the algorithm as printed, which must fail; a dense
Hessian by Torch for the eigenpairs; a study that was not interrupted.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiment_cases import Interrupting, stopped_and_continued  # noqa: E402

from refimpl import minimize  # noqa: E402
from refimpl.curvature.lipschitz import own_direction  # noqa: E402
from refimpl.curvature.spectrum import Spectrum  # noqa: E402
from refimpl.experiments import EXPERIMENTS  # noqa: E402
from refimpl.experiments.eigenarc import EigenARC, Frozen, frozen_point  # noqa: E402
from refimpl.experiments.eigenarc_study import (  # noqa: E402
    COLUMNS,
    RACERS,
    EigenArcStudy,
    OwnDirection,
    Watcher,
    bases,
    measure,
    network,
    race_losses,
    racers,
    window_medians,
    windows,
)
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.problems.line_derivatives import third_derivative  # noqa: E402
from refimpl.problems.losses import BinaryCrossEntropy  # noqa: E402
from refimpl.problems.mlp import MLP  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402

GOLDEN = [  # L going in, action, trials as (L, ratio), L coming out
    (
        [0.5, 0.5],
        "raised",
        [
            ([0.5, 0.5], -28.685236391043997),
            ([1.0, 1.0], -10.588031800906931),
            ([2.0, 2.0], -3.2227613530094485),
            ([4.0, 4.0], -0.3484901991593873),
            ([8.0, 8.0], 0.7504762527818777),
            ([4.0, 8.0], -0.3580645161290323),
            ([8.0, 4.0], 0.7437939222680519),
            ([8.0, 2.0], 0.7368601919347363),
            ([8.0, 1.0], 0.7315906600129968),
            ([8.0, 0.5], 0.7282615688401938),
            ([8.0, 0.25], 0.72637437995769),
            ([8.0, 0.125], 0.7253670559903996),
            ([8.0, 0.0625], 0.7248462908958182),
        ],
        [8.0, 0.0625],
    ),
    ([32.0, 32.0], "lowered", [([32.0, 32.0], 1.3383437517070218)], [16.0, 16.0]),
    ([16.0, 16.0], "lowered", [([16.0, 16.0], 1.1713996324408)], [8.0, 8.0]),
]


def golden_place():
    """f = -x - x^2/2 + 2x^3 - y + 3y^2/2 + y^3/5 at the origin."""

    def change(y):
        return -y[0] - y[0] ** 2 / 2 + 2 * y[0] ** 3 - y[1] + 1.5 * y[1] ** 2 + 0.2 * y[1] ** 3

    return Frozen(0.0, np.array([-1.0, 3.0]), np.array([-1.0, -1.0]), change)


def polynomial(eigenvalues, slopes, cubes, offset=0.0):
    """f = offset + sum c x + lam x^2/2 + T x^3/6, separable, at the origin."""
    lam, c, third = (np.asarray(v, float) for v in (eigenvalues, slopes, cubes))
    return Frozen(offset, lam, c, lambda y: float(offset + c @ y + lam @ y**2 / 2 + third @ y**3 / 6))


def constant_place(value=1.0, eigenvalues=(1.0, 1.0)):
    return Frozen(value, np.asarray(eigenvalues, float), np.zeros(2), lambda y: value)


# -- repaired ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "action", "trials", "end"), GOLDEN)
def test_golden_decisions(start, action, trials, end):
    found = EigenARC(minimum=0.0625).update(golden_place(), start)
    assert found.action == action
    assert found.lipschitz.tolist() == end
    assert [a.lipschitz.tolist() for a in found.assessments] == [lipschitz for lipschitz, _ in trials]
    np.testing.assert_allclose([a.ratio for a in found.assessments], [ratio for _, ratio in trials], rtol=1e-12)


def test_golden_steps():
    found = EigenARC(minimum=0.0625).update(golden_place(), [0.5, 0.5]).assessments
    np.testing.assert_allclose(found[0].step, [4.82842712474619, 0.32455532033675866], rtol=1e-14)
    np.testing.assert_allclose(found[0].predicted, 7.268271635239978, rtol=1e-14)
    np.testing.assert_allclose(found[-1].step, [0.6403882032022076, 0.33218389437828767], rtol=1e-13)


def test_signs_of_slopes_do_not_matter():
    plain = golden_place()
    mirrored = plain._replace(slopes=-plain.slopes, change=lambda y: plain.change(-y))
    first, second = (EigenARC().update(place, [0.5, 0.5]) for place in (plain, mirrored))
    assert [a.ratio for a in first.assessments] == [a.ratio for a in second.assessments]


def test_halves_for_ever_on_a_convex_quadratic_and_stops_at_the_floor():
    place, constants = polynomial([2.0, 0.5], [1.0, -0.3], [0.0, 0.0]), np.ones(2)
    instrument = EigenARC(minimum=1e-9)
    for _ in range(29):
        found = instrument.update(place, constants)
        assert found.action == "lowered"
        assert found.lipschitz.tolist() == (constants / 2).tolist()
        constants = found.lipschitz
    assert not found.floor.any()
    assert instrument.update(place, constants).floor.all()
    assert len(found.assessments) == 1
    assert found.assessments[0].ratio == pytest.approx(1.0, abs=1e-8)


def test_ratio_of_a_huge_constant_is_three_halves():
    place = polynomial([1.0, -1.0], [1.0, 1.0], [0.5, -0.5])
    assert EigenARC().assess(place, [1e9, 1e9]).ratio == pytest.approx(1.5, abs=1e-3)


def test_third_derivative_that_hurts_is_found_within_a_factor_and_one_that_helps_is_not():
    # Along x the loss is -x - x^2/2 + T x^3/6; moving is along +x.
    def settled(third):
        constants = np.ones(1)
        for _ in range(60):
            constants = EigenARC().update(polynomial([-1.0], [-1.0], [third]), constants).lipschitz
        return float(constants[0])

    assert 0.3 < settled(3.0) / 3.0 < 4
    assert 0.3 < settled(300.0) / 300.0 < 4
    assert settled(-300.0) == pytest.approx(1e-12, rel=1)


@pytest.mark.parametrize(
    "place",
    [
        constant_place(),  # no slope, convex: no step
        constant_place(eigenvalues=(0.0, 0.0)),
        polynomial([1.0, 1.0], [1e-9, 0.0], [0.0, 0.0], offset=1.0),  # a promise of 1e-18 beside f = 1
    ],
)
def test_where_nothing_is_promised_nothing_changes(place):
    found = EigenARC().update(place, [0.3, 5.0])
    assert (found.action, found.lipschitz.tolist(), len(found.assessments)) == ("uninformative", [0.3, 5.0], 1)
    assert math.isnan(found.assessments[0].ratio)


def test_concave_loss_that_is_constant_to_rounding_raises_to_a_cap_and_says_so():
    # Negative curvature promises a decrease that never comes.
    place = constant_place(eigenvalues=(-1.0, 1.0))
    found = EigenARC(most_raisings=4).update(place, [1.0, 1.0])
    assert (found.action, found.met, found.cut_raising) == ("raised", False, True)
    assert found.lipschitz.tolist() == [16.0, 16.0]
    assert len(found.assessments) == 5
    found = EigenARC(maximum=6.0).update(place, [1.0, 1.0])
    assert (found.lipschitz.tolist(), found.cut_raising) == ([6.0, 6.0], True)
    assert found.ceiling.all()


@pytest.mark.parametrize("seed", range(40))
def test_afterwards_the_promise_is_kept_or_a_cap_is_reported(seed):
    rng = np.random.default_rng(seed)
    place = polynomial(rng.standard_normal(3), rng.standard_normal(3), 10 * rng.standard_normal(3))
    instrument = EigenARC(most_raisings=int(rng.integers(1, 12)))
    found = instrument.update(place, 10.0 ** rng.uniform(-3, 2, 3))
    again = instrument.assess(place, found.lipschitz).ratio
    if found.action == "raised":
        assert found.cut_raising or again >= 0.1
        assert found.met == (again >= 0.1)
    else:
        assert found.met
    assert len(found.assessments) <= 1 + 11 + 3 * 11


def test_lowering_one_constant_is_cut():
    # With slope 0 the convex direction contributes nothing: its constant could be lowered without end.
    place = polynomial([-1.0, 1.0], [-1.0, 0.0], [12.0, 0.0])
    found = EigenARC(most_lowerings=3).update(place, [0.5, 0.5])
    assert found.action == "raised"
    assert found.cut_lowering.tolist() == [False, True]
    assert found.lipschitz[1] == found.assessments[-1].lipschitz[1]
    assert found.lipschitz[0] == 8 * found.lipschitz[1]


def test_loss_that_is_not_finite_counts_as_too_liberal():
    place = Frozen(0.0, np.array([-1.0]), np.array([-1.0]), lambda y: math.inf if abs(y[0]) > 1 else -abs(y[0]))
    found = EigenARC().update(place, [0.1])
    assert found.assessments[0].ratio == -math.inf
    assert found.met
    assert found.assessments[-1].step[0] <= 1 or found.lipschitz[0] > 0.1


# -- as printed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [[0.5, 0.5], [0.01, 3.0], [3.0, 0.01]])
def test_printed_loop_that_raises_never_runs(start):
    found = EigenARC().printed_update(golden_place(), start)
    assert found.raising == 0
    turned = EigenARC().printed_update(golden_place(), start, turned=True)
    assert turned.raising > 0


def test_printed_algorithm_does_not_end_on_a_convex_direction():
    # Line 15, met by accident, repairs the concave direction: then the convex one is lowered for ever.
    found = EigenARC().printed_update(golden_place(), [4.0, 4.0], limit=2000)
    assert not found.terminated
    assert found.trials == 2000
    assert found.lowering > 1900
    assert found.lipschitz[1] == 0.0  # halved until it underflowed, and then on
    assert "did not terminate within 2000 trials" in found.message
    turned = EigenARC().printed_update(golden_place(), [0.5, 0.5], limit=2000, turned=True)
    assert not turned.terminated
    repaired = EigenARC().update(golden_place(), [4.0, 4.0])
    assert len(repaired.assessments) < 40


def test_printed_line_15_multiplies_constants_that_were_never_divided():
    # Too liberal by far: no loop runs at all, and every constant is doubled once.
    place = polynomial([-1.0, -1.0], [-1.0, -1.0], [1e6, 1e6])
    found = EigenARC().printed_update(place, [1.0, 2.0])
    assert (found.lipschitz.tolist(), found.raising, found.lowering) == ([2.0, 4.0], 0, 0)
    assert found.terminated
    assert found.message == "terminated"
    repaired = EigenARC(most_raisings=40).update(place, [1.0, 2.0])
    assert repaired.met
    assert repaired.lipschitz.max() > 1e4


def test_printed_gamma2_of_the_settings_list_raises_what_is_too_large():
    place = polynomial([1.0], [1.0], [0.1])
    assert EigenARC().printed_update(place, [4.0], lower_by=2.0).lipschitz.tolist() == [8.0]
    assert EigenARC().printed_update(place, [4.0]).lipschitz.tolist() == [2.0]
    with pytest.raises(ValueError, match="lowered by one below"):
        EigenARC(lower_by=2.0)


def test_printed_algorithm_without_a_slope_does_nothing():
    found = EigenARC().printed_update(constant_place(), [1.0, 2.0])
    assert (found.lipschitz.tolist(), found.terminated) == ([1.0, 2.0], True)


# -- at the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"accept_above": 0.95}, "lower_above must be at least accept_above"),
        ({"raise_by": 1.0}, "raised by a factor above 1"),
        ({"minimum": 2.0, "maximum": 1.0}, "minimum must be less"),
        ({"most_raisings": 0}, "most_raisings"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_knobs_are_checked(knobs, message):
    with pytest.raises(ValueError, match=message):
        EigenARC(**knobs)


@pytest.mark.parametrize("lipschitz", [[1.0], [1.0, -1.0], [1.0, math.nan], "ab"])
def test_constants_are_checked(lipschitz):
    with pytest.raises(ValueError, match="lipschitz must be"):
        EigenARC().assess(golden_place(), lipschitz)


# -- a network --------------------------------------------------------------------------------------------------------


def test_frozen_point_is_the_loss_around_a_point():
    rng = np.random.default_rng(0)
    problem = MLP((2, 3, 1), rng.standard_normal((9, 2)), rng.standard_normal(9), activation="tanh")
    point = problem.at(problem.initial(rng))
    values, vectors = np.linalg.eigh(point.hessian())
    frozen = frozen_point(point, values[[0, -1]], vectors[:, [0, -1]])
    coefficients = np.array([0.3, -0.2])
    moved = point.x + vectors[:, [0, -1]] @ coefficients
    assert frozen.change(coefficients) == float(problem.loss(moved))
    h = 1e-5
    slopes = [(frozen.change(h * e) - frozen.change(-h * e)) / (2 * h) for e in np.eye(2)]
    np.testing.assert_allclose(frozen.slopes, slopes, rtol=1e-6, atol=1e-9)
    curvature = [(frozen.change(1e-3 * e) + frozen.change(-1e-3 * e) - 2 * frozen.loss) / 1e-6 for e in np.eye(2)]
    np.testing.assert_allclose(frozen.eigenvalues, curvature, rtol=1e-4, atol=1e-6)


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupted(Interrupting, EigenArcStudy):
    """The study, stopped at a job."""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eigenarc")
    return stopped_and_continued(Interrupted, "eigenarc", "race/moons/arc/0", folder)


def test_study_is_registered_and_continues(record):
    assert EXPERIMENTS["eigenarc"] == EigenArcStudy("eigenarc")
    assert len(record["runs"]) == 2 * (4 + 7)
    keys = {run["key"] for run in record["runs"]}
    assert {"measure/moons/arc/0", "race/xor/elmo-row-sum/0"} <= keys


@pytest.mark.parametrize("scale", SCALES)
def test_settings_are_plain_and_jobs_know_their_own(scale):
    study = EigenArcStudy("eigenarc")
    settings = study.settings(scale, None)
    assert json.loads(json.dumps(settings)) == settings
    assert all(job.split("/")[2] in (bases() if job[0] == "m" else RACERS) for job in study.jobs(settings))
    more, longer = study.settings(scale, 7), {**settings, "steps": 999}
    for job in ("measure/moons/arc/0", "race/moons/arc/0"):
        assert study.job_settings(job, more) == study.job_settings(job, settings)
        assert (study.job_settings(job, longer) == study.job_settings(job, settings)) == job.startswith("race")
    assert len(study.jobs(more)) == 7 * 22


def test_racers_are_those_of_the_list():
    assert tuple(racers(network("xor"))) == RACERS


def test_a_measured_run_is_the_run_itself_with_dense_eigenpairs():
    problem = network("xor")
    start = problem.initial(np.random.default_rng(1))
    method = bases()["heavy-ball"]
    plain = minimize(problem, method, start, steps=6, gradient_tolerance=None)
    seen = measure(problem, method, start, 6, watcher=Watcher(points=5, every=3, start=64.0))
    np.testing.assert_array_equal(plain.trace["loss"], seen.trace["loss"])
    assert [name for name in COLUMNS if name not in seen.trace.columns] == []
    columns = {name: np.asarray(seen.trace[name], float) for name in COLUMNS}
    values, vectors = np.linalg.eigh(problem.at(seen.x).hessian().numpy())
    gradient = problem.at(seen.x).gradient.numpy()
    assert columns["eigenvalue_plus"][-1] == pytest.approx(values[-1])
    assert columns["eigenvalue_minus"][-1] == pytest.approx(values[0])
    assert columns["slope_plus"][-1] == pytest.approx(abs(gradient @ vectors[:, -1]))
    # Third derivatives by differences of curvature on the same grid.
    v = torch.from_numpy(vectors[:, -1].copy())

    def curvature(t):
        return float(v @ problem.at(seen.x + t * v).hvp(v))

    slopes = [abs(curvature(t + 1e-4) - curvature(t - 1e-4)) / 2e-4 for t in np.linspace(-0.5, 0.5, 5)]
    assert columns["true_plus"][-1] == pytest.approx(max(slopes), rel=1e-5)
    z = columns["true_plus"] * columns["slope_plus"] / columns["eigenvalue_plus"] ** 2
    np.testing.assert_allclose(columns["z_plus"], z)
    assert np.isfinite(columns["true_plus"]).tolist() == [True, False, False, True, False, False, True]
    # The constants go on from iterate to iterate, by factors of two.
    steps = np.diff(np.log2(np.concatenate([[64.0], columns["eigenarc_plus"]])))
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert steps[0] == pytest.approx(-1)
    assert len(set(columns["eigenarc_plus"])) > 1


def test_dimensionless_shift_does_not_change_with_the_units_of_the_loss():
    problem = network("xor")
    x = problem.initial(np.random.default_rng(1))
    rows = Watcher(points=5)(0, problem.at(x))
    times64 = BinaryCrossEntropy()
    scaled = TorchProblem(
        problem.module, lambda o, t: 64 * times64.value(o, t), problem.inputs, problem.targets, backend=problem.backend
    )
    other = Watcher(points=5)(0, scaled.at(x))
    for end in ("plus", "minus"):
        assert other[f"true_{end}"] == pytest.approx(64 * rows[f"true_{end}"], rel=1e-9)
        assert other[f"z_{end}"] == pytest.approx(rows[f"z_{end}"], rel=1e-7)


def test_without_negative_curvature_its_columns_are_empty():
    module = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    rows = np.random.default_rng(0).standard_normal((8, 2))
    problem = TorchProblem(module, BinaryCrossEntropy(), rows, np.arange(8.0) % 2)
    watcher = Watcher(points=3)
    row = watcher(0, problem.at(torch.ones(2, dtype=torch.float64)))
    assert math.isnan(row["eigenarc_minus"])
    assert math.isnan(row["z_minus"])
    assert row["z_plus"] > 0
    assert watcher.constants[1] == 1.0


def test_own_direction_against_the_tensor():
    problem = network("xor")
    point = problem.at(problem.initial(np.random.default_rng(2)))
    values, vectors = torch.linalg.eigh(point.hessian())
    found = OwnDirection()(point, Spectrum(values, vectors))
    np.testing.assert_allclose(found, own_direction(third_derivative(problem, point.x), vectors), atol=1e-12)


def test_windows_by_hand():
    found = window_medians({"a": np.array([1.0, 3.0, 2.0, math.nan, 8.0, 9.0]), "b": np.full(6, math.nan)}, 2)
    assert found["a"] == [2.0, 8.5]
    assert all(math.isnan(value) for value in found["b"])


def test_readers(record):
    found = windows(record, "moons", "arc", "loss")
    assert found.shape == (1, 3)
    run = next(run for run in record["runs"] if run["key"] == "measure/moons/arc/0")
    assert found[0].tolist() == run["windows"]["loss"]
    assert run["columns"]["step"] == [0, 2]
    losses = race_losses(record, "xor", "arc", at=(0, 1, 60))
    assert losses.shape == (1, 3)
    assert losses[0, 1] < losses[0, 0]
    assert losses[0, 2] == math.inf
    with pytest.raises(ValueError, match="no run of"):
        windows(record, "moons", "newton", "loss")
    with pytest.raises(ValueError, match="unknown data"):
        network("mnist")
