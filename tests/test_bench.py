"""The performance goals: the list, the verdicts, what is counted, and every section at a tiny size.

Oracles: numbers written down here (limits, counts by hand, made-up measurements); in the sections themselves each route
is compared with another one, and the compared routes are broken here on purpose. No time is asserted.
"""

import json
import math

import numpy as np
import pytest

from refimpl import get_backend
from refimpl.bench import cards, counts, goals, gpu, hvp, peers, products, seeds, series, sfn, subproblem
from refimpl.bench.__main__ import main
from refimpl.bench.digits import series_reference
from refimpl.bench.report import Goal, Limit, Outcome, Part, Session, as_json, measure, skipped, table
from refimpl.bench.timing import device_race, gap, race
from refimpl.experiments import kernels
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic

BY_ID = {goal.id: goal for goal in goals.GOALS}
SKIPPED_HERE = {"G16", "G17", "G18"}


def quick(**knobs):
    return Session(quick=True, knobs=knobs)


def made_up(value, *, error=None, timed=True, limit=1.0, sense="<="):
    """A goal that finds ``value``."""
    return Goal(
        "G0", "x", "made up", (Limit("number", limit, sense, timed),), lambda session: {"number": Part(value, error)}
    )


# -- the list ---------------------------------------------------------------------------------------------------------


def test_every_goal_is_there_once_with_numbers_for_limits():
    assert [goal.id for goal in goals.GOALS] == [f"G{i}" for i in range(1, 19)]
    for goal in goals.GOALS:
        assert goal.limits
        assert len({limit.what for limit in goal.limits}) == len(goal.limits)
        for limit in goal.limits:
            assert isinstance(limit.value, int | float)
            assert math.isfinite(limit.value)
            assert limit.sense in ("<=", ">=")
        assert goal.limit == goal.limits[0].value
        assert callable(goal.run)


@pytest.mark.parametrize(
    ("goal", "numbers"),
    [
        ("G1", [2.8]), ("G2", [1.25, 1.5, 1]), ("G3", [2.2, 1.5]), ("G4", [1.1, 1.7, 6, 12]), ("G5", [1.0, 1.3, 0.35]),
        ("G6", [3]), ("G8", [1, 0.05]), ("G10", [1.15, 1.15]), ("G11", [100, 5, 1e-9]), ("G12", [0, 2, 2]),
        ("G13", [1.3, 100]), ("G16", [3.0, 2.6, 2]), ("G17", [3, 80]), ("G18", [240, 480, 570]),
    ],
)  # fmt: skip
def test_limits_are_what_was_set(goal, numbers):
    assert [limit.value for limit in BY_ID[goal].limits] == numbers


def test_sections_and_tables_choose_goals():
    assert [goal.id for goal in goals.chosen(["hvp"])[0]] == ["G1", "G2", "G3", "G4"]
    assert [goal.id for goal in goals.chosen(["curveball"])[0]] == ["G10", "G15"]
    assert goals.chosen(["elmo"])[0] == []
    assert [one.name for one in goals.chosen(["G8", "elmo"])[1]] == ["elmo"]
    assert len(goals.chosen([])[0]) == 18
    with pytest.raises(ValueError, match="unknown goal or section 'G19'; choose among G1"):
        goals.chosen(["G19"])


# -- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (made_up(0.9), "✓"), (made_up(1.1), "✗"), (made_up(1.1, sense=">="), "✓"), (made_up(0.9, sense=">="), "✗"),
        (made_up(math.nan), "✗"), (made_up(0.9, error=1e-11), "✓"), (made_up(0.9, error=1e-9), "✗"),
        (made_up(0.9, error=math.nan), "✗"),
    ],
)  # fmt: skip
def test_verdict(goal, verdict):
    assert measure(goal, Session()).verdict == verdict


def test_a_quick_run_judges_counts_and_agreement_but_no_times():
    assert measure(made_up(9.0), quick()).verdict == "✓"
    assert measure(made_up(9.0, error=1.0), quick()).verdict == "✗"
    assert measure(made_up(9.0, timed=False), quick()).verdict == "✗"


def test_one_part_missed_is_the_goal_missed_and_all_skipped_is_skipped():
    limits = (Limit("a", 1.0), Limit("b", 1.0))
    plan = [
        ({"a": Part(0.5), "b": Part(2.0)}, "✗"),
        ({"a": skipped("none"), "b": Part(0.5)}, "✓"),
        ({"a": skipped("none"), "b": skipped("none")}, "–"),
        ({"a": skipped("none"), "b": Part(2.0)}, "✗"),
    ]
    for found, verdict in plan:
        assert Outcome(Goal("G0", "x", "two", limits, lambda session: {}), found).verdict == verdict


def test_a_goal_that_breaks_is_missed_and_says_why():
    def run(session):
        raise RuntimeError("no such thing")

    outcome = measure(Goal("G0", "x", "broken", (Limit("a", 1.0),), run), Session())
    assert outcome.verdict == "✗"
    assert "RuntimeError: no such thing" in table([outcome])
    stray = Goal("G0", "x", "stray", (Limit("a", 1.0),), lambda session: {"b": Part(1.0)})
    assert "no limit for" in measure(stray, Session()).broke


def test_table_and_json_say_the_same():
    goal = Goal("G0", "x", "words", (Limit("ratio", 2.5), Limit("other", 1.0, ">=")), lambda session: {})
    outcome = Outcome(goal, {"ratio": Part(1.25, 3e-12), "other": skipped("no library")}, ("a detail",))
    text = table([outcome])
    for wanted in ("G0", "✓", "1.25", "<= 2.5", "3.0e-12", "skipped: no library", "a detail", "1 ✓"):
        assert wanted in text
    found = json.loads(as_json([outcome], device="cpu"))
    part, other = found["goals"][0]["parts"]
    assert (part["value"], part["limit"], part["verdict"], part["error"]) == (1.25, 2.5, "met", 3e-12)
    assert (other["value"], other["skipped"], other["verdict"]) == (None, "no library", "skipped")


@pytest.mark.parametrize(("value", "status"), [(0.5, 0), (1.5, 1)])
def test_exit_status(value, status, monkeypatch, capsys):
    monkeypatch.setattr(goals, "GOALS", (made_up(value, timed=False),))
    assert main(["G0"]) == status
    assert f"1 {'✗' if status else '✓'}" in capsys.readouterr().out


def test_a_table_that_is_not_what_it_must_be_is_a_failure(monkeypatch, capsys):
    def run(session):
        session.note("measured")
        raise ValueError("ten times too slow")

    monkeypatch.setattr(goals, "TABLES", (goals.Table("odd", "made up", (), (run,)),))
    assert main(["odd"]) == 1
    assert "ten times too slow" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--device", "tpu"], ["G99"], ["cards", "speed", "--device", "tpu"]])
def test_wrong_requests(words, capsys):
    assert main(words) == 2
    assert "choose" in capsys.readouterr().err


# -- timing -----------------------------------------------------------------------------------------------------------


def test_race_takes_the_best_of_interleaved_rounds():
    ticks = iter([0, 5, 5, 6, 10, 13, 20, 29])
    assert race({"a": lambda: None, "b": lambda: None}, 2, lambda: next(ticks)) == {"a": 3, "b": 1}
    calls = []
    device_race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2, "cpu", warm=1)
    assert calls == ["a", "b"] * 3


def test_gap():
    assert gap([3.0, 4.0], [0.0, 5.0]) == pytest.approx(math.sqrt(10) / 5)
    assert gap([math.nan], [1.0]) == math.inf
    with pytest.raises(ValueError, match="different shapes"):
        gap([1.0], [1.0, 2.0])


# -- what is counted --------------------------------------------------------------------------------------------------


def test_kryball_products():
    found = counts.kryball(quick())
    assert found["reused, r = 3: mean"].value == pytest.approx((6 + 2 + 2) / 3)
    assert (found["reused, r = 3: refresh"].value, found["reused, r = 3: between"].value) == (6, 2)
    assert found["as printed, r = 3: mean, at most"].value == pytest.approx(7.2, abs=0.15)
    assert measure(BY_ID["G14"], quick()).verdict == "✓"


def test_lanczos_beats_the_published_series():
    outcome = measure(BY_ID["G8"], quick())
    assert outcome.verdict == "✓"
    assert outcome.found["error of 5 products / the series' with 34"].value < 0.9


def test_the_reference_in_digits_is_the_polynomial_of_the_dense_hessian():
    # Partial sums sum_k c_k (1 - h^2/V)^k / sqrt(V) along the eigenvectors; the table of order 1 written out.
    rng = np.random.default_rng(0)
    problem = MLP((3, 4, 1), rng.standard_normal((12, 3)), rng.standard_normal(12))
    x = problem.initial(np.random.default_rng(1))
    point, damping, scale, terms = problem.at(x), 0.4, 3.0, 6
    found = series_reference(problem, x, terms=terms, order=1, damping=damping, scale=scale)
    root = np.array([1.0, -1 / 2, -1 / 8, -1 / 16, -5 / 128, -7 / 256])  # of sqrt(1 - z)
    root[0] += damping / np.sqrt(scale)
    matrix = np.array([[root[i - j] if i >= j else 0.0 for j in range(terms)] for i in range(terms)])
    c = np.linalg.solve(matrix, np.eye(terms)[0])  # (sqrt(1 - z) + d) times the series is one
    h, q = np.linalg.eigh(point.hessian())
    powers = [(1 - h * h / scale) ** k for k in range(terms)]
    sums = [q @ (sum(c[k] * powers[k] for k in range(m)) * (q.T @ point.gradient)) for m in (4, 5, 6)]
    first, second = sums[1] - sums[0], sums[2] - sums[1]
    bend = second / (second @ second) - first / (first @ first)
    table_of_order_one = sums[1] + bend / (bend @ bend)
    assert np.linalg.norm(point.hessian() @ (point.hessian() @ point.gradient)) < scale * np.linalg.norm(point.gradient)
    assert gap(found.plain * np.sqrt(scale), sums[2]) < 1e-12
    assert gap(found.accelerated * np.sqrt(scale), table_of_order_one) < 1e-10


def test_digits_and_warnings():
    outcome = measure(BY_ID["G7"], quick())
    assert outcome.verdict == "✓"
    assert outcome.found["error of the update, float64"].value < 1e-12
    assert [limit.what for limit in BY_ID["G7"].limits if "warnings" in limit.what]


def test_hard_cases_are_hard_and_on_the_radius():
    for k in (3, 7, 20):
        for region in subproblem.hard_regions(5, k):
            miss, residual = subproblem.radius_errors(region)
            assert miss < 1e-12
            assert residual < 1e-12
            assert np.linalg.eigvalsh(region[0])[0] < 0


# -- the sections, small ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared():
    """One quick session: goals that stand on the same measurement make it once."""
    return quick()


@pytest.mark.parametrize("goal", [g for g in BY_ID if g not in {"G5", "G7", "G8", "G14"} | SKIPPED_HERE])
def test_every_section_runs_and_agrees(goal, shared):
    outcome = measure(BY_ID[goal], shared)
    assert outcome.broke == ""
    assert outcome.verdict == "✓", table([outcome])
    measured = [part for part in outcome.found.values() if not part.skipped]
    assert measured
    assert any(part.error is not None for part in measured)
    assert all(part.agrees for part in measured)


def test_tables_run(capsys):
    session = quick()
    for one in goals.TABLES:
        if one.name != "products":
            for run in one.runs:
                run(session)
    products.series_against_lanczos(session, kernels.draws("spiked", 1))
    products.memory(session)
    text = "\n".join(session.lines)
    for wanted in (
        "Hessian product, torch float32",
        "KryBall step",
        "ELMO's step",
        "AMOS",
        "times smaller",
        "lanczos 37",
    ):
        assert wanted in text


@pytest.mark.parametrize("goal", sorted(SKIPPED_HERE))
def test_what_needs_a_gpu_says_so(goal, tmp_path):
    outcome = measure(BY_ID[goal], Session(knobs={"folder": tmp_path}))
    assert outcome.verdict == "–"
    assert all("cuda" in part.skipped for part in outcome.found.values())


def test_the_peers_update_is_ours():
    pytest.importorskip("jax")
    problem, x, _, _ = series.setting(quick())
    loop = peers.jax_series(
        problem.widths, problem.inputs, problem.targets, terms=3, order=1, damping=series.DAMPING, dtype="float64"
    )
    ours = series.plain_and_accelerated(problem, x, 3, 1)
    for theirs, mine in zip(loop(x, series.SCALE), ours, strict=True):
        assert gap(theirs, mine) < 1e-12


def test_a_missing_library_is_a_reason(monkeypatch):
    def nothing(name, package=None):
        raise peers.Missing(f"{package or name} is not installed")

    monkeypatch.setattr(peers, "library", nothing)
    outcome = measure(BY_ID["G4"], quick())
    assert outcome.found["curvlinops / product"].skipped == "curvlinops-for-pytorch is not installed"
    assert outcome.verdict == "✓"
    outcome = measure(BY_ID["G5"], quick())
    assert outcome.verdict == "–"


def test_a_wrong_route_is_a_failure(monkeypatch):
    right = seeds.PREPARE["Hessian product"]
    monkeypatch.setitem(seeds.PREPARE, "Hessian product", lambda net, x, v, size: right(net, x, v * (1 + size), size))
    assert measure(BY_ID["G9"], quick()).verdict == "✗"
    monkeypatch.setattr(sfn, "DAMPING", 0.1)
    monkeypatch.setattr(sfn, "SaddleFreeNewton", lambda **knobs: _sfn(0.2))
    assert measure(BY_ID["G13"], quick()).verdict == "✗"


def _sfn(damping):
    from refimpl.optimizers.saddle_free import SaddleFreeNewton

    return SaddleFreeNewton(damping=damping, mode="abs")


def test_statistics_are_counted():
    places = hvp.picture_problems(batch=2, width=4, count=1)
    before = hvp.buffer_steps(places.kept)
    point = places.kept.at(places.x)
    point.hvp(places.vectors[0])
    point.hvp(places.vectors[0])
    assert hvp.buffer_steps(places.kept) - before == 1
    _ = places.kept.at(places.x).gradient
    assert hvp.buffer_steps(places.kept) - before == 2


# -- the GPU's part on a CPU ------------------------------------------------------------------------------------------


def test_gpu_measurements_have_a_twin():
    row = gpu.measure(quick(twin=True), 4, only=("kept", "captured"))
    assert set(row.seconds) == {"gradient", "kept", "captured"}
    assert row.kernels["kept"] > row.kernels["gradient"] > 100
    assert row.peaks["product"] > row.peaks["gradient"] > 0
    assert all(seconds > 0 for seconds in row.seconds.values())


@pytest.mark.parametrize(
    ("seconds", "values", "verdict"),
    [
        ({"gradient": 1.0, "kept": 2.9, "captured": 1.4, "compiled": 2.5}, [2.9, 1.4, 2.9 / 1.4], "✓"),
        ({"gradient": 1.0, "kept": 2.9, "captured": 2.7, "compiled": 2.5}, [2.9, 2.5, 2.9 / 2.7], "✗"),
        ({"gradient": 1.0, "kept": 3.1, "captured": 1.4}, [3.1, 1.4, 3.1 / 1.4], "✗"),
    ],
)
def test_the_gpu_goal_takes_the_better_of_capture_and_compiler(seconds, values, verdict, monkeypatch):
    row = gpu.Row(128, "NCHW", "tf32", seconds, {}, {"product": 4, "gradient": 2}, {})
    monkeypatch.setattr(gpu, "measure", lambda session, batch, **options: row)
    monkeypatch.setattr(gpu, "errors", lambda session: dict.fromkeys(("func", "captured", "compiled"), 1e-14))
    outcome = measure(BY_ID["G16"], Session("cuda"))
    assert [part.value for part in outcome.found.values()] == pytest.approx(values)
    assert outcome.verdict == verdict
    assert measure(BY_ID["G17"], Session("cuda")).found["peak / gradient's peak"].value == 2
    monkeypatch.setattr(gpu, "errors", lambda session: dict.fromkeys(("func", "captured", "compiled"), 1e-4))
    assert measure(BY_ID["G16"], Session("cuda")).verdict == "✗"


@pytest.mark.parametrize("name", ["speed", "seeds"])
def test_cards_have_a_twin(name, tmp_path):
    path = cards.record_card(name, "cpu", tmp_path)
    record = json.loads(path.read_text())
    assert record["experiment"] == f"card-{name}"
    assert record["settings"]["small"]
    assert record["seconds"] <= cards.LIMITS[name]
    assert {"date", "commit", "command"} <= set(record["provenance"])
    assert all(run["status"] in ("budget", "time", "no time") for run in record["runs"])
    outcome = measure(BY_ID["G18"], Session(knobs={"folder": tmp_path}))
    assert outcome.found[f"{name}: seconds"].skipped == "the record is that of the small twin on a CPU"


def test_a_card_is_judged_by_its_record(tmp_path):
    record = json.loads(cards.record_card("seeds", "cpu", tmp_path).read_text())
    record["settings"]["small"], record["seconds"] = False, 481.0
    (tmp_path / "card-seeds.json").write_text(json.dumps(record))
    assert measure(BY_ID["G18"], Session(knobs={"folder": tmp_path})).verdict == "✗"
    record["seconds"] = 400.0
    (tmp_path / "card-seeds.json").write_text(json.dumps(record))
    assert measure(BY_ID["G18"], Session(knobs={"folder": tmp_path})).verdict == "✓"


def test_a_card_stops_in_time(tmp_path):
    path = cards.record_card("seeds", "cpu", tmp_path, limit=1e-6)
    assert {run["status"] for run in json.loads(path.read_text())["runs"]} == {"time"}
    with pytest.raises(ValueError, match="unknown card 'slow'"):
        cards.record_card("slow")


def test_batched_run_is_the_closed_form():
    # Gradient descent on a quadratic: every coordinate shrinks by 1 - eta h each step.
    problem = Quadratic.from_spectrum([1.0, 0.5], seed=0, backend=get_backend("numpy"))
    found = cards.batched_run(problem, GradientDescent(learning_rate=0.5), 3, 4, seconds=60.0)
    starts = [problem.initial(np.random.default_rng(seed)) for seed in range(3)]
    h = problem.at(starts[0]).hessian()
    shrink = np.linalg.matrix_power(np.eye(2) - 0.5 * h, 4)
    gradient = [problem.at(x).gradient for x in starts]
    minimum = starts[0] - np.linalg.solve(h, gradient[0])
    losses = sorted(float(problem.loss(minimum + shrink @ (x - minimum))) for x in starts)
    assert found["loss"] == pytest.approx(losses[1], rel=1e-10)
    assert found["curve"]["work"][-1] == 4
    assert (found["status"], found["steps"]) == ("budget", 4)
    alone = cards.batched_run(problem, GradientDescent(learning_rate=0.5), 3, 4, seconds=60.0, together=False)
    for name in ("step", "median", "low", "high", "work"):
        np.testing.assert_allclose(alone["curve"][name], found["curve"][name], rtol=1e-12)
