"""How close a direction is to the exact damped |H|^{-1} g for the same number of Hessian products."""

from __future__ import annotations

from refimpl.arrays import Array
from refimpl.bench.report import Found, Part, Session
from refimpl.bench.series import DAMPING, SCALE, setting
from refimpl.bench.timing import gap
from refimpl.curvature.inverse_abs import inverse_abs_apply
from refimpl.curvature.series import sum_series
from refimpl.curvature.spectrum import apply_inverse_abs

BUDGETS = (5, 10, 34)


def at_the_start(session: Session) -> Found:
    """G8: Lanczos and the published series at the starting place on UCI Energy, both against the dense Hessian."""
    problem, x, terms, order = setting(session)
    point = problem.at(x)
    gradient, hessian = point.gradient, point.hessian()
    exact = apply_inverse_abs(hessian, gradient, mode="abs", damping=DAMPING)
    dense = gap(hessian @ gradient, point.hvp(gradient))

    def published(scale: float, columns: int) -> float:
        found = sum_series(
            point.hvp, gradient, terms=terms, scale=scale, damping=DAMPING, mode="abs", guard=False,
            accelerate="shanks" if columns else None, order=columns,
        )  # fmt: skip
        return gap(found.direction, exact)

    series = published(SCALE, order)
    low, *_, high = budgets = tuple(session.knobs.get("budget", BUDGETS))
    errors = {
        budget: gap(
            inverse_abs_apply(
                point.hvp, gradient, products=budget, damping=DAMPING, mode="abs", method="lanczos"
            ).direction,
            exact,
        )
        for budget in budgets
    }
    largest = float(max(abs(h) for h in eigenvalues(hessian)))
    session.note(
        f"relative error of (|H| + {DAMPING:.3g})^-1 g, n = {problem.n}: series with {2 * (terms - 1)} products, "
        f"N = {order}: V = {SCALE:g} {series:.3g}, V = 1.05 max h^2 {published(1.05 * largest**2, order):.3g}; "
        f"V = {SCALE:g} without acceleration {published(SCALE, 0):.3g}"
    )
    session.note("Lanczos: " + ", ".join(f"{budget} products {error:.3g}" for budget, error in errors.items()))
    return {
        "error of 5 products / the series' with 34": Part(errors[low] / series, dense),
        "error of 34 products": Part(errors[high], dense),
    }


def eigenvalues(hessian: Array) -> list[float]:
    """The eigenvalues of a dense Hessian."""
    from numpy.linalg import eigvalsh

    return [float(h) for h in eigvalsh(hessian)]
