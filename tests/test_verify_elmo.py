"""Golden vectors of ELMO, cubic regularization, Sophia and AMOS: deliberate slips must be named.

Oracles: the 60-digit numbers in tests/golden, computed by another program; the generator in tools/; NumPy versions of
every call; and functions with one slip of the usual kind, whose cause the check has to find.
"""

from functools import partial

import numpy as np
import pytest
from golden_vectors import generator, golden

from refimpl import get_backend
from refimpl.verify import GoldenMismatch, check_implementation
from refimpl.verify.checks_elmo import CALLS, Scripted
from refimpl.verify.dense_elmo import (
    ALONG_SLIPS,
    AMOS_SLIPS,
    BOUNDS_SLIPS,
    CUBIC_SLIPS,
    DIRECTION_SLIPS,
    SOPHIA_SLIPS,
    amos_lipschitz,
    cubic_bounds,
    cubic_step,
    elmo_direction,
    elmo_step,
    sophia_step,
)
from refimpl.verify.golden import cases, relative_error

GOLDEN, DIAGONALS = golden("elmo"), golden("sophia_amos")
TABLES = {
    "elmo_step": (elmo_step, ALONG_SLIPS), "cubic_bounds": (cubic_bounds, BOUNDS_SLIPS),
    "elmo_direction": (elmo_direction, DIRECTION_SLIPS), "cubic_step": (cubic_step, CUBIC_SLIPS),
    "sophia_step": (sophia_step, SOPHIA_SLIPS), "amos_lipschitz": (amos_lipschitz, AMOS_SLIPS),
}  # fmt: skip
SLIPS = [(call, f, slip, words) for call, (f, slips) in TABLES.items() for slip, words in slips.items()]


# -- the vectors ------------------------------------------------------------------------------------------------------


def plain(function, *given, **named):
    """An answer of the generator, as numbers."""
    mp = pytest.importorskip("mpmath")
    with mp.workdps(60):
        return generator("golden").plain(function(*given, **named))


@pytest.mark.parametrize("row", GOLDEN["elmo_step_table"], ids=lambda row: f"{row['lam']:g},{row['g']:g},{row['L']:g}")
def test_steps_of_the_generator_are_the_numbers_computed_elsewhere(row):
    if row["step"] == "inf" or row["L"] == 0 or abs(row["step"]) < 1e-20:
        pytest.skip("no number for the tables: infinite, Newton's or below what they keep")
    tool = generator("golden_elmo")
    given = [row["lam"]], [row["g"]], [row["L"]]
    found = plain(tool.elmo_step, *given)
    assert found[0] == pytest.approx(row["step"], rel=1e-15)
    bounds = plain(tool.cubic_bounds, found, *given)
    if abs(row["M_star"]) > 1e-20:
        assert bounds["majorizer"][0] == pytest.approx(row["M_star"], rel=1e-9)  # the step is rounded
        assert bounds["minorizer"][0] == pytest.approx(row["m_star"], rel=1e-9)


@pytest.mark.parametrize("name", ["arc_easy", "arc_hard", "arc_g1_zero_not_hard", "arc_zero_gradient"])
def test_subproblems_of_the_generator_are_the_numbers_computed_elsewhere(name):
    case = GOLDEN[name]
    known = {"step": case["s_plus"] if case["hard"] else case["s"], "multiplier": case["nu"]}
    known |= {"model": case["model"]} if "model" in case else {}
    given = case["H"], case["grad"], case["sigma"]
    assert relative_error(plain(generator("golden_elmo").cubic_step, *given), known) < 1e-13
    assert relative_error(cubic_step(*given), known) < 1e-11


def test_directions_of_the_generator_are_the_numbers_computed_elsewhere():
    tool, case = generator("golden_elmo"), GOLDEN["elmo_4x4"]
    known = {"step": case["step"], "predicted_change": -case["predicted_decrease"]}
    given = case["H"], case["grad"], case["L_by_ascending_eigenvalue"]
    assert relative_error(plain(tool.elmo_direction, *given), known) < 1e-14
    assert relative_error(elmo_direction(*given), known) < 1e-13
    saddle = GOLDEN["elmo_saddle"]
    for tie, key in ((1, "step_tie_plus"), (-1, "step_tie_minus")):
        found = plain(tool.elmo_direction, saddle["H"], saddle["grad"], saddle["L"], tie)
        assert relative_error(found["step"], saddle[key]) < 1e-15
    for row in GOLDEN["lipschitz_rowsum"]:
        n, (name, number) = len(row["L"]), next(iter(row["T_nonzero"].items()))
        third = [[[number if sorted(f"{i}{j}{k}") == sorted(name) else 0.0 for k in range(1, n + 1)]
                  for j in range(1, n + 1)] for i in range(1, n + 1)]  # fmt: skip
        assert plain(tool.row_sum, third, np.eye(n).tolist()) == row["L"]


def test_diagonals_of_the_generator_are_the_numbers_computed_elsewhere():
    tool, g = generator("golden_elmo"), DIAGONALS["sophia"]
    knobs = {"learning_rate": g["lr"], **{key: g[key] for key in ("beta1", "beta2", "rho", "weight_decay")}}
    place, mean, curvature = g["param0"], [0.0] * 4, [0.0] * 4
    for row, drawn in zip(g["trace"], (None, g["gnb_grad"]), strict=True):
        found = plain(tool.sophia_step, place, row["grad"], mean, curvature, drawn, g["n_tokens"], **knobs)
        assert relative_error(found, {"place": row["param"], "mean": row["m"], "curvature": row["h"]}) < 1e-14
        place, mean, curvature = found["place"], found["mean"], found["curvature"]
    a = DIAGONALS["amos_trace"]
    flat = [[[*tensors[0], *tensors[1]] for tensors in a[key]] for key in ("lam", "theta")]
    found = plain(tool.amos_lipschitz, *flat, [2, 1], a["alpha_L"], a["eps2"], a["L_thresh"])
    for k, row in enumerate(a["trace"], start=1):
        assert relative_error(found["lipschitz"][k], [*row["L"][0], *row["L"][1]]) < 1e-14
        if "bias_corrected_mean" in row:
            assert relative_error(found["group_lipschitz"][k], row["bias_corrected_mean"]) < 1e-14
            assert [bool(flag) for flag in found["offloaded"][k]] == row["first_order_bias_corrected"]


# -- every call once more ---------------------------------------------------------------------------------------------


def own_row_sum(third, vectors):
    return np.abs(np.einsum("abc,ai,bj,ck->ijk", third, vectors, vectors, vectors)).sum(axis=(1, 2))


@pytest.mark.parametrize("call", [*TABLES, "row_sum"])
def test_call_written_once_more_is_right(call):
    function = own_row_sum if call == "row_sum" else TABLES[call][0]
    with np.errstate(all="ignore"):  # both forms of the step are formed before one is taken
        assert all(outcome.passed for outcome in check_implementation(call, function))


def test_every_call_of_the_group_is_written_once_more():
    assert {case.call for case in cases("elmo")} == {*TABLES, "row_sum", "run"} == {*CALLS, "run"}


# -- slips in a function ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "function", "slip", "words"), SLIPS, ids=[f"{s[0]}-{s[2]}" for s in SLIPS])
def test_slip_is_named_and_no_other(call, function, slip, words):
    with np.errstate(all="ignore"), pytest.raises(GoldenMismatch) as caught:
        check_implementation(call, partial(function, slip=slip))
    assert str(caught.value).endswith(f"\nlikely cause: {words}")


class Alone(dict):
    """A named answer in which a name is missing, and nothing else."""


@pytest.mark.parametrize("slip", ["uphill", "not flipped", "coordinates", "tie", "newton"])
def test_slip_is_found_in_the_step_of_a_readers_own(slip):
    def mine(hessian, gradient, lipschitz, tie=1):
        """ELMO as a reader would write it, with a bug."""
        values, vectors = np.linalg.eigh(hessian)
        c = vectors.T @ gradient
        g = np.abs(c)
        x = 2 * g / (values + np.sqrt(values**2 + 2 * lipschitz * g))
        x = np.where(values > 0, x, (np.sqrt(values**2 + 2 * lipschitz * g) - values) / lipschitz)
        sides = -np.sign(c)
        if slip != "tie":
            heads = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(len(c))]
            sides = np.where(g < 1e-12, tie * np.sign(heads), sides)
        change = np.sum(-g * x + values * x**2 / 2 + lipschitz * x**3 / 6)
        step = vectors @ (sides * x)
        if slip == "uphill":
            step = -step
        elif slip == "not flipped":
            step = vectors @ x
        elif slip == "coordinates":
            step = sides * x
        elif slip == "newton":
            step = -np.linalg.solve(hessian, gradient)
            change = gradient @ step / 2
        return {"step": step, "predicted_change": change}

    with np.errstate(all="ignore"), pytest.raises(GoldenMismatch) as caught:
        check_implementation("elmo_direction", mine)
    assert str(caught.value).endswith(f"\nlikely cause: {DIRECTION_SLIPS[slip]}")


def test_the_printed_formula_misses_one_vector_only():
    # Nothing shows but where lam > 0 and L g is small: the other vectors are passed to the last digits.
    with pytest.raises(GoldenMismatch, match="1 of 7") as caught:
        check_implementation("elmo_step", lambda eigenvalue, slope, lipschitz: np.where(
            lipschitz > 0,
            (np.sqrt(eigenvalue**2 + 2 * lipschitz * slope) - eigenvalue) / np.where(lipschitz > 0, lipschitz, 1),
            slope / np.where(lipschitz > 0, 1, eigenvalue),
        ))  # fmt: skip
    assert "elmo/step-nearly-newton" in str(caught.value)


def test_what_is_no_slip_has_no_cause():
    def longer(**given):
        found = cubic_step(**given)
        return {**found, "step": 1.1 * found["step"]}

    with pytest.raises(GoldenMismatch) as caught:
        check_implementation("cubic_step", longer)
    assert "likely cause" not in str(caught.value)


# -- what the vectors are computed with -------------------------------------------------------------------------------


def test_scripted_loss_answers_with_what_it_is_given(backend):
    problem = Scripted([1.0, -2.0, 0.5], [3.0, 4.0, 5.0], 7, [2, 1], backend=backend)
    point = problem.at(backend.asarray([1.0, 1.0, 2.0]))
    assert float(point.loss) == 0.0
    assert [float(point.gradient[i]) for i in range(3)] == [1.0, -2.0, 0.5]
    gradient, rows = point.sampled_gradient(np.random.default_rng(0))
    assert ([float(gradient[i]) for i in range(3)], rows) == ([3.0, 4.0, 5.0], 7)
    assert problem.tensor_shapes == ((2,), (1,))
    quiet = Scripted([1.0], backend=get_backend())
    with pytest.raises(AssertionError, match="where none is due"):
        quiet.at(np.zeros(1)).sampled_gradient(np.random.default_rng(0))
