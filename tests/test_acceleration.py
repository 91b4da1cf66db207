"""Accelerators against the whole table, dense solves, sequences with a known limit, and what a limit must obey.

Golden vectors are 60-digit arithmetic. The reference table is written with lists, straight from the definition, and
keeps every entry; Levin's and d2's weights come from NumPy's ``solve``; limits of exponentials are known beforehand.
"""

import tracemalloc
import weakref

import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refimpl.arrays import device_of, dtype_name, get_backend, to_numpy
from refimpl.curvature.acceleration import ACCELERATORS, accelerate, accelerator, rows_needed
from refimpl.curvature.series import sum_series

GOLDEN = golden("series")["accelerated_unscaled"]["values"]
SUMS = np.array(golden("series")["series"]["partial_sums_unscaled_s0_to_s10"])
EPSILON = ["shanks", "sablonniere", "vector-rho", "topological-epsilon", "topological-rho"]
WEIGHTS = {
    "shanks": [1] * 12,
    "sablonniere": [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7],
    "vector-rho": range(1, 13),
    "topological-epsilon": [1] * 12,
    "topological-rho": range(1, 13),
}
by_method = pytest.mark.parametrize("method", ACCELERATORS)
by_table = pytest.mark.parametrize("method", EPSILON)
SINGLE = {1: 5e-5, 2: 4e-4, 3: 5e-2}
"""What float32 leaves of the golden sequence, relative to the largest entry, by order."""


def whole_table(rows, method):
    """The entries eps[c][m], every one of them; eps[2N][0] is the answer."""
    y = rows[1] - rows[0] if len(rows) > 1 else None
    columns = [[0 * row for row in rows] + [0 * rows[0]], list(rows)]
    for c, weight in zip(range(1, len(rows)), WEIGHTS[method], strict=False):
        two_back, one_back = columns[-2], columns[-1]
        new = []
        for m in range(len(rows) - c):
            d = one_back[m + 1] - one_back[m]
            if not method.startswith("topological"):
                step, product = d, d @ d
            elif c % 2 == 1:
                step, product = y, y @ d
            else:
                step = two_back[m + 2] - two_back[m + 1]
                product = step @ d
            new.append(two_back[m + 1] + weight * step / product)
        columns.append(new)
    return columns[1:]


def golden_limits():
    """(method, order, rows, expected) of the golden file."""
    for method in ("shanks", "sablonniere", "vector_rho"):
        for key, expected in GOLDEN[method].items():
            rows = SUMS[: int(key.split("_s0_to_s")[1]) + 1] if "_s0_to_s" in key else SUMS
            yield method.replace("_", "-"), int(key[1]), rows, expected
    for method, key, orders in [
        ("levin-t", "levin_t_shared", (1, 2, 3)),
        ("levin-t-componentwise", "levin_t_componentwise", (1, 2, 3)),
        ("topological-epsilon", "topological_eps", (1, 2)),
        ("topological-rho", "topological_rho", (1, 2)),
    ]:
        for order in orders:
            yield method, order, SUMS, GOLDEN[f"{key}_N{order}"]
    for method in ("pade-hybrid", "pade-aitken"):
        yield method, 1, SUMS, GOLDEN[method.replace("-", "_")]


# -- golden vectors -------------------------------------------------------------------------------------------------


@by_method
def test_limits_golden(method, backend):
    seen = [case[1:] for case in golden_limits() if case[0] == method]
    assert seen or method == "d2"
    for order, rows, expected in seen:
        found = accelerate([backend.asarray(row) for row in rows], method, order)
        assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
        if backend.dtype_name == "float64":
            np.testing.assert_allclose(to_numpy(found), expected, rtol={1: 1e-12, 2: 1e-11, 3: 1e-9}[order])
        else:
            np.testing.assert_allclose(to_numpy(found), expected, rtol=0, atol=SINGLE[order] * np.abs(expected).max())


def test_whole_table_golden():
    reference = whole_table(SUMS[:5], "sablonniere")
    for key, expected in GOLDEN["sablonniere_table_N2_from_s0_s4"].items():
        _, m, c = key.split("_")
        np.testing.assert_allclose(reference[int(c)][int(m)], expected, rtol=1e-12)


# -- the whole table, dense solves ------------------------------------------------------------------------------------


@by_table
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_one_antidiagonal_gives_what_the_whole_table_gives(method, order):
    rng = np.random.default_rng(order)
    for length in (2 * order + 1, 2 * order + 2, 4 * order + 5):
        rows = [rng.standard_normal(6) for _ in range(length)]
        expected = whole_table(rows[-2 * order - 1 :], method)[2 * order][0]
        np.testing.assert_allclose(accelerate(rows, method, order), expected, rtol=1e-7)
        spaced = rows[:: -((length - 1) // (2 * order))][: 2 * order + 1][::-1]
        expected = whole_table(spaced, method)[2 * order][0]
        np.testing.assert_allclose(accelerate(rows, method, order, strided=True), expected, rtol=1e-7)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_levin_against_its_linear_system(order):
    rng = np.random.default_rng(order)
    for length in (order + 2, order + 3, order + 9):
        rows = rng.standard_normal((length, 3))
        first = length - order - 2
        places, window = np.maximum(first, 1) + np.arange(order + 1.0), rows[first:]
        steps = np.diff(window, axis=0)
        top = steps[np.arange(order + 1), np.abs(steps).argmax(axis=1)]
        # s_m = S + R_m (a_0 + a_1/m + …) at N + 1 places.
        model = np.stack([places**-i for i in range(order)], axis=1)
        shared = [np.linalg.solve(np.c_[np.ones(order + 1), top[:, None] * model], window[:-1, i])[0] for i in range(3)]
        alone = [
            np.linalg.solve(np.c_[np.ones(order + 1), steps[:, i, None] * model], window[:-1, i])[0] for i in range(3)
        ]
        np.testing.assert_allclose(accelerate(rows, "levin-t", order), shared, rtol=1e-7)
        np.testing.assert_allclose(accelerate(rows, "levin-t-componentwise", order), alone, rtol=1e-7)


def test_d2_against_its_linear_system():
    rng = np.random.default_rng(4)
    for length in (5, 8):
        rows = rng.standard_normal((length, 3))
        places = np.arange(length - 3, length)

        def top(a):
            return a[np.arange(3), np.abs(a).argmax(axis=1)]

        once = rows[places] - rows[places - 1]
        twice = once - (rows[places - 1] - rows[places - 2])
        weights = np.linalg.solve([np.ones(3), places * top(once), places**2.0 * top(twice)], [1.0, 0.0, 0.0])
        np.testing.assert_allclose(accelerate(rows, "d2", 1), weights @ rows[places], rtol=1e-9)


def test_methods_that_are_the_same_at_order_one():
    rows = np.random.default_rng(5).standard_normal((6, 4))
    np.testing.assert_allclose(accelerate(rows, "sablonniere", 1), accelerate(rows, "vector-rho", 1), rtol=1e-13)
    aitken = accelerate(rows, "pade-aitken", 1)
    np.testing.assert_allclose(aitken, accelerate(rows, "topological-epsilon", 1), rtol=1e-11)
    # The Padé forms have no order.
    np.testing.assert_array_equal(aitken, accelerate(rows, "pade-aitken", 5))


# -- known limits -----------------------------------------------------------------------------------------------------


def exponentials(seed, ratios, length, n=6):
    """S and the rows S + sum_i a_i ratios_i^k."""
    rng = np.random.default_rng(seed)
    limit, amplitudes = rng.standard_normal(n), rng.standard_normal((len(ratios), n))
    powers = np.power.outer(np.array(ratios), np.arange(length)).T
    return limit, limit + powers @ amplitudes


@given(
    st.integers(0, 500),
    st.lists(st.sampled_from([0.95, 0.7, 0.4, -0.3, -0.6, -0.9, 1.2]), min_size=1, max_size=4, unique=True),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_shanks_of_order_n_is_exact_for_n_exponentials(seed, ratios, more):
    order = len(ratios)
    limit, rows = exponentials(seed, ratios, 2 * order + 1 + more)
    np.testing.assert_allclose(accelerate(rows, "shanks", order), limit, rtol=0, atol=1e-6)


def test_shanks_of_a_lower_order_is_not_exact():
    limit, rows = exponentials(1, [0.95, 0.4, -0.6], 7)
    errors = [np.abs(accelerate(rows, "shanks", order) - limit).max() for order in (1, 2, 3)]
    assert errors[0] > errors[1] > 1e-3 > 1e-10 > errors[2]


def test_sablonniere_turns_the_error_of_one_exponential_round():
    limit, rows = exponentials(1, [0.8], 3)
    np.testing.assert_allclose(accelerate(rows, "sablonniere", 1) - limit, limit - rows[1], rtol=1e-12)


@given(st.integers(0, 1000), st.integers(3, 60))
@settings(max_examples=50, deadline=None)
def test_sablonniere_is_exact_for_one_over_n(seed, length):
    limit, slope = np.random.default_rng(seed).standard_normal((2, 5))
    rows = [limit + slope / k for k in range(1, length + 1)]
    np.testing.assert_allclose(accelerate(rows, "sablonniere", 1), limit, rtol=0, atol=1e-9)
    left = np.abs(accelerate(rows, "shanks", 1) - limit).max()
    assert left == pytest.approx(np.abs(slope).max() / (2 * (length - 1)), rel=1e-6)


def test_constant_sequence_golden(backend):
    case = golden("series")["edge_cases"]["epsilon_constant_sequence"]
    for method in EPSILON:
        found = accelerate([backend.asarray(row) for row in case["sequence"]], method, case["N"])
        assert to_numpy(found).tolist() == case["result"]


@by_method
def test_a_constant_sequence_returns_itself(method, backend):
    row = backend.asarray([[1.5, -2.0, 0.3], [0.0, 0.0, 0.0]])
    for order in (1, 2, 3):
        found = to_numpy(accelerate([row] * rows_needed(method, order), method, order))
        if method == "d2":  # a mean of equal rows
            np.testing.assert_allclose(found, to_numpy(row), rtol=1e-6)
        else:
            np.testing.assert_array_equal(found, to_numpy(row))


@by_table
def test_a_table_that_ends_early_gives_its_last_even_entry(method):
    # 0, 2, 4: both differences are the same, so that the second column would divide by zero.
    assert accelerate([np.array([0.0]), np.array([2.0]), np.array([4.0])], method, 1).tolist() == [2.0]
    # A sequence that has arrived: later columns have nothing to add.
    limit, rows = exponentials(2, [0.4], 3)
    assert accelerate([*rows, limit, limit, limit, limit], method, 3).tolist() == limit.tolist()


@by_method
def test_order_zero_is_the_last_row(method):
    assert accelerate([np.array([1.0]), np.array([5.0])], method, 0).tolist() == [5.0]


# -- what every limit must obey ---------------------------------------------------------------------------------------


@by_method
@pytest.mark.parametrize("order", [1, 2])
@given(seed=st.integers(0, 300), power=st.integers(-30, 30), sign=st.sampled_from([-1.0, 1.0]))
@settings(max_examples=15, deadline=None)
def test_limits_move_and_scale_with_the_sequence(method, order, seed, power, sign):
    rng = np.random.default_rng(seed)
    rows, shift = np.cumsum(rng.standard_normal((8, 4)) * 0.6 ** np.arange(8)[:, None], axis=0), rng.standard_normal(4)
    limit = accelerate(rows, method, order)
    factor = sign * 2.0**power
    np.testing.assert_allclose(accelerate(factor * rows, method, order), factor * limit, rtol=1e-13)
    assume(np.abs(limit).max() < 1e3)
    np.testing.assert_allclose(accelerate(rows + shift, method, order), limit + shift, rtol=0, atol=1e-7)


@by_table
@pytest.mark.parametrize("order", [1, 2, 3])
def test_limits_turn_with_the_sequence(method, order):
    rng = np.random.default_rng(6)
    rows, turn = rng.standard_normal((7, 4)), np.linalg.qr(rng.standard_normal((4, 4)))[0]
    found = accelerate(rows @ turn, method, order)
    np.testing.assert_allclose(found, accelerate(rows, method, order) @ turn, rtol=1e-8)


NUMBERS = [0.0, 1.0, -1.0, 3.0, 1e-8, 1e-160, 5e-324, -1e30, 1e150, -1e200]


@by_method
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_finite_rows_never_give_infinity_or_nan(method, data):
    order = data.draw(st.integers(0, 3))
    rows = st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=2).map(np.array)
    pool = data.draw(st.lists(rows, min_size=1, max_size=4))  # few different ones, so that many are equal
    length = rows_needed(method, order) + data.draw(st.integers(0, 2))
    sequence = [pool[data.draw(st.integers(0, len(pool) - 1))] for _ in range(length)]
    with np.errstate(all="ignore"):
        found = accelerate(sequence, method, order)
    assert np.isfinite(found).all(), sequence


def test_huge_rows_never_give_infinity_or_nan():
    rows = [np.array([sign * 1.7e308]) for sign in (1, -1, 1, -1, 1)]
    with np.errstate(all="ignore"):
        assert all(np.isfinite(accelerate(rows, method, 1)).all() for method in ACCELERATORS)


@by_method
def test_many_sequences_at_once_are_the_sequences_one_by_one(method, backend):
    rng = np.random.default_rng(8)
    sequences = rng.standard_normal((2, 2, 9, 4))  # runs before rows
    sequences[0, 1] = 1.0  # stands still
    sequences[1, 0] = np.arange(9.0)[:, None]  # singular
    sequences[1, 1] = exponentials(3, [0.5], 9, n=4)[1]  # known after three rows
    found = to_numpy(accelerate([backend.asarray(sequences[:, :, k]) for k in range(9)], method, 2))
    assert found.shape == (2, 2, 4)
    tolerance = 1e-9 if backend.dtype_name == "float64" else 1e-2
    for i in np.ndindex(2, 2):
        alone = to_numpy(accelerate([backend.asarray(row) for row in sequences[i]], method, 2))
        np.testing.assert_allclose(found[i], alone, rtol=tolerance, atol=tolerance)


# -- doors and storage ------------------------------------------------------------------------------------------------


def test_a_sequence_may_be_one_array_of_the_standard():
    sums = get_backend("array-api-strict").asarray(SUMS)
    np.testing.assert_allclose(to_numpy(accelerate(sums, "pade-aitken")), GOLDEN["pade_aitken"], rtol=1e-12)


@by_method
@pytest.mark.parametrize("order", [1, 2, 5])
def test_one_row_less_than_needed_is_refused(method, order):
    needed = {"levin-t": order + 2, "levin-t-componentwise": order + 2, "pade-hybrid": 3, "pade-aitken": 3}
    needed = needed.get(method, 2 * order + (3 if method == "d2" else 1))
    rows = np.random.default_rng(9).standard_normal((needed, 2))
    assert np.isfinite(accelerate(rows, method, order)).all()
    with pytest.raises(ValueError, match=f"needs at least {needed} partial sums, got {needed - 1}"):
        accelerate(rows[1:], method, order)
    with pytest.raises(ValueError, match=f"needs at least {needed} partial sums, got {needed - 1}"):
        sum_series(lambda v: v, np.ones(2), terms=needed - 1, scale=2.0, accelerate=method, order=order)


def stored(method, order, length, n):
    """Push rows that nobody else holds; after each: vectors kept, vectors allocated, rows that still exist."""
    table, alive, found = accelerator(method, order, length), set(), []
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for k in range(length):
        row = np.cos(np.arange(n) + k) * 0.7**k
        alive.add(k)
        weakref.finalize(row, alive.discard, k)
        table.push(row)
        del row
        allocated = (tracemalloc.get_traced_memory()[0] - before) / (8 * n)
        found.append((table.kept, allocated, len(alive)))
    tracemalloc.stop()
    return table, found


@by_method
@pytest.mark.parametrize("order", [1, 4])
def test_storage_does_not_grow_with_the_rows_that_were_pushed(method, order):
    table, found = stored(method, order, length=60, n=40_000)
    kept, allocated, rows = (np.array(column) for column in zip(*found, strict=True))
    most = rows_needed(method, order) + method.startswith("topological")
    assert kept.max() == most
    assert not kept[: 60 - rows_needed(method, order)].any()
    # One more than `kept` for a table: the answer of runs whose table has ended.
    assert allocated.max() < most + (method in EPSILON) + 0.2
    # A table holds entries and only its newest row (and its first, until another answer is known).
    assert rows.max() <= (2 if method in EPSILON else most)
    assert np.isfinite(table.value()).all()


def test_memory_of_the_series_does_not_grow_with_the_number_of_terms():
    g = np.ones(40_000)
    h = np.linspace(0.1, 1.0, g.size)

    def peak(terms, order):
        tracemalloc.start()
        sum_series(lambda v: h * v, g, terms=terms, scale=1.1, accelerate="shanks" if order else None, order=order)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / g.nbytes

    assert peak(80, 0) <= peak(10, 0) + 0.5 < 12
    # 2N + 1 = 9 vectors of the table and a fixed number of temporary ones, for 10 sums and for 80.
    assert peak(80, 4) <= peak(10, 4) + 0.5 < 9 + 15
