"""Is my gradient right? Derivatives of a reader's own problem, checked against differences of its loss.

Every check is a comparison of two numbers or vectors that must agree, in a few random directions. Where they do not,
the report says what the disagreement looks like: a sign, a factor, a missing term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from refimpl.arrays import Array, Backend, as_generator, check_count, host_numbers, machine_epsilon, to_numpy
from refimpl.oracle import Problem
from refimpl.verify.causes import likely_cause

Host = np.ndarray
_DENSE_LIMIT = 200


class OracleCheckFailed(AssertionError):
    """A derivative is wrong. ``report`` holds every check; the message is its table."""

    def __init__(self, report: OracleReport) -> None:
        super().__init__(f"the oracle contradicts itself\n{report}")
        self.report = report


@dataclass(frozen=True)
class OracleCheck:
    """One comparison: the relative error, what is allowed, and the likely cause where it is more."""

    name: str
    error: float
    tolerance: float
    cause: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (never where it is NaN)."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class OracleReport:
    """Every check that was made. Prints as a table."""

    checks: tuple[OracleCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        lines = [f"{'check'.ljust(width)}    error  allowed"]
        for c in self.checks:
            verdict = "ok" if c.passed else f"FAIL {c.cause}"
            lines.append(f"{c.name.ljust(width)}  {c.error:7.0e}  {c.tolerance:7.0e}  {verdict}")
        return "\n".join(lines)


def check_oracle(problem: Problem, x: Any = None, *, seed: int = 0, directions: int = 4) -> OracleReport:
    """Check the loss, gradient, products and Gauss–Newton parts of a :class:`refimpl.oracle.Problem` at one place.

    Parameters
    ----------
    problem : yours.
    x : the place, (n,); None asks ``problem.initial``. Choose one where nothing is zero by accident.
    seed : decides the place (if ``x`` is None), the sample and the directions.
    directions : how many random directions, at least 2.

    Returns
    -------
    OracleReport
        Prints as a table.

    Raises
    ------
    OracleCheckFailed
        Some check failed; the message is the table, with the likely cause of each failure.
    ValueError
        ``x`` does not fit the problem.

    Notes
    -----
    Checked: the gradient against central differences of the loss; hvp against differences of the gradient; u·Hv =
    v·Hu; the dense Hessian against hvp (n up to 200); the same question twice; and where there are outputs, jvp
    against differences of the outputs, u·Jv = v·J^T u, J^T (dL/dphi) = gradient, and G v against differences of
    gradient - J^T u with u = dL/dphi held fixed, which is H v without the curvature of the outputs. Cost: about 10
    losses and 40 gradients a direction. A direction that crosses a kink (ReLU) may fail: try another place first.

    >>> from refimpl.problems.toy import Rosenbrock
    >>> check_oracle(Rosenbrock()).passed
    True
    """
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be an instance of a Problem, got {problem!r}; or use check_oracle_functions")
    rng = as_generator(seed)
    place = problem.initial(rng) if x is None else problem.backend.asarray(host_numbers("x", x))
    if place.ndim != 1:
        raise ValueError(f"x must have shape ({problem.n},), got {tuple(place.shape)}: one place, no leading axes")
    problem.check_place(place)
    sample, backend = problem.draw(rng), problem.backend

    def at(host: Host) -> Any:
        return problem.at(backend.asarray(host), sample)

    oracle = _Functions(
        loss=lambda host: float(to_numpy(problem.loss(backend.asarray(host), sample))),
        gradient=lambda host: to_numpy(at(host).gradient),
        hvp=lambda host, v: to_numpy(at(host).hvp(backend.asarray(v))),
    )
    host = _finite(place)
    checker = _Checker(oracle, host, machine_epsilon(place), rng, directions, getattr(problem, "samples", None))
    checker.smooth()
    if problem.n <= _DENSE_LIMIT:
        checker.dense(to_numpy(at(host).hessian()))
    if at(host).has_outputs:
        checker.gauss_newton(at, backend)
    return checker.finish()


def check_oracle_functions(
    f: Callable[[Any], Any],
    gradient: Callable[[Any], Any],
    hvp: Callable[[Any, Any], Any],
    x: Any,
    *,
    seed: int = 0,
    directions: int = 4,
) -> OracleReport:
    """Check bare functions at ``x``: ``f(x)``, ``gradient(x)`` (n,), ``hvp(x, v)`` (n,). No Problem needed.

    The functions get NumPy float64 arrays and may return arrays of any library. Raises as :func:`check_oracle`.

    >>> import numpy as np
    >>> check_oracle_functions(lambda x: (x**3).sum(), lambda x: 3 * x**2, lambda x, v: 6 * x * v, [1.0, -2.0]).passed
    True
    """
    host = _finite(x)
    oracle = _Functions(
        loss=lambda place: float(_shaped("f", f(place.copy()), np.zeros(()))),
        gradient=lambda place: _shaped("gradient", gradient(place.copy()), host),
        hvp=lambda place, v: _shaped("hvp", hvp(place.copy(), v.copy()), host),
    )
    checker = _Checker(oracle, host, float(np.finfo(float).eps), as_generator(seed), directions, None)
    checker.smooth()
    return checker.finish()


@dataclass(frozen=True)
class _Functions:
    loss: Callable[[Host], float]
    gradient: Callable[[Host], Host]
    hvp: Callable[[Host, Host], Host]


class _Checker:
    """Makes the checks at one place and collects them."""

    def __init__(
        self, oracle: _Functions, x: Host, epsilon: float, rng: np.random.Generator, directions: int, samples: Any
    ) -> None:
        check_count("directions", directions, minimum=2)
        self._oracle, self._x, self._epsilon, self._samples = oracle, x, epsilon, samples
        self._vectors = rng.standard_normal((directions, x.size))
        self._checks: list[OracleCheck] = []
        self._rng = rng

    def smooth(self) -> None:
        """Gradient, product, symmetry, the same question twice."""
        o, x = self._oracle, self._x
        gradient = o.gradient(x)
        slopes = [gradient @ v for v in self._vectors]
        steepness = [self._difference(o.loss, v) for v in self._vectors]
        products = [o.hvp(x, v) for v in self._vectors]
        wanted = [self._difference(o.gradient, v) for v in self._vectors]
        # At a critical point the gradient is rounding: what it is compared with is then the curvature.
        small, bent = (
            self._epsilon**0.25,
            max(abs(float(v @ w)) for v, (w, _) in zip(self._vectors, wanted, strict=True)),
        )
        self._compare("gradient against differences of the loss", slopes, steepness, floor=small * bent)
        self._compare("hvp against differences of the gradient", products, wanted, floor=small * _longest([gradient]))
        self._compare_exact(
            "u·Hv = v·Hu",
            [u @ b for u, b in zip(self._vectors, products[1:] + products[:1], strict=True)],
            [v @ a for v, a in zip(np.roll(self._vectors, -1, axis=0), products, strict=True)],
            scale=_longest(self._vectors) * _longest(products),
        )  # fmt: skip
        self._compare_exact(
            "the same question twice", [gradient, products[0]], [o.gradient(x), o.hvp(x, self._vectors[0])]
        )

    def dense(self, matrix: Host) -> None:
        """The dense Hessian against products."""
        products = [self._oracle.hvp(self._x, v) for v in self._vectors]
        self._compare_exact("dense Hessian times v = hvp", [matrix @ v for v in self._vectors], products)

    def gauss_newton(self, at: Callable[[Host], Any], backend: Backend) -> None:
        """Everything that needs outputs."""
        point, moved = at(self._x), backend.asarray
        slope = point.output_gradient

        def pull(place: Host, u: Array) -> Host:
            return to_numpy(at(place).vjp(u))

        tangents = [to_numpy(point.jvp(moved(v))) for v in self._vectors]
        self._compare(
            "jvp against differences of the outputs", tangents,
            [self._difference(lambda place: to_numpy(at(place).outputs), v) for v in self._vectors],
        )  # fmt: skip
        u = self._rng.standard_normal(tangents[0].shape)
        pulled = to_numpy(point.vjp(moved(u)))
        self._compare_exact(
            "u·Jv = v·Jᵀu", [u @ t for t in tangents], [v @ pulled for v in self._vectors],
            scale=_longest([u]) * _longest(tangents),
        )  # fmt: skip
        self._compare_exact(
            "Jᵀ dL/dφ = gradient", [pull(self._x, slope)], [self._oracle.gradient(self._x)],
            scale=_longest([self._oracle.gradient(self._x), self._oracle.hvp(self._x, self._vectors[0])]),
        )  # fmt: skip
        products = [to_numpy(point.ggnvp(moved(v))) for v in self._vectors]
        wanted = [
            self._difference(lambda place: self._oracle.gradient(place) - pull(place, slope), v) for v in self._vectors
        ]
        self._compare("ggnvp against differences without the outputs' curvature", products, wanted)
        bent = [float(v @ p) for v, p in zip(self._vectors, products, strict=True)]
        lowest = -min(bent) / max(max(abs(b) for b in bent), 1e-300)
        self._add("v·Gv is at least zero", max(lowest, 0.0), 100 * self._epsilon, "G must be positive semi-definite")

    def finish(self) -> OracleReport:
        """The report; raises where a check failed."""
        report = OracleReport(tuple(self._checks))
        if not report.passed:
            raise OracleCheckFailed(report)
        return report

    def _difference(self, f: Callable[[Host], Any], v: Host) -> tuple[Any, float]:
        """The derivative of t -> f(x + t v) at 0 by central differences, and how far it can be trusted.

        A ladder of steps: large ones see higher derivatives, small ones rounding. The pair of neighbors that agree
        best is the plateau between the two, and their difference is the error.
        """
        size = 1.0 + float(np.max(np.abs(self._x)))
        steps = [size * self._epsilon**power / float(np.max(np.abs(v))) for power in (0.22, 0.28, 0.33, 0.38, 0.44)]
        ladder = [(np.asarray(f(self._x + h * v)) - np.asarray(f(self._x - h * v))) / (2 * h) for h in steps]
        gaps = [float(np.linalg.norm(a - b)) for a, b in pairwise(ladder)]
        best = int(np.argmin(np.nan_to_num(gaps, nan=np.inf)))
        return ladder[best + 1], gaps[best]

    def _compare(self, name: str, found: list[Any], differences: list[tuple[Any, float]], floor: float = 0.0) -> None:
        wanted = [value for value, _ in differences]
        scale = max(_longest(wanted), _longest(found), floor, 1e-300)
        trust = max(error for _, error in differences) / scale
        # Never above 5 %: a loss too rough to be differenced is a failure that has to be seen.
        self._judge(name, found, wanted, scale, min(max(self._epsilon**0.4, 20 * trust), 0.05))

    def _compare_exact(self, name: str, found: list[Any], wanted: list[Any], scale: float | None = None) -> None:
        if scale is None:
            scale = max(_longest(wanted), _longest(found), 1e-300)
        self._judge(name, found, wanted, max(scale, 1e-300), 1e4 * self._epsilon)

    def _judge(self, name: str, found: list[Any], wanted: list[Any], scale: float, tolerance: float) -> None:
        error = max(float(np.linalg.norm(f - w)) for f, w in zip(found, wanted, strict=True)) / scale
        cause = "" if error <= tolerance else likely_cause(found, wanted, self._samples)
        self._add(name, error, tolerance, cause)

    def _add(self, name: str, error: float, tolerance: float, cause: str) -> None:
        self._checks.append(OracleCheck(name, error, tolerance, "" if error <= tolerance else cause))


def _finite(x: Any) -> Host:
    host = host_numbers("x", x)
    if host.ndim != 1 or host.size == 0 or not np.isfinite(host).all():
        raise ValueError(f"x must be finite numbers of shape (n,) with n >= 1, got {host!r}")
    return host


def _longest(vectors: Any) -> float:
    return max(float(np.linalg.norm(v)) for v in vectors)


def _shaped(name: str, value: Any, x: Host) -> Host:
    host = host_numbers(f"what {name} returns", value)
    if host.shape != x.shape:
        raise ValueError(f"{name} must return shape {x.shape}, it returned {host.shape}")
    return host
