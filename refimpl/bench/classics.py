"""Trust-region methods on Rosenbrock's function: ours, SciPy's and pytorch-minimize's, per iteration."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from refimpl.arrays import Array
from refimpl.bench.peers import Missing, torchmin_iterations
from refimpl.bench.report import Found, Part, Session, skipped
from refimpl.bench.timing import race, torch_threads
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.problems.toy import Rosenbrock
from refimpl.run import minimize

SIZES = (2, 10, 100)
MOST = 2000

PAIRS: Mapping[str, tuple[Any, str, bool]] = {
    "exact": (TrustRegion(), "trust-exact", True),
    "two-dimensional": (TrustRegion(subproblem="two-dimensional"), "trust-exact", False),
    "kryball": (KryBall(), "trust-krylov", False),
}
"""Our method, the libraries' nearest, and whether an iteration does the same work in both: only then its time counts.
KryBall makes up to 20 products in a step and needs fewer of them."""


class Ended(NamedTuple):
    """Iterations, seconds for each, and whether a minimum was reached."""

    iterations: int
    each: float
    solved: bool


def rosenbrock(session: Session) -> Found:
    """G12: convergence of our methods, and the worst ratio per iteration."""
    ours_solved, against_scipy, against_torch, missing = True, 0.0, np.inf, ""
    value_error = 0.0
    for n in SIZES[:1] if session.quick else SIZES:
        problem = Rosenbrock(n=n)
        start = np.asarray(problem.start)
        value_error = max(value_error, _same_function(problem, start))
        for name, (method, theirs, alike) in PAIRS.items():
            found = {"ours": _ended(session, partial(_ours, problem, method, start), n)}
            found["SciPy"] = _ended(session, partial(_scipy, theirs, start), n)
            try:
                if name == "two-dimensional":
                    raise NotImplementedError
                with torch_threads("torch", 1), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found["torchmin"] = _ended(session, partial(_torchmin, theirs, start), n, most=1)
            except Missing as reason:
                missing = str(reason)
            except NotImplementedError:
                pass
            except Exception as error:
                session.note(f"n = {n}, {name}: pytorch-minimize breaks: {type(error).__name__}")
            ours_solved &= found["ours"].solved
            against_scipy = against_scipy if not alike else max(against_scipy, found["ours"].each / found["SciPy"].each)
            if alike and "torchmin" in found and found["torchmin"].solved:
                against_torch = min(against_torch, found["torchmin"].each / found["ours"].each)
            shown = ", ".join(
                f"{who} {e.iterations} x {1e3 * e.each:.3f} ms{'' if e.solved else ' (no minimum)'}"
                for who, e in found.items()
            )
            session.note(f"n = {n}, {name}: {shown}")
    others = skipped(missing) if missing else Part(against_torch, value_error)
    return {
        "not converged": Part(float(not ours_solved), value_error),
        "ours / SciPy per iteration": Part(against_scipy, value_error),
        "pytorch-minimize / ours per iteration": others,
    }


def _same_function(problem: Rosenbrock, x: Array) -> float:
    """The relative difference of our derivatives from SciPy's."""
    point = problem.at(x)
    pairs = [
        (point.loss, optimize.rosen(x)), (point.gradient, optimize.rosen_der(x)),
        (point.hessian(), optimize.rosen_hess(x)),
    ]  # fmt: skip
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


def _ours(problem: Rosenbrock, method: Any, start: Array) -> tuple[int, Array]:
    found = minimize(problem, method, start, steps=MOST, gradient_tolerance=1e-4)
    return found.steps, found.x


def _scipy(method: str, start: Array) -> tuple[int, Array]:
    found = optimize.minimize(
        optimize.rosen, start, jac=optimize.rosen_der, hess=optimize.rosen_hess, method=method,
        options={"maxiter": MOST},
    )  # fmt: skip
    return int(found.nit), found.x


def _torchmin(method: str, start: Array) -> tuple[int, Array]:
    return torchmin_iterations(method, start.tolist(), 100)


def _ended(session: Session, run: Callable[[], tuple[int, Array]], n: int, most: int | None = None) -> Ended:
    begin = time.process_time()
    iterations, x = run()
    once = time.process_time() - begin
    # From n = 4 on there is a second minimum, near (-1, 1, …, 1): the gradient tells a minimum.
    solved = bool(np.all(np.isfinite(x))) and float(np.linalg.norm(optimize.rosen_der(x))) < 1e-3 * np.sqrt(n)
    rounds = min(session.rounds, most or session.rounds)
    best = min(once, race({"run": run}, rounds)["run"]) if iterations and solved else once
    return Ended(iterations, best / max(iterations, 1), solved)
