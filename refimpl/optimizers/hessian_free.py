"""Hessian-free optimization (truncated Newton, Newton–CG): the Newton system by conjugate gradients in each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_between, check_count, dot, namespace
from refimpl.curvature.truncated_cg import truncated_cg
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.damping import adapt_damping, change_ratio, settle_damping
from refimpl.oracle import Point


class HessianFreeState(NamedTuple):
    """What is kept between steps: the last solution z, (..., n), and lam, (...)."""

    solution: Array
    damping: Array


class HessianFreeInfo(NamedTuple):
    """What a step reports, each (...): the lam of the step; the CG steps made; whether CG met negative curvature; the
    predicted change of the damped model for the full step; the ratio of actual to predicted change there; the length
    along z that the line search accepted (0: none); whether one was accepted."""

    damping: Array
    cg_steps: Array
    negative_curvature: Array
    predicted_change: Array
    ratio: Array
    step_length: Array
    accepted: Array


@dataclass(frozen=True)
class HessianFree:
    """Solve (G + lam I) z = -g by conjugate gradients, go as far along z as the loss falls, x <- x + t z.

    Parameters
    ----------
    products : the most products for one solve, at least 1.
    curvature : G, ``"gauss-newton"`` or ``"hessian"``.
    stopping : the rule that ends the solve early, see :func:`~refimpl.curvature.truncated_cg.truncated_cg`:
        ``"residual"``, ``"progress"`` or ``"never"``.
    warm_start : multiple of the last solution that the next solve starts from, in [0, 1]; 0 starts from zero, 0.95 is
        the literature's value.
    initial_damping : lam at the start.
    omega : factor by which lam falls (ratio above 3/4) or rises (ratio below 1/4, or a loss that is not finite).
    backtracks : halvings of the step that the line search may try, at least 0.
    minimum_damping, maximum_damping : bounds of lam.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, Gauss–Newton products asked of a loss without outputs.

    Notes
    -----
    The line search takes the first t of 1, 1/2, 1/4, … with f(x + t z) <= f(x) + 1e-4 t g·z (Armijo); if there is none
    the run stays, forgets z, and lam rises. A z that is not a descent direction (a warm start that met negative
    curvature) is replaced by -g. The ratio is that of the full step, t = 1.

    Cost: one gradient, at most ``products`` products (one more with a warm start), one loss per trial. Memory: 5
    vectors. Not free of reads back to the host: CG asks in each step whether any run goes on.

    Source: Martens (2010); Nocedal & Wright (2006), algorithm 7.1; CurveBall paper, Algorithm 2, which leaves out
    stopping, line search and damping.
    """

    products: int = 50
    curvature: Literal["gauss-newton", "hessian"] = "gauss-newton"
    stopping: Literal["residual", "progress", "never"] = "residual"
    warm_start: float = 0.0
    initial_damping: float = 1.0
    omega: float = 2.0 / 3.0
    backtracks: int = 20
    minimum_damping: float = 1e-12
    maximum_damping: float = 1e12
    name: ClassVar[str] = "hessian-free"

    def __post_init__(self) -> None:
        settle(
            self,
            products=check_count("products", self.products),
            backtracks=check_count("backtracks", self.backtracks, minimum=0),
            warm_start=check_between("warm_start", self.warm_start, 0.0, 1.0, open_right=False),
        )
        settle_damping(self, omega_may_be_one=True)
        if self.curvature not in ("gauss-newton", "hessian"):
            raise ValueError(f"unknown curvature {self.curvature!r}; choose one of ['gauss-newton', 'hessian']")
        if self.stopping not in ("residual", "progress", "never"):
            raise ValueError(f"unknown stopping {self.stopping!r}; choose one of ['residual', 'progress', 'never']")

    def init(self, x: Array) -> HessianFreeState:
        """No solution yet, the initial damping."""
        xp, backend = namespace(x), backend_of(x)
        damping = xp.full(x.shape[:-1], self.initial_damping, dtype=x.dtype, device=backend.device)
        return HessianFreeState(xp.zeros_like(x), damping)

    def step(self, point: Point, state: HessianFreeState) -> Step:
        """One step: (..., n)."""
        xp, gradient, damping = namespace(point.x), point.gradient, state.damping
        product = point.hvp if self.curvature == "hessian" else point.ggnvp

        def damped(v: Array) -> Array:
            return product(v) + damping[..., None] * v

        start = self.warm_start * state.solution if self.warm_start > 0 else None
        found = truncated_cg(damped, gradient, steps=self.products, start=start, stopping=self.stopping, checked=False)
        slope = dot(gradient, found.x)
        uphill = ~(slope < 0)
        z = xp.where(uphill[..., None], -gradient, found.x)
        slope = xp.where(uphill, -dot(gradient, gradient), slope)
        predicted = xp.where(uphill, slope, found.model)

        length, first = self._line_search(point, z, slope)
        moved = length > 0
        ratio = change_ratio(first - point.loss, predicted)
        verdict = xp.where(xp.isfinite(first), ratio, xp.zeros_like(ratio))
        verdict = xp.where(moved, verdict, xp.zeros_like(ratio))
        still = slope == 0
        adapted = adapt_damping(
            damping, verdict, omega=self.omega, minimum=self.minimum_damping, maximum=self.maximum_damping
        )
        info = HessianFreeInfo(damping, found.steps, found.negative_curvature, predicted, ratio, length, moved | still)
        x_next = xp.where(moved[..., None], point.x + length[..., None] * z, point.x)
        solution = xp.where(moved[..., None], z, xp.zeros_like(z))
        return Step(x_next, HessianFreeState(solution, xp.where(still, damping, adapted)), info)

    def _line_search(self, point: Point, z: Array, slope: Array) -> tuple[Array, Array]:
        """The first t of 1, 1/2, … that lowers the loss enough (0 if none), and the loss at t = 1, each (...)."""
        xp, loss = namespace(z), point.loss
        length, found = xp.ones_like(slope), slope == 0
        first = None
        for _ in range(self.backtracks + 1):
            trial = point.loss_at(point.x + length[..., None] * z)
            first = trial if first is None else first
            found = found | (xp.isfinite(trial) & (trial <= loss + 1e-4 * length * slope))
            if bool(xp.all(found)):
                break
            length = xp.where(found, length, 0.5 * length)
        assert first is not None
        moved = found & (slope != 0)
        return xp.where(moved, length, xp.zeros_like(length)), first
