"""Wrong optimizers as they are published: Gauss–Newton, CurveBall, trust regions, KryBall. See ``kit_mistakes.py``."""

import numpy as np
from kit_mistakes import Script, mistake, right

# -- Gauss–Newton and CurveBall ---------------------------------------------------------------------------------------


def jacobian(task, x):
    return np.stack([task.jvp(x, row) for row in np.eye(len(x), dtype=x.dtype)], axis=1)


@mistake("gauss-newton", "lacks the curvature of the loss", "J^T J for r·r, whose Gauss-Newton matrix is 2 J^T J")
class GaussNewtonPlain(Script):
    def update(self, grad):
        j = jacobian(self.task, self.x)
        a = j.T @ j + self.k.damping * np.eye(len(grad))
        self.x -= self.k.learning_rate * np.linalg.solve(a, grad)


@mistake("levenberg-marquardt", "a step whose loss rises is taken", "code that adapts lam and forgets to go back")
class NeverGoesBack(Script):
    lam = None

    def update(self, grad):
        self.lam = self.k.damping if self.lam is None else self.lam
        g = np.stack([self.task.ggnvp(self.x, row) for row in np.eye(len(grad), dtype=grad.dtype)])
        before = self.task.loss(self.x)
        self.x -= np.linalg.solve(g + self.lam * np.eye(len(grad)), grad)
        self.lam = self.lam / self.k.decrease if self.task.loss(self.x) < before else self.lam * self.k.increase


class CurveBallScript(Script):
    """z <- rho z - beta dz, buffers z; autodiff products; the 2 x 2 system solved each step"""

    buffers = ("z",)

    def product(self, v):
        return self.task.ggnvp(self.x, v)

    def inner(self, a, b, product):
        return a @ product + self.k.damping * (a @ b)

    def combine(self, rho, beta, dz):
        return rho * self.z - beta * dz

    def update(self, grad):
        g_z = self.product(self.z)
        dz = g_z + self.k.damping * self.z + grad
        g_dz = self.product(dz)
        a11, a12, a22 = self.inner(dz, dz, g_dz), self.inner(self.z, dz, g_dz), self.inner(self.z, self.z, g_z)
        if not dz.any():
            return
        if not self.z.any():
            beta, minus_rho = (grad @ dz) / a11, 0.0
        else:
            m = np.array([[a11, a12], [a12, a22]])
            s = 1 / np.sqrt(np.diag(m))
            solved = np.linalg.lstsq(m * np.outer(s, s), s * [grad @ dz, grad @ self.z], rcond=1e-10)[0]
            beta, minus_rho = s * solved
        self.z = np.asarray(self.combine(-minus_rho, beta, dz), dtype=grad.dtype)
        self.x += self.z


right("curveball")(CurveBallScript)


# The plane of z and dz is the same without damping in dz, so two causes fit.
@mistake("curveball", "lam z·z; or the damping is left out of everything", "CurveBall paper, eq. 18 as printed")
class CurveBallUndamped(CurveBallScript):
    def inner(self, a, b, product):
        return a @ product


@mistake("curveball", "the sign of rho", "the solution (beta, -rho) of eq. 18 taken for (beta, rho)")
class CurveBallRho(CurveBallScript):
    def combine(self, rho, beta, dz):
        return -rho * self.z - beta * dz


@mistake("curveball", "beta multiplies the whole of z", "z *= rho; z -= dz; w += beta * z, kept as the new z")
class CurveBallRate(CurveBallScript):
    def combine(self, rho, beta, dz):
        return beta * (rho * self.z - dz)


@mistake("curveball", "lacks the curvature of the loss", "JVP and VJP without the loss's Hessian between them")
class CurveBallPlain(CurveBallScript):
    def product(self, v):
        return self.task.vjp(self.x, self.task.jvp(self.x, v))


@mistake(
    "curveball", "", "a module-level z: state['z'] of another run", ("ten steps",), "init must forget the last run"
)
class CurveBallKept(CurveBallScript):
    kept = np.zeros(4)

    def update(self, grad):
        if len(grad) == 4:
            self.z = CurveBallKept.kept.astype(grad.dtype)
        super().update(grad)
        if len(grad) == 4:
            CurveBallKept.kept = self.z


# -- trust regions, KryBall, cubic models -----------------------------------------------------------------------------


def region_step(b, g, radius):
    """The minimizer of g·p + p·Bp/2 in the ball, by bisection on the multiplier; no hard case"""
    w, v = np.linalg.eigh(b)
    c = v.T @ g
    if w[0] > 0 and np.linalg.norm(c / w) <= radius:
        return -v @ (c / w)
    low, high = max(0.0, -w[0]), np.abs(w).max() + np.linalg.norm(g) / radius
    for _ in range(200):
        middle = (low + high) / 2
        with np.errstate(all="ignore"):
            low, high = (middle, high) if np.linalg.norm(c / (w + middle)) > radius else (low, middle)
    return -v @ (c / (w + high))


class RegionScript(Script):
    """Trust-region Newton with Nocedal and Wright's algorithm 4.1"""

    def __init__(self, task, **settings):
        super().__init__(task, **settings)
        self.radius = self.k.initial_radius

    def solve(self, h, g):
        return region_step(h, g, self.radius)

    def trial(self, h, g):
        p = self.solve(h, g)
        return p, g @ p + 0.5 * p @ h @ p

    def hopeless(self, predicted):
        return not predicted < 0

    def at_boundary(self, size):
        return size >= 0.999999 * self.radius

    def update(self, grad):
        p, predicted = self.trial(self.task.hessian(self.x).astype(float), grad.astype(float))
        if self.hopeless(predicted):
            return
        ratio = (self.task.loss(self.x + p) - self.task.loss(self.x)) / predicted
        size = np.linalg.norm(p)
        if ratio < 0.25:
            self.radius = 0.5 * (self.radius if ratio > 0 else min(self.radius, size))
        elif ratio > 0.75 and self.at_boundary(size):
            self.radius = min(2 * self.radius, self.k.maximum_radius)
        self.after(p, ratio > 0)

    def after(self, p, accepted):
        if accepted:
            self.x = (self.x + p).astype(self.x.dtype)


right("trust-region", levels=("one step", "ten steps"))(RegionScript)


@mistake("trust-region", "the Newton step is shortened", "clipped Newton released as a trust-region method")
class ClippedNewton(RegionScript):
    def solve(self, h, g):
        p = -np.linalg.solve(h, g)
        return p * min(1.0, self.radius / np.linalg.norm(p))


@mistake(
    "trust-region",
    "although the step ended inside",
    "radius rules that look at the ratio alone",
)
class GrowsInside(RegionScript):
    def at_boundary(self, size):
        return True


@mistake(
    "trust-region", "the hard case is left out", "the secular equation solved, and nothing else",
    ("one step", "ten steps", "edge cases"),
)  # fmt: skip
class NoHardCase(RegionScript):
    def solve(self, h, g):
        w, v = np.linalg.eigh(h)
        c, pole = v.T @ g, w - w[0] < 1e-12
        blind = not g.any() or np.abs(c[pole]).max() <= 1e-14 * np.linalg.norm(g)
        at_pole = -v @ np.where(pole, 0.0, c / np.where(pole, 1.0, w - w[0]))
        if w[0] < 0 and blind and np.linalg.norm(at_pole) <= self.radius:
            return at_pole
        return region_step(h, g, self.radius)


class KryBallScript(RegionScript):
    """Gradient, projected saddle-free step and momentum, orthonormalized; a trust region in their span"""

    buffers = ("z",)

    def hopeless(self, predicted):
        return predicted == 0

    def directions(self, h, g):
        q, v = np.empty((len(g), 0)), g
        for _ in range(min(self.k.dimension, len(g))):
            rest = v - q @ (q.T @ v)
            rest = rest - q @ (q.T @ rest)
            if np.linalg.norm(rest) <= 1e-10 * np.linalg.norm(v):
                break
            q = np.column_stack([q, rest / np.linalg.norm(rest)])
            v = h @ q[:, -1]
        w, u = np.linalg.eigh(q.T @ h @ q)
        mu = np.maximum(np.abs(w), max(1e-8, 1e-6 * np.abs(w).max()))
        return [g, q @ (u @ ((u.T @ (q.T @ g)) / mu)), self.z]

    def trial(self, h, g):
        if not g.any():
            return 0 * g, 0.0
        basis = np.empty((len(g), 0))
        for d in self.directions(h, g):
            rest = d - basis @ (basis.T @ d)
            rest = rest - basis @ (basis.T @ rest)
            if np.linalg.norm(rest) > 1e-8 * np.linalg.norm(d):
                basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
        model = basis.T @ h @ basis
        y = self.solve(model, basis.T @ g)
        return basis @ y, (basis.T @ g) @ y + 0.5 * y @ model @ y

    def after(self, p, accepted):
        super().after(p, accepted)
        self.z = p if accepted else self.z


right("kryball", levels=("one step", "ten steps"))(KryBallScript)


@mistake("kryball", "", "thesis, Algorithm 4: z gathers gradients instead of holding the last step")
class KryBallPrinted(KryBallScript):
    def update(self, grad):
        self.z = 0.9 * self.z + grad
        super().update(grad)

    def after(self, p, accepted):
        RegionScript.after(self, p, accepted)


@mistake("kryball", "Newton's step of the subspace is shortened", "clipping in the subspace instead of its subproblem")
class KryBallClipped(KryBallScript):
    def solve(self, h, g):
        p = -np.linalg.solve(h, g)
        return p * min(1.0, self.radius / np.linalg.norm(p))


@mistake("kryball", "the momentum is not among the directions", "z kept, orthonormalized, and dropped from the list")
class KryBallForgets(KryBallScript):
    def directions(self, h, g):
        return super().directions(h, g)[:2]


@mistake("cubic", "sigma was taken for L", "L of the Hessian handed over as sigma: their model has L/6, ours sigma/3")
class CubicTakenForL(Script):
    def update(self, grad):
        h, sigma = self.task.hessian(self.x).astype(float), self.k.sigma / 2
        w, v = np.linalg.eigh(h)
        c = v.T @ grad
        low, high = max(0.0, -w[0]), np.abs(w).max() + np.sqrt(sigma * np.linalg.norm(grad)) + 1.0
        for _ in range(200):
            nu = (low + high) / 2
            with np.errstate(all="ignore"):
                low, high = (nu, high) if sigma * np.linalg.norm(c / (w + nu)) > nu else (low, nu)
        self.x = (self.x - v @ (c / (w + high))).astype(self.x.dtype)
