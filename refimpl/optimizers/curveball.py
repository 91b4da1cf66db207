"""CurveBall: one interleaved gradient step on the Newton system per iteration, and how it tunes itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_count, check_positive, namespace, widened
from refimpl.curvature.plane import plane_minimizer
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.damping import adapt_damping, change_ratio, settle_damping
from refimpl.oracle import Point

Curvature = Literal["gauss-newton", "hessian"]


class CurveBallState(NamedTuple):
    """What is kept between steps: z, the step that was last added, (..., n); lam, (...); the steps taken so far."""

    step: Array
    damping: Array
    iteration: int


class CurveBallInfo(NamedTuple):
    """What a step reports, each (...): beta and rho as used; the lam of the step; the predicted change of the model
    (NaN in a step that needs none); the ratio of actual to predicted change (NaN where it was not measured)."""

    learning_rate: Array
    momentum: Array
    damping: Array
    predicted_change: Array
    ratio: Array


class _Model(NamedTuple):
    """The model -t·b + t·At/2 of the step t1 dz + t2 z: b = (g·dz, g·z), and A without and with lam."""

    curved: tuple[Array, Array, Array]
    damped: tuple[Array, Array, Array]
    slopes: tuple[Array, Array]


@dataclass(frozen=True)
class CurveBall:
    """z <- rho z - beta ((G + lam I) z + g), x <- x + z: momentum that knows the curvature.

    Parameters
    ----------
    learning_rate : beta; None has it chosen in each step by minimizing the model.
    momentum : rho; None likewise, together with beta if both are None. 1 is the variant without momentum parameter.
    curvature : G, ``"gauss-newton"`` (the generalized Gauss–Newton matrix, never negative) or ``"hessian"``.
    initial_damping : lam at the start. The paper takes 1 with batch normalization and 10 without.
    adapt_every : lam is adapted in steps 0, k, 2k, …; 0 keeps it.
    omega : factor by which lam falls or rises, in (0, 1); 1 keeps it. The default is the released code's, the text
        has 0.999.
    system : ``"damped"`` minimizes the model with lam in it, as the released code does; ``"printed"`` solves the
        2 × 2 system of eq. 18 as printed, without lam.
    minimum_damping, maximum_damping : bounds of lam.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, Gauss–Newton products asked of a loss without outputs.

    Notes
    -----
    With beta and rho free, the step is the minimizer of the model g·s + s·(G + lam I)s/2 over the plane of z and
    dz = (G + lam I) z + g. In two dimensions that is all of space: the Levenberg step. It is a descent direction
    wherever it is not zero, since g·s = -s·(G + lam I)s. Degenerate planes: see
    :func:`~refimpl.curvature.plane.plane_minimizer`.
    A beta or rho that is not finite counts as zero.

    lam falls by ``omega`` where the actual change is more than 3/2 of the predicted one, rises where it is less than
    1/2 or not finite, and stays where nothing was predicted (z and dz are zero). No step is refused.

    Inner products are summed in float64. The step reads nothing back to the host.

    Cost: one loss, one vjp and two jvp (one in the first step; one with fixed beta and rho), and one loss more in the
    steps that adapt lam. The gradient itself is never asked: (G z + g) is one reverse-mode pass (eq. 17). With
    ``curvature="hessian"``: one gradient and two hvp. Memory: z and dz.

    Source: CurveBall paper, Algorithm 1, eqs. 15–18 and section 3; rules for degenerate planes are ours.
    """

    learning_rate: float | None = None
    momentum: float | None = None
    curvature: Curvature = "gauss-newton"
    initial_damping: float = 1.0
    adapt_every: int = 5
    omega: float = 0.999**5
    system: Literal["damped", "printed"] = "damped"
    minimum_damping: float = 1e-12
    maximum_damping: float = 1e12
    name: ClassVar[str] = "curveball"

    def __post_init__(self) -> None:
        if self.learning_rate is not None:
            settle(self, learning_rate=check_positive("learning_rate", self.learning_rate))
        if self.momentum is not None:
            settle(self, momentum=check_positive("momentum", self.momentum, zero_allowed=True))
        settle(self, adapt_every=check_count("adapt_every", self.adapt_every, minimum=0))
        settle_damping(self, omega_may_be_one=True, damping_may_be_zero=self.adapt_every == 0)
        if self.curvature not in ("gauss-newton", "hessian"):
            raise ValueError(f"unknown curvature {self.curvature!r}; choose one of ['gauss-newton', 'hessian']")
        if self.system not in ("damped", "printed"):
            raise ValueError(f"unknown system {self.system!r}; choose one of ['damped', 'printed']")

    def init(self, x: Array) -> CurveBallState:
        """No step taken, the initial damping."""
        xp, backend = namespace(x), backend_of(x)
        damping = xp.full(x.shape[:-1], self.initial_damping, dtype=x.dtype, device=backend.device)
        return CurveBallState(xp.zeros_like(x), damping, 0)

    def step(self, point: Point, state: CurveBallState) -> Step:
        """One step: (..., n)."""
        xp, z, damping = namespace(point.x), state.step, state.damping
        adapts = self.adapt_every > 0 and state.iteration % self.adapt_every == 0
        fixed = self.learning_rate is not None and self.momentum is not None
        dz, model = self._model(point, state, wanted=adapts or not fixed)
        beta, rho = self._parameters(xp, model, damping)
        if beta.dtype == z.dtype:
            step = rho[..., None] * z - beta[..., None] * dz
        else:
            step = xp.astype(rho, z.dtype)[..., None] * z - xp.astype(beta, z.dtype)[..., None] * dz
        x_next = point.x + step

        unknown = float("nan") * beta
        predicted = self._predicted(beta, rho, model) if model is not None else unknown
        if adapts:
            ratio = change_ratio(widened(point.loss_at(x_next)) - widened(point.loss), predicted)
            # A loss that is not finite asks for more damping; a model that predicts no change says nothing.
            verdict = xp.where(predicted == 0, 1.0, xp.where(xp.isfinite(ratio), ratio, 0.0))
            damping_next = self._adapted(xp, damping, verdict)
        else:
            ratio, damping_next = unknown, damping
        info = CurveBallInfo(beta, rho, damping, predicted, ratio)
        return Step(x_next, CurveBallState(step, damping_next, state.iteration + 1), info)

    def _model(self, point: Point, state: CurveBallState, *, wanted: bool) -> tuple[Array, _Model | None]:
        """dz = (G + lam I) z + g, (..., n), and the model where it is ``wanted``."""
        z, started, lam = state.step, state.iteration > 0, state.damping
        # u and w are what the products are made of: the directions and their images, in weight or in output space.
        if self.curvature == "hessian":
            slope = point.gradient
            u_z = z
            w_z = point.hvp(z) if started else z
            dz = w_z + lam[..., None] * z + slope
            u_d, w_d = (dz, point.hvp(dz)) if wanted else (dz, dz)
        else:
            slope = point.output_gradient
            u_z = point.jvp(z) if started else 0.0 * slope
            w_z = point.output_hvp(u_z) if started else u_z
            dz = point.vjp(w_z + slope) + lam[..., None] * z
            u_d = point.jvp(dz) if wanted else dz
            w_d = point.output_hvp(u_d) if wanted else dz
        if not wanted:
            return dz, None
        d, z, u_d, w_d, u_z, w_z, slope, lam = (widened(a) for a in (dz, z, u_d, w_d, u_z, w_z, slope, lam))
        xp = namespace(d)

        def inner(a: Array, b: Array) -> Array:  # without asking for the namespace eight times
            return xp.sum(a * b, axis=-1)

        curved = a11, a12, a22 = inner(u_d, w_d), inner(u_z, w_d), inner(u_z, w_z)
        damped = a11 + lam * inner(d, d), a12 + lam * inner(z, d), a22 + lam * inner(z, z)
        return dz, _Model(curved, damped, (inner(slope, u_d), inner(slope, u_z)))

    def _parameters(self, xp: Any, model: _Model | None, damping: Array) -> tuple[Array, Array]:
        """beta and rho, each (...): as given, or the best ones for the model."""
        if model is None:
            return xp.full_like(damping, self.learning_rate), xp.full_like(damping, self.momentum)
        a11, a12, a22 = model.damped if self.system == "damped" else model.curved
        b1, b2 = model.slopes
        if self.learning_rate is None and self.momentum is None:
            beta, t2 = plane_minimizer(a11, a12, a22, b1, b2)
            rho = -t2
        else:
            zero = xp.zeros_like(b1)
            beta = zero + self.learning_rate if self.learning_rate is not None else None
            rho = zero + self.momentum if self.momentum is not None else None
            if beta is None:
                beta, _ = plane_minimizer(a11, zero, zero, b1 + rho * a12, zero)
            elif rho is None:
                rho, _ = plane_minimizer(a22, zero, zero, beta * a12 - b2, zero)
        return xp.where(xp.isfinite(beta), beta, 0.0), xp.where(xp.isfinite(rho), rho, 0.0)

    def _predicted(self, beta: Array, rho: Array, model: _Model) -> Array:
        """The change that the damped model predicts for rho z - beta dz, (...)."""
        (a11, a12, a22), (b1, b2) = model.damped, model.slopes
        return beta * (0.5 * beta * a11 - rho * a12 - b1) + rho * (0.5 * rho * a22 + b2)

    def _adapted(self, xp: Any, damping: Array, verdict: Array) -> Array:
        """The next lam, in the dtype of the last."""
        adapted = adapt_damping(
            damping,
            verdict,
            omega=self.omega,
            minimum=self.minimum_damping,
            maximum=self.maximum_damping,
            low=0.5,
            high=1.5,
        )
        return adapted if adapted.dtype == damping.dtype else xp.astype(adapted, damping.dtype)
