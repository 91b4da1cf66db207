"""Groups of coordinates of x: its tensors, or chunks of constant size. Sums over them, and back to coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import prod

from refimpl.arrays import Array, Backend, backend_of, namespace

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Groups:
    """Consecutive stretches of the flat vector.

    sizes : how many coordinates each group has; they add up to n.
    chunk : the constant size, the last group excepted; None where the groups are tensors.
    """

    sizes: tuple[int, ...]
    chunk: int | None = None

    @classmethod
    def of(cls, shapes: Shapes, chunk: int | None = None) -> Groups:
        """The tensors of these shapes, or chunks: coordinate i is in group i // chunk."""
        sizes = tuple(prod(shape) for shape in shapes)
        if chunk is None:
            return cls(sizes)
        n = sum(sizes)
        return cls(tuple(min(chunk, n - start) for start in range(0, n, chunk)), chunk)

    def __len__(self) -> int:
        return len(self.sizes)

    def sum(self, values: Array) -> Array:
        """(..., n) -> (..., groups)."""
        return namespace(values).sum(self._rows(values), axis=-1) if self.chunk else self._each("sum", values)

    def max(self, values: Array) -> Array:
        """(..., n) -> (..., groups), for values of at least zero."""
        return namespace(values).max(self._rows(values), axis=-1) if self.chunk else self._each("max", values)

    def mean(self, values: Array) -> Array:
        """(..., n) -> (..., groups)."""
        return self.sum(values) / _sizes(self.sizes, backend_of(values))

    def spread(self, values: Array) -> Array:
        """One value per group to every coordinate of it: (..., groups) -> (..., n)."""
        return namespace(values).take(values, _numbers(self.sizes, backend_of(values)), axis=-1)

    def _each(self, reduction: str, values: Array) -> Array:
        xp = namespace(values)
        reduce, ends = getattr(xp, reduction), [0, *accumulate(self.sizes)]
        return xp.stack([reduce(values[..., a:b], axis=-1) for a, b in pairwise(ends)], axis=-1)

    def _rows(self, values: Array) -> Array:
        # The last chunk is filled up with zeros: one reduction for all, however many there are.
        assert self.chunk is not None
        xp, lead = namespace(values), tuple(values.shape[:-1])
        missing = len(self) * self.chunk - sum(self.sizes)
        if missing:
            values = xp.concat([values, xp.zeros_like(values[..., :1]) + backend_of(values).zeros(missing)], axis=-1)
        return xp.reshape(values, (*lead, len(self), self.chunk))


@lru_cache(maxsize=16)
def matrix_mask(shapes: Shapes, backend: Backend) -> Array:
    """1 for coordinates of tensors with two axes or more, 0 for the others, (n,)."""
    xp, at = backend.xp, {"dtype": backend.dtype, "device": backend.device}
    return xp.concat([xp.full((prod(shape),), float(len(shape) >= 2), **at) for shape in shapes])


@lru_cache(maxsize=16)
def _numbers(sizes: tuple[int, ...], backend: Backend) -> Array:
    xp, at = backend.xp, {"dtype": backend.xp.int64, "device": backend.device}
    return xp.concat([xp.full((size,), number, **at) for number, size in enumerate(sizes)])


@lru_cache(maxsize=16)
def _sizes(sizes: tuple[int, ...], backend: Backend) -> Array:
    return backend.asarray(list(sizes))
