"""Sequence accelerators for vectors: from the last few partial sums to a guess at the limit.

:func:`accelerate` takes a whole sequence; :func:`accelerator` gives the streaming form that a method uses, fed row
by row, which keeps only what it needs. Rows are (..., n): leading axes are independent sequences. Nothing here divides
by zero or returns a value that is not finite where its rows are finite.

With s_0, s_1, … the sequence, a^{-1} = a / (a·a) (Samelson's inverse) and w(c) a weight per column, the epsilon table
is

    eps_m^{(-1)} = 0,  eps_m^{(0)} = s_m,
    eps_m^{(c)} = eps_{m+1}^{(c-2)} + w(c) (eps_{m+1}^{(c-1)} - eps_m^{(c-1)})^{-1}

and only its even columns approximate the limit. New rows make a new antidiagonal, and one antidiagonal is all that is
kept: at most 2N + 1 vectors for order N.

Sources: Wynn (1956, 1962); Sablonnière (1991) for w(c) = floor(c/2) + 1 (series paper, eqs. 5 and 9; in its algorithm
2 the superscript c + 2 must read c - 2 and the loop must end before m = 2N); Brezinski (1975) for the topological
forms; Levin (1972); Graves-Morris (1994); Osada (1996) for d2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from refimpl.arrays import Array, check_count, dot, machine_epsilon, namespace, norm
from refimpl.curvature import last_rows

AcceleratorName = Literal[
    "shanks",
    "sablonniere",
    "vector-rho",
    "topological-epsilon",
    "topological-rho",
    "levin-t",
    "levin-t-componentwise",
    "pade-hybrid",
    "pade-aitken",
    "d2",
]
ACCELERATORS: tuple[str, ...] = get_args(AcceleratorName)
"""Every accelerator. The two Padé forms have no order: they use the last three sums whatever N is. ``d2`` is
experimental: its systems are so ill-conditioned that it often does harm (chapter 5 shows it)."""

_EPSILON = {
    "shanks": lambda c: 1,
    "sablonniere": lambda c: c // 2 + 1,
    "vector-rho": lambda c: c,
    "topological-epsilon": lambda c: 1,
    "topological-rho": lambda c: c,
}


def accelerate(
    sums: Sequence[Array] | Array, method: AcceleratorName, order: int = 1, *, strided: bool = False
) -> Array:
    """The accelerated limit of ``sums`` (L rows of shape (..., n)), from the end of the sequence.

    Parameters
    ----------
    sums : the sequence, at least :func:`rows_needed` rows.
    method : one of :data:`ACCELERATORS`.
    order : N, at least 0; with 0 the last row is returned.
    strided : take the rows evenly spaced over the whole sequence instead of the last ones. Neighbouring sums of a slow
        series differ so little that rounding decides high orders; spaced ones differ more.

    Raises
    ------
    ValueError
        Unknown method, order out of range, or a sequence that is too short for it (the epsilon family: L >= 2N + 1).

    Notes
    -----
    No products. O(N^2) vector operations for the epsilon family, O(N) for Levin, three for Padé.

    >>> import numpy as np
    >>> sums = [np.array([2.0 - 0.5**k, 1.0 + 0.5**k]) for k in range(3)]
    >>> accelerate(sums, "shanks").tolist()
    [2.0, 1.0]
    """
    rows = list(sums) if isinstance(sums, Sequence) else [sums[k, ...] for k in range(sums.shape[0])]
    check_accelerator(method, order, len(rows))
    if order == 0:
        return rows[-1]
    table = accelerator(method, order, len(rows), strided=strided)
    for row in rows:
        table.push(row)
    return table.value()


def accelerator(method: AcceleratorName, order: int, length: int, *, strided: bool = False) -> Accelerator:
    """The streaming form: push ``length`` rows one after the other, then ask for the value.

    Rows outside the window of :func:`window` are looked at and dropped. Raises a ValueError like :func:`accelerate`.
    """
    check_accelerator(method, order, length)
    if method in _EPSILON:
        rows = window(length, 2 * order + 1, strided)
        return EpsilonTable(rows, _EPSILON[method], topological=method.startswith("topological"))
    rule = {
        "levin-t": lambda rows, start: last_rows.levin(rows, start, shared=True),
        "levin-t-componentwise": lambda rows, start: last_rows.levin(rows, start, shared=False),
        "pade-hybrid": lambda rows, start: last_rows.three_terms(rows, hybrid=True),
        "pade-aitken": lambda rows, start: last_rows.three_terms(rows, hybrid=False),
        "d2": last_rows.d2,
    }[method]
    return LastRows(window(length, rows_needed(method, order), strided), rule)


def rows_needed(method: str, order: int) -> int:
    """How many rows the accelerator reads: 2N + 1 (epsilon family), N + 2 (Levin), 3 (Padé), 2N + 3 (d2).

    >>> rows_needed("shanks", 8), rows_needed("levin-t", 8)
    (17, 10)
    """
    if method in _EPSILON or order == 0:
        return 2 * order + 1
    return {"levin-t": order + 2, "levin-t-componentwise": order + 2, "d2": 2 * order + 3}.get(method, 3)


def window(length: int, needed: int, strided: bool = False) -> list[int]:
    """The indices of the rows that are read: the last ``needed`` of ``length``, or evenly spaced ones, ending last.

    >>> window(10, 3), window(10, 3, strided=True)
    ([7, 8, 9], [1, 5, 9])
    """
    stride = max(1, (length - 1) // max(1, needed - 1)) if strided else 1
    return [length - 1 - j * stride for j in range(needed)][::-1]


def check_accelerator(method: str | None, order: int, length: int) -> None:
    """Refuse an unknown accelerator, an order below zero, or one that ``length`` sums cannot carry (ValueError)."""
    check_count("order", order, minimum=0)
    if method is None:
        if order > 0:
            raise ValueError(f"order={order} needs an accelerator; choose one of {list(ACCELERATORS)}")
        return
    if method not in ACCELERATORS:
        raise ValueError(f"unknown accelerator {method!r}; choose one of {list(ACCELERATORS)}")
    needed = rows_needed(method, order)
    if length < needed:
        raise ValueError(f"{method} of order {order} needs at least {needed} partial sums, got {length}")


class Accelerator(ABC):
    """A streaming accelerator: ``push`` each row of the sequence, then ask for ``value``."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows
        self._seen = 0

    def push(self, row: Array) -> None:
        """The next row (..., n) of the sequence."""
        if self._seen in self._rows:
            self._take(row)
        self._seen += 1

    @abstractmethod
    def value(self) -> Array:
        """The approximation of the limit, (..., n)."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """How many vectors are stored now."""

    @abstractmethod
    def _take(self, row: Array) -> None: ...


class EpsilonTable(Accelerator):
    """One antidiagonal of the epsilon table, replaced entry by entry when a row comes in.

    Where a difference is zero to rounding the table ends for that run: a difference in an even column means that the
    sequence stands still, and the entry is the answer; in an odd column (a singular entry) it is the last even one.

    Parameters
    ----------
    rows : indices of the rows that enter the table, an odd number of them.
    weight : w(c) for column c = 1, 2, ….
    topological : Brezinski's form, which divides by a product with a fixed vector y (the first difference of the
        window) instead of Samelson's inverse.
    """

    def __init__(self, rows: Sequence[int], weight: Callable[[int], int], *, topological: bool = False) -> None:
        super().__init__(rows)
        self._weight = weight
        self._topological = topological
        self._diagonal: list[Array] = []
        self._sizes: list[Array] = []  # the length of each entry, which two differences are compared with
        self._direction: Array | None = None
        self._ended: Array | None = None
        self._answer: Array | None = None

    @property
    def kept(self) -> int:
        """Vectors stored: the antidiagonal, and y for the topological forms."""
        return len(self._diagonal) + (self._direction is not None)

    def value(self) -> Array:
        """eps_0^{(2N)}, or for runs whose table ended early the answer found there."""
        xp = namespace(self._diagonal[-1])
        corner = self._diagonal[-1]
        if self._ended is None or self._answer is None:
            return corner
        last = xp.where(self._ended[..., None], self._answer, corner)
        return xp.where(xp.isfinite(norm(last))[..., None], last, self._diagonal[0])

    def _take(self, row: Array) -> None:
        xp, diagonal = namespace(row), self._diagonal
        if self._ended is None:
            self._ended = xp.zeros_like(row[..., 0]) > 0
            self._answer = row
        if self._topological and self._direction is None and diagonal:
            self._direction = row - diagonal[0]
        # old_two_back = eps_{m+1}^{(c-2)}, new_two_back = eps_{m+2}^{(c-2)}, carry = eps_{m+1}^{(c-1)}
        old_two_back, new_two_back, carry = xp.zeros_like(row), xp.zeros_like(row), row
        size, rounding = _size(row), 8 * machine_epsilon(row)
        for c in range(1, len(diagonal) + 1):
            old = diagonal[c - 1]
            difference = carry - old
            length = dot(difference, difference)
            noise = rounding * xp.maximum(size, self._sizes[c - 1])
            vanished = length <= noise * noise
            denominator, numerator = self._quotient(c, difference, length, new_two_back - old_two_back)
            vanished = vanished | (denominator == 0)
            self._end(vanished, old if c % 2 == 1 else old_two_back)
            safe = xp.where(vanished, xp.ones_like(denominator), denominator)
            entry = old_two_back + (self._weight(c) / safe)[..., None] * numerator
            diagonal[c - 1], self._sizes[c - 1] = carry, size
            old_two_back, new_two_back, carry, size = old, carry, entry, _size(entry)
        diagonal.append(carry)
        self._sizes.append(size)

    def _quotient(self, c: int, difference: Array, length: Array, step: Array) -> tuple[Array, Array]:
        if not self._topological:
            return length, difference
        if c % 2 == 1:
            assert self._direction is not None
            return dot(self._direction, difference), self._direction
        return dot(difference, step), step

    def _end(self, now: Array, answer: Array) -> None:
        assert self._ended is not None
        assert self._answer is not None
        xp = namespace(answer)
        fresh = now & ~self._ended
        self._answer = xp.where(fresh[..., None], answer, self._answer)
        self._ended = self._ended | now


def _size(entry: Array) -> Array:
    # Without the care of `norm`: where it overflows so does the length of the difference it is compared with.
    return namespace(entry).sqrt(dot(entry, entry))


class LastRows(Accelerator):
    """Keeps the rows of the window and applies ``rule(rows, index of the first)`` in the end."""

    def __init__(self, rows: Sequence[int], rule: Callable[[list[Array], int], Array]) -> None:
        super().__init__(rows)
        self._rule = rule
        self._kept: deque[Array] = deque(maxlen=len(rows))

    @property
    def kept(self) -> int:
        """Vectors stored: the window."""
        return len(self._kept)

    def value(self) -> Array:
        """What the rule makes of the window; the last row where that is not finite."""
        rows = list(self._kept)
        found = self._rule(rows, self._rows[0])
        xp = namespace(found)
        return xp.where(xp.isfinite(norm(found))[..., None], found, rows[-1])

    def _take(self, row: Array) -> None:
        self._kept.append(row)
