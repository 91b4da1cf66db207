"""Saddle-free Newton in a Krylov space: the series' task done with Lanczos, and a damping that looks after itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_between, check_count, check_positive, dot, namespace
from refimpl.curvature.inverse_abs import lanczos_function
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.operators import check_damping, only_finite
from refimpl.curvature.spectrum import eigen
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.damping import adapt_damping, change_ratio, settle_damping
from refimpl.oracle import Point


class LanczosInfo(NamedTuple):
    """What a step reports, each (...): ``damping`` is the one it used, ``ratio`` actual over predicted change."""

    damping: Array
    predicted_change: Array
    ratio: Array
    accepted: Array
    smallest_ritz: Array
    largest_ritz: Array


@dataclass(frozen=True)
class LanczosSaddleFreeNewton:
    """u = f(H) g from m Lanczos steps; x <- x - eta u where the loss does not object; damping by the model's luck.

    f(h) is 1/(|h| + lam) (``mode="abs"``) or 1/sqrt(h^2 + lam^2) (``"square"``). In the Krylov basis Q H Q^T = T is
    known, so the quadratic model m(s) = -g·s + s·Hs/2 costs nothing at s = eta u; it always falls there for eta <= 1.
    Then lam follows Levenberg–Marquardt's rule on actual over predicted change, in every step.

    Parameters
    ----------
    products : m, Hessian products per step, at least 1.
    initial_damping : lam at the start, between the two bounds.
    mode : ``"abs"`` or ``"square"``.
    learning_rate : eta in (0, 1].
    omega : factor of the damping rule, in (0, 1); 1 keeps lam as it is.
    damping_cap : the rule raises lam no further than this, a refusal may (and the next accepted step brings lam back
        to the cap); None takes ``initial_damping``. On losses with kinks (ReLU) the ratio stays bad however short the
        step is, and without a cap lam climbs until the run stands still. On smooth losses a small cap costs refusals:
        set it high.
    minimum_damping, maximum_damping : bounds of lam, positive.
    accept : a refusal leaves x and doubles lam. ``"bounded"`` refuses a step where the loss rises by more than the
        model says it should fall, or is not finite; ``"decrease"`` where it rises at all; ``"finite"`` only where it is
        not finite; ``"always"`` takes every step.

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    No V, no order, no interval, and no divergence of the direction whatever the spectrum: |u| <= |g|/lam.
    Leading axes ``(..., n)`` are allowed: each run has its own space, damping and decisions.
    Cost: one gradient, m products, one loss. Memory: m vectors.

    Source: the direction: Lanczos approximation of a matrix function, Higham (2008), sec. 13.2, for the saddle-free
    Newton of Dauphin et al. (2014), whose own algorithm 1 works in a Krylov space too; the damping rule: Martens &
    Grosse (2015), sec. 6.5. The combination is ours.
    """

    products: int = 16
    initial_damping: float = 1.0
    mode: Literal["abs", "square"] = "abs"
    learning_rate: float = 1.0
    omega: float = 0.5
    damping_cap: float | None = None
    minimum_damping: float = 1e-8
    maximum_damping: float = 1e8
    accept: Literal["bounded", "decrease", "finite", "always"] = "bounded"
    name: ClassVar[str] = "lanczos-sfn"

    def __post_init__(self) -> None:
        check_count("products", self.products)
        settle_damping(self, omega_may_be_one=True)
        check_damping(self.initial_damping, self.mode, ("square", "abs"))
        rate = check_positive("learning_rate", self.learning_rate)
        settle(self, learning_rate=check_between("learning_rate", rate, 0.0, 1.0, open_right=False))
        cap = self.initial_damping if self.damping_cap is None else self.damping_cap
        cap = check_positive("damping_cap", cap)
        settle(self, damping_cap=min(self.maximum_damping, max(self.minimum_damping, cap)))
        if self.accept not in ("bounded", "decrease", "finite", "always"):
            raise ValueError(
                f"unknown accept {self.accept!r}; choose one of ['bounded', 'decrease', 'finite', 'always']"
            )

    def init(self, x: Array) -> Array:
        """The damping of each run, (...)."""
        return namespace(x).full(tuple(x.shape[:-1]), self.initial_damping, dtype=x.dtype, device=backend_of(x).device)

    def step(self, point: Point, state: Array) -> Step:
        """One step: (..., n)."""
        damping = state
        gradient, usable = only_finite(point.gradient)
        xp = namespace(gradient)
        space = lanczos(point.hvp, gradient, self.products, checked=False)
        tridiagonal = space.tridiagonal()
        # Where the Krylov space ended early, T is padded with zeros, which are no Ritz values. With alpha_0 there, one
        # decomposition (the one place where a GPU is waited for) gives both the step and the ends of the spectrum.
        spare = xp.where(xp.any(space.basis != 0, axis=-1), xp.zeros_like(space.alpha), space.alpha[..., :1])
        identity = xp.eye(spare.shape[-1], dtype=spare.dtype, device=backend_of(spare).device)
        spectrum = eigen(tridiagonal + spare[..., None] * identity)
        u = lanczos_function(space, mode=self.mode, damping=damping, spectrum=spectrum)
        step = self.learning_rate * xp.where(usable[..., None], u, xp.full_like(u, float("nan")))
        coordinates = xp.matmul(space.basis, step[..., None])[..., 0]
        bent = xp.matmul(tridiagonal, coordinates[..., None])[..., 0]
        predicted = 0.5 * dot(coordinates, bent) - dot(gradient, step)

        x_trial = point.x - step
        trial = point.loss_at(x_trial)
        still = ~xp.any(step != 0, axis=-1)
        ratio = change_ratio(trial - point.loss, predicted)
        assert self.damping_cap is not None
        adapted = adapt_damping(
            damping, ratio, omega=self.omega, minimum=self.minimum_damping, maximum=self.damping_cap
        )
        ritz = spectrum.eigenvalues
        accepted = xp.isfinite(trial) & ((predicted < 0) | still)
        if self.accept == "bounded":
            accepted = accepted & (trial - point.loss <= xp.abs(predicted))
        elif self.accept == "decrease":
            accepted = accepted & (trial <= point.loss)
        elif self.accept == "always":
            accepted = xp.ones_like(accepted)
        raised = xp.clip(2.0 * damping, max=self.maximum_damping)
        info = LanczosInfo(damping, predicted, ratio, accepted, ritz[..., 0], ritz[..., -1])
        return Step(xp.where(accepted[..., None], x_trial, point.x), xp.where(accepted, adapted, raised), info)
