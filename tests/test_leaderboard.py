"""The leaderboard: what counts as equal work, who beats whom, and what is read from a record.

Oracles: records typed in by hand whose answer is known; counts of runs by hand; probabilities added up from binomial
coefficients; what does not change when runs are permuted, losses rescaled or a method is added.
"""

import math
from itertools import combinations

import numpy as np
import pytest

from refimpl.experiments import leaderboard
from refimpl.experiments.leaderboard import (
    FAMILIES,
    SOURCES,
    UNUSED,
    Arrivals,
    Entry,
    RecordSource,
    chance,
    compare,
    decades,
    equal_arrivals,
    equal_seconds,
    equal_work,
    interval,
    live,
    of_families,
    ranks,
    to_target,
    win_matrix,
)
from refimpl.experiments.leaderboard_cases import work_before
from refimpl.experiments.records import provenance, read_record, results_folder, write_record
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.quasi_newton import LBFGS
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import Rosenbrock
from refimpl.run import minimize


def entry(method, seed, work, loss, *, problem="p", status="budget", seconds=None, batch=1, record="r"):
    work, loss = np.asarray(work, float), np.asarray(loss, float)
    seconds = work if seconds is None else np.asarray(seconds, float)
    return Entry(problem, method, seed, record, "tuned", status, work, loss, seconds, batch)


def three(method, losses, *, problem="p", work=10.0, **extra):
    """Runs that end at ``work`` with these losses."""
    return [entry(method, k, [0, work], [9.0, loss], problem=problem, **extra) for k, loss in enumerate(losses)]


def board(**losses):
    return equal_work([run for name, values in losses.items() for run in three(name, values)])[0]


# -- equal work -------------------------------------------------------------------------------------------------------


def test_the_budget_is_the_least_that_a_method_was_given_and_nothing_is_interpolated():
    cheap = [entry("cheap", k, [0, 4, 8], [9, 5, 3]) for k in range(3)]
    dear = [entry("dear", k, [0, 3, 6, 9, 12], [9, 7, 4, 2, 1]) for k in range(3)]
    (found,) = equal_work(cheap + dear)
    assert (found.budget, found.problem, found.measure) == (8, "p", "loss at equal work")
    assert [(s.method, s.median) for s in found.scores] == [("cheap", 3), ("dear", 4)]
    half = equal_work(cheap + dear, fraction=0.5)[0]
    assert half.budget == 4
    assert half.of("cheap").median == 5
    assert half.of("dear").median == 7
    given = equal_work(cheap + dear, work=6)[0]
    assert given.of("cheap").median == 5
    assert given.of("dear").median == 4


def test_the_last_look_counts_and_not_the_best():
    runs = [entry("a", k, [0, 1, 2], [9, 1, 5]) for k in range(3)]
    assert equal_work(runs)[0].of("a").median == 5


def test_a_look_that_comes_later_than_the_budget_widens_the_interval_only():
    exact = [entry("exact", k, [0, 8], [9, 3]) for k in range(3)]
    coarse = [entry("coarse", k, [0, 7, 14], [9, 4, 2]) for k in range(3)]
    (found,) = equal_work(exact + coarse)
    assert found.of("coarse")[2:5] == (4, 2, 4)
    assert found.of("exact")[2:5] == (3, 3, 3)
    assert compare(found.of("exact"), found.of("coarse")) == 0
    worse = [entry("coarse", k, [0, 7, 14], [9, 5, 4]) for k in range(3)]
    (found,) = equal_work(exact + worse)
    assert compare(found.of("exact"), found.of("coarse")) == -1


def test_a_run_that_diverged_is_infinite_and_does_not_shorten_the_others():
    good = three("good", [1.0, 2.0, 3.0])
    lost = [entry("lost", 0, [0, 1], [9, 0.5], status="diverged"), *three("lost", [0.0, 4.0, 5.0])[1:]]
    (found,) = equal_work(good + lost)
    score = found.of("lost")
    assert found.budget == 10
    assert score.values == (4, 5, math.inf)
    assert score.failed == 1
    assert score.median == 5
    assert score.high == math.inf
    gone = [entry("lost", k, [0, 1], [9, 0.5], status="failed") for k in range(3)]
    score = equal_work(good + gone)[0].of("lost")
    assert score.median == math.inf
    assert compare(found.of("good"), score) == -1
    nothing = equal_work(gone)[0].of("lost")
    assert nothing.failed == 3
    assert compare(nothing, score) == 0


def test_a_failure_after_the_budget_is_not_held_against_a_run():
    good = three("good", [1.0, 2.0, 3.0])
    late = [entry("late", k, [0, 8, 20], [9, 4, 2], status="diverged") for k in range(2)]
    gone = entry("late", 2, [0, 8, 20], [9, 4, math.nan], status="diverged")
    (found,) = equal_work([*good, *late, gone])
    score = found.of("late")
    assert (found.budget, score.failed, score.values) == (10, 0, (4, 4, 4))
    assert score.low == 2
    assert score.high == math.inf  # its next look, after the budget, has no loss
    at = [entry("late", k, [0, 8, 10], [9, 4, 2], status="diverged") for k in range(3)]
    assert equal_work(good + at)[0].of("late").failed == 3


def test_a_loss_that_is_not_a_number_counts_as_infinite():
    assert equal_work(three("a", [1.0, 2.0, math.nan]))[0].of("a").values == (1, 2, math.inf)


def test_a_run_that_was_done_keeps_its_loss_and_does_not_shorten_the_others():
    done = [entry("done", k, [0, 2], [9, 1e-9], status="converged") for k in range(3)]
    (found,) = equal_work(done + three("slow", [1.0, 1.0, 1.0]))
    assert found.budget == 10
    assert found.of("done").median == 1e-9
    assert equal_work(done)[0].budget == 2


def test_what_cannot_be_compared_is_refused():
    runs = three("a", [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="had only 10"):
        equal_work(runs, work=11)
    with pytest.raises(ValueError, match="fraction"):
        equal_work(runs, fraction=0.0)
    with pytest.raises(ValueError, match="twice"):
        equal_work(runs + runs[:1])
    late = [entry("late", k, [6, 12], [3, 2]) for k in range(3)]
    with pytest.raises(ValueError, match="no look within 5"):
        equal_work(runs + late, work=5)
    with pytest.raises(ValueError, match=r"has no 'b'; it has \['a'\]"):
        equal_work(runs)[0].of("b")


def test_seconds_are_compared_within_a_record_and_a_size_of_batch_only():
    here = three("a", [1.0, 1.0, 1.0]) + three("b", [2.0, 2.0, 2.0])
    there = three("c", [0.5] * 3, record="elsewhere") + three("d", [0.1] * 3, batch=3)
    (found,) = equal_seconds(here + there)
    assert [s.method for s in found.scores] == ["a", "b"]
    assert found.measure == "loss at equal seconds"
    two = equal_seconds(here + there + three("e", [0.2] * 3, batch=3))
    assert [standing.problem for standing in two] == ["p, 1 at once", "p, 3 at once"]
    without = [run._replace(seconds=np.empty(0)) for run in here]
    assert equal_seconds(without) == []


def test_the_order_by_seconds_may_be_the_reverse_of_that_by_work():
    quick = [entry("quick", k, [0, 5, 10], [9, 4, 3], seconds=[0, 1, 2]) for k in range(3)]
    slow = [entry("slow", k, [0, 5, 10], [9, 2, 1], seconds=[0, 3, 6]) for k in range(3)]
    assert equal_work(quick + slow)[0].scores[0].method == "slow"
    seconds = equal_seconds(quick + slow)[0]
    assert seconds.scores[0].method == "quick"
    assert seconds.of("slow").median == 9


# -- deciding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 5, 6, 9, 10, 25, 50])
def test_the_interval_has_the_probability_that_it_promises(n):
    low, high = interval(range(n))
    k = int(low) + 1
    assert high == n - k

    def outside(k):  # fewer than k of n coins show heads, or fewer than k tails
        return 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    assert k == 1 or outside(k) <= 0.05
    assert outside(k + 1) > 0.05


def test_an_interval_refuses_nan_and_nothing():
    for values in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="at least one run"):
            interval(values)


@pytest.mark.parametrize(
    ("n", "m", "decided"), [(1, 9, False), (2, 2, False), (2, 5, True), (3, 3, True), (1, 19, False), (2, 9, False)]
)
def test_how_many_runs_decide(n, m, decided):
    # By counting: in how many of the orders of n + m equal runs are the intervals disjoint?
    places = [[*chosen] for chosen in combinations(range(n + m), n)]
    apart = 0
    for chosen in places:
        (low, high), (least, most) = interval(chosen), interval({*range(n + m)} - {*chosen})
        apart += high < least or most < low
    assert chance(n, m) == pytest.approx(apart / len(places), rel=1e-12)
    assert (apart / len(places) <= 0.1) == decided
    found = board(a=list(range(1, n + 1)), b=list(range(100, 100 + m)))
    assert compare(found.of("a"), found.of("b")) == (-1 if decided else 0)
    assert compare(found.of("b"), found.of("a")) == (1 if decided else 0)


@pytest.mark.parametrize(("n", "m"), [(2, 20), (3, 50), (10, 12), (5, 9)])
def test_the_chance_of_disjoint_intervals_by_simulation(n, m):
    rng, trials = np.random.default_rng(n), 20_000
    order = np.argsort(rng.random((trials, n + m)), axis=1)
    mine, others = np.sort(order[:, :n], axis=1), np.sort(order[:, n:], axis=1)
    (a, b), (c, d) = (tuple(map(int, interval(range(size)))) for size in (n, m))
    apart = np.mean((mine[:, b] < others[:, c]) | (others[:, d] < mine[:, a]))
    expected = chance(n, m)
    assert chance(m, n) == pytest.approx(expected, rel=1e-9)
    assert abs(apart - expected) < 5 * math.sqrt(expected * (1 - expected) / trials)


def test_a_chance_needs_runs():
    with pytest.raises(ValueError, match="at least one run, got 0 and 3"):
        chance(0, 3)


def test_ranks_with_a_chain_of_ties():
    # a and b overlap, b and c overlap, a beats c.
    found = board(a=[1, 2, 3], b=[2.5, 4, 5], c=[4.5, 6, 7], d=[8, 9, 10])
    assert ranks(found) == {"a": 1.5, "b": 2.0, "c": 2.5, "d": 4.0}
    assert sum(ranks(found).values()) == 4 * 5 / 2


def test_losses_that_only_touch_are_a_tie():
    found = board(a=[1, 2, 3], b=[3, 4, 5])
    assert compare(found.of("a"), found.of("b")) == 0


def test_the_order_of_runs_and_methods_changes_nothing():
    rng = np.random.default_rng(0)
    runs = [run for name in "abcd" for p in "xyz" for run in three(name, rng.lognormal(size=5), problem=p)]
    before = {s.problem: s for s in equal_work(runs)}
    shuffled = [runs[k] for k in rng.permutation(len(runs))]
    after = {s.problem: s for s in equal_work(shuffled)}
    assert before == after
    one, other = win_matrix(before.values()), win_matrix(after.values())
    assert one.names == other.names
    assert np.array_equal(one.wins, other.wins)
    assert np.array_equal(one.met, other.met)


@pytest.mark.parametrize("rise", [np.log, lambda v: v**3, lambda v: 5 * v + 2], ids=["log", "cube", "line"])
def test_a_monotone_map_of_the_losses_changes_no_rank(rise):
    rng = np.random.default_rng(1)
    runs = []
    for shift, name in enumerate("abcde"):
        for seed in range(8):
            runs.append(entry(name, seed, [0, 3, 7 + shift], np.exp(rng.normal(1.2 * shift, 1, 3))))
    mapped = [run._replace(loss=rise(run.loss)) for run in runs]
    (one,), (other,) = equal_work(runs), equal_work(mapped)
    assert ranks(one) == ranks(other)
    assert len(set(ranks(one).values())) > 1  # something was decided


def test_wins_and_meetings_over_problems():
    standings = [
        board(a=[1, 1, 1], b=[2, 2, 2], c=[3, 3, 3]),
        board(a=[1, 1, 1], b=[1, 2, 3]),
        board(b=[1, 1, 1], c=[math.inf] * 3),
        board(d=[1, 1, 1]),
    ]
    found = win_matrix(standings)
    at = {name: k for k, name in enumerate(found.names)}
    assert found.names[0] == "a"
    assert found.names[-1] == "c"
    assert found.wins[at["a"], at["b"]] == 1
    assert found.met[at["a"], at["b"]] == 2
    assert found.wins[at["b"], at["c"]] == 2
    assert found.wins[at["c"], at["b"]] == 0
    assert found.met[at["a"], at["d"]] == 0
    assert not np.diag(found.met).any()
    assert "d" not in win_matrix(standings, least=2).names


def test_decades_below_the_baseline():
    found = board(sgd=[1e-2] * 3, good=[1e-4] * 3, bad=[1e-1] * 3, lost=[math.inf] * 3)
    assert decades(found) == pytest.approx({"sgd": 0, "good": 2, "bad": -1, "lost": -math.inf})
    assert decades(found, "absent") == {}
    assert decades(found, "lost") == {}


def test_a_family_is_the_first_of_its_settings_and_leaves_variants_out_of_the_budget():
    runs = (
        three("heavy-ball-0.9", [3.0] * 3) + three("gradient-descent", [1.0] * 3) + three("unknown", [0.1] * 3, work=2)
    )
    (found,) = equal_work(of_families(runs))
    assert [score.method for score in found.scores] == ["sgd"]
    assert found.of("sgd").median == 3
    assert found.budget == 10
    settings = [name for names in FAMILIES.values() for name in names]
    assert len(set(settings)) == len(settings)


# -- arrivals ---------------------------------------------------------------------------------------------------------


def test_an_arrival_beyond_what_another_method_was_given_does_not_count():
    here = Arrivals("p", "late", "r", "tuned", 0.1, np.array([5.0, 7.0, 30.0]), math.inf)
    short = Arrivals("p", "short", "r", "fixed", 0.1, np.array([4.0, math.inf, math.inf]), 20.0)
    (found,) = equal_arrivals([here, short])
    assert found.budget == 20
    assert found.measure == "work to 0.1"
    assert found.of("late").values == (5, 7, math.inf)
    assert found.of("short").median == math.inf


def test_live_runs_count_as_minimize_does_and_arrive_where_the_loss_says():
    problem, x = Rosenbrock(), [-1.2, 1.0]
    for method in (SaddleFreeNewton(), GradientDescent(learning_rate=1e-3), LBFGS()):
        run = live(problem, method, x, work=20, seed=0)
        trace = minimize(problem, method, x, steps=len(run.work) - 1, seed=0).trace
        np.testing.assert_allclose(run.loss, trace["loss"], rtol=1e-12)
        np.testing.assert_allclose(run.work[1:-1], trace["work"][:-2])  # what the steps before had cost
        assert run.status == "budget"
        assert run.work[-1] >= 20


def test_newton_arrives_on_a_quadratic_after_one_step():
    problem = Quadratic.from_spectrum([1.0, 4.0, 9.0], seed=0)
    runs = [
        live(problem, method, [1.0, 1.0, 1.0], work=300, target=1e-9) for method in (Newton(), GradientDescent(0.1))
    ]
    (found,) = to_target(runs, 1e-9, work=300)
    assert runs[0].status == "converged"
    assert found.of("newton").median == 1 + 2 * 3
    rate = max(abs(1 - 0.1 * curvature) for curvature in (1, 4, 9))
    assert found.of("gradient-descent").median <= math.ceil(math.log(1e-10) / (2 * math.log(rate))) + 1
    assert to_target(runs, 1e-9, work=5)[0].of("newton").median == math.inf


def test_live_reports_divergence():
    problem = Quadratic.from_spectrum([1.0, 4.0], seed=0)
    run = live(problem, GradientDescent(learning_rate=1e3), [1.0, 1.0], work=500)
    assert run.status == "diverged"
    assert equal_work([run])[0].scores[0].failed == 1
    with pytest.raises(ValueError, match="work"):
        live(problem, Newton(), [1.0, 1.0], work=0)


# -- reading records --------------------------------------------------------------------------------------------------


def test_work_before_a_place_against_counting_by_hand():
    # Steps cost 7; rows 0 1 2 5 9 of a run of 9 steps, whose last row costs one gradient.
    step = np.array([0, 1, 2, 5, 9])
    spent = np.where(step < 9, 7.0 * (step + 1), 7 * 9 + 1)
    np.testing.assert_allclose(work_before(step, spent, True), 7.0 * step)
    cut = work_before(step[:4], spent[:4], False)
    np.testing.assert_allclose(cut, 7.0 * step[:4])


def record_of(folder, name, runs, **settings):
    source = {**provenance(), "dirty": False}
    record = {"schema": 1, "experiment": name, "settings": settings, "runs": runs, "provenance": source}
    write_record(folder / f"{name}.json", record)


def run_of(method, seed, loss, *, case="one", role="run", **extra):
    curve = {"step": [0, 1, 2], "work": [0.0, 1.0, 2.0], "loss": [9.0, 5.0, loss], "seconds": [0.0, 0.1, 0.2]}
    key = f"{case}/{method}/{seed}"
    about = {"case": case, "method": method, "seed": seed, "role": role, "status": "budget", "steps": 2, "loss": loss}
    return {"key": key, **about, "curve": curve, **extra}


def test_a_record_typed_in_by_hand(tmp_path):
    runs = [run_of("adam", s, 1.0 + s, rate=0.1) for s in range(3)] + [run_of("kfac", s, 5.0 + s) for s in range(3)]
    runs += [run_of("adam", 1000, 0.0, role="tuning", rate=1.0), run_of("adam", 0, 0.5, case="side")]
    record_of(tmp_path, "typed", runs)
    found = leaderboard.entries(tmp_path, [RecordSource(("typed", "absent"), "typed in", cases=("one",))])
    assert len(found) == 6
    assert {run.problem for run in found} == {"typed in"}
    assert {run.method: run.tuning for run in found} == {"adam": "tuned", "kfac": "fixed"}
    (standing,) = equal_work(found)
    assert standing.budget == 2
    assert standing.of("adam").values == (1, 2, 3)
    assert ranks(standing) == {"adam": 1, "kfac": 2}
    two = leaderboard.entries(tmp_path, [RecordSource(("typed",), "typed in")])
    assert {run.problem for run in two} == {"typed in: one", "typed in: side"}


def test_null_is_infinite_and_a_run_without_work_is_refused(tmp_path):
    lost = run_of("a", 0, None)
    record_of(tmp_path, "holes", [lost])
    (run,) = leaderboard.entries(tmp_path, [RecordSource(("holes",), "holes")])
    assert equal_work([run])[0].of("a").values == (math.inf,)
    del lost["curve"]["work"]
    record_of(tmp_path, "holes", [lost])
    with pytest.raises(ValueError, match="cannot be compared by work"):
        leaderboard.entries(tmp_path, [RecordSource(("holes",), "holes")])


def test_records_of_different_problems_are_not_merged(tmp_path):
    record_of(tmp_path, "small", [run_of("a", 0, 1.0)], hidden=[2])
    record_of(tmp_path, "large", [run_of("b", 0, 1.0)], hidden=[20])
    with pytest.raises(ValueError, match="not the same problem"):
        leaderboard.entries(tmp_path, [RecordSource(("small", "large"), "both", same=("hidden",))])


def test_an_empty_folder_has_no_entries_and_says_what_is_absent(tmp_path):
    assert leaderboard.entries(tmp_path) == []
    assert leaderboard.arrivals(tmp_path) == []
    absent = [name for name, _, why in leaderboard.unused(tmp_path) if why.startswith("there is no")]
    assert absent == [name for source in SOURCES for name in source.records]
    assert not leaderboard.has("uci-energy", tmp_path)


def test_every_part_of_every_committed_record_is_compared_or_has_a_reason():
    listed = {name for source in SOURCES for name in source.records} | {name for name, _ in UNUSED} | {"kryball-table"}
    there = {path.stem for path in results_folder().glob("*.json")}
    assert there <= listed
    taken = {(run.record, run.method) for run in leaderboard.entries()}
    for source in SOURCES:
        for name in filter(leaderboard.has, source.records):
            for run in read_record(name)["runs"]:
                part = run.get("case", "all")
                reported = run.get("role", "run") == "run"
                assert not reported or (name, run["method"]) in taken or (name, part) in UNUSED, run["key"]


def test_the_committed_records_give_the_losses_that_are_in_them():
    # Adam ends on the budget of UCI Energy: its score is the median of the losses at the ends of its runs.
    standing = next(s for s in equal_work(leaderboard.entries()) if s.problem == "UCI Energy")
    runs = [run for run in read_record("uci-exact-1057")["runs"] if run["method"] == "adam"]
    assert standing.budget == pytest.approx(6000)
    assert len(runs) == standing.of("adam").runs
    assert standing.of("adam").median == pytest.approx(np.median([run["loss"] for run in runs]), rel=1e-6)
    exact = [run for run in read_record("uci-exact-1057")["runs"] if run["method"] == "damped-saddle-free-newton"]
    parameters = sum(b * (a + 1) for a, b in zip([8, *[12] * 7], [*[12] * 7, 1], strict=True))
    taken = int(standing.budget // (1 + 2 * parameters))  # whole steps of a gradient and a Hessian
    assert taken == 2
    values = sorted(run["curve"]["loss"][run["curve"]["step"].index(taken)] for run in exact)
    assert standing.of("damped-saddle-free-newton").values == pytest.approx(tuple(values))


def test_the_passages_of_the_record_are_read_with_their_failures():
    found = {(one.problem, one.method): one for one in leaderboard.arrivals()}
    record = {run["key"]: run for run in read_record("kryball-table")["runs"]}
    run = record["rosenbrock/near/adam"]
    mine = found["rosenbrock, near", "adam"]
    failures = sum(value is None for value in run["work"]["0.0001"])
    assert np.isinf(mine.work).sum() == failures == 1
    assert mine.reach == 2000
    assert mine.tuning == "tuned"
    assert found["rosenbrock, near", "trust-region"].reach == math.inf
