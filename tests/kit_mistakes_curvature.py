"""Wrong optimizers as they are published: Newton, saddle-free Newton, the series, Lanczos. See ``kit_mistakes.py``."""

import numpy as np
from kit_mistakes import MISTAKES, Mistake, Script, mistake, right

# -- Newton and saddle-free Newton ------------------------------------------------------------------------------------


def newton_with_magnitudes(gradient, hvp, learning_rate):
    """A plain direction: the "exact Newton" of comparisons that would otherwise end in saddles."""
    h = np.stack([hvp(row) for row in np.eye(len(gradient), dtype=gradient.dtype)])
    w, v = np.linalg.eigh((h + h.T) / 2)
    return -learning_rate * v @ ((v.T @ gradient) / np.abs(w))


MISTAKES.append(
    Mistake("newton", newton_with_magnitudes, "this is saddle-free Newton", "CurveBall paper's Newton", ("one step",))
)


@mistake("newton", "only the diagonal", "AdaHessian-like code: a Jacobi preconditioner called Newton")
class JacobiNewton(Script):
    def update(self, grad):
        self.x -= self.k.learning_rate * grad / np.diag(self.task.hessian(self.x))


@mistake("damped-newton", "Marquardt's form", "recipes that scale the diagonal: h[i, i] *= 1 + lam")
class ScaledDiagonal(Script):
    def update(self, grad):
        h = self.task.hessian(self.x)
        h[np.diag_indices_from(h)] *= 1 + self.k.damping
        self.x -= self.k.learning_rate * np.linalg.solve(h, grad)


@mistake("saddle-free-newton", "before the absolute value", "series paper, sec. 4.1 and D.3: damping is added to H")
class DampedTooEarly(Script):
    def update(self, grad):
        h = self.task.hessian(self.x) + self.k.damping * np.eye(len(grad), dtype=grad.dtype)
        w, v = np.linalg.eigh(h)
        self.x -= self.k.learning_rate * v @ ((v.T @ grad) / np.abs(w))


@mistake("saddle-free-newton", "the square root of H^2 is missing", "solve(H @ H + d^2 I, g), the root forgotten")
class NoRoot(Script):
    def update(self, grad):
        h = self.task.hessian(self.x)
        self.x -= self.k.learning_rate * np.linalg.solve(h @ h + self.k.damping**2 * np.eye(len(grad)), grad)


@mistake("saddle-free-newton", "where d^2 belongs", "released quasi-damped option: its damping is the square already")
class DampingNotSquared(Script):
    def update(self, grad):
        h = self.task.hessian(self.x)
        w, v = np.linalg.eigh(h @ h + self.k.damping * np.eye(len(grad)))
        self.x -= self.k.learning_rate * v @ ((v.T @ grad) / np.sqrt(w))


@mistake(
    "saddle-free-newton", "outside the root, as in mode 'abs'", "released series code: (|H| + d I)^{-1}, errata E14"
)
class ReleasedDamping(Script):
    def update(self, grad):
        w, v = np.linalg.eigh(self.task.hessian(self.x))
        self.x -= self.k.learning_rate * v @ ((v.T @ grad) / (np.abs(w) + self.k.damping))


# Eigenvectors have no sign, so after a few steps this walk depends on the last digit.
@mistake("saddle-free-newton", "V and V^T are interchanged", "eigh's columns taken for rows", levels=("one step",))
class EigenvectorRows(Script):
    def update(self, grad):
        w, rows = np.linalg.eigh(self.task.hessian(self.x))
        scale = np.sqrt(w**2 + self.k.damping**2)
        self.x -= self.k.learning_rate * sum((row @ grad) / s * row for row, s in zip(rows, scale, strict=True))


# -- the series and Lanczos -------------------------------------------------------------------------------------------


class SeriesScript(Script):
    """partial sums of V^{-1/2} sum_k c_k (I - H^2/V)^k g"""

    def ratio(self, k):
        return (2 * k - 1) / (2 * k)

    def apply(self, a):
        return self.task.hvp(self.x, self.task.hvp(self.x, a)) / self.k.scale

    def factor(self):
        return self.k.scale**-0.5

    def sums(self, grad):
        a, total = grad.copy(), grad.copy()
        sums = [total]
        for k in range(1, self.k.terms):
            a = self.ratio(k) * (a - self.apply(a))
            total = total + a
            sums.append(total)
        return sums

    def update(self, grad):
        self.x -= self.k.learning_rate * self.factor() * self.sums(grad)[-1]


right("series-sfn")(SeriesScript)


@mistake("series-sfn", "one step late", "series paper, eq. 49, errata E1 (its 0/0 at k = 0 read as 1)")
class SeriesPrinted(SeriesScript):
    def ratio(self, k):
        j = k - 1
        return 1.0 if j == 0 else (4 * j**2 - 2 * j) / (4 * j**2)


@mistake("series-sfn", "the factor 1/sqrt(V) in front", "the sum returned without the scale that V^{-1/2} is")
class SeriesNoFactor(SeriesScript):
    def factor(self):
        return 1.0


@mistake("series-sfn", "H^2 is divided by V^2", "code in which V normalizes H, not H^2")
class SeriesSquaredScale(SeriesScript):
    def apply(self, a):
        scaled = self.task.hvp(self.x, a) / self.k.scale
        return self.task.hvp(self.x, scaled) / self.k.scale


@mistake(
    "series-sfn", "plain Shanks", "released util.py: the option's name is misspelt where it is compared, errata E16",
    settings=(("terms", 9), ("order", 2)),
)  # fmt: skip
class SeriesMisspelt(SeriesScript):
    def update(self, grad, option="sablonniere"):
        table, last = self.sums(grad)[-5:], [np.zeros_like(grad)] * 5
        for c in range(1, 5):
            weight = c // 2 + 1 if option == "sabblonniere" else 1
            new = []
            for m in range(len(table) - 1):
                d = table[m + 1] - table[m]
                new.append(last[m + 1] + weight * d / (d @ d))
            table, last = new, table
        self.x -= self.k.learning_rate * self.factor() * table[0]


class LanczosScript(Script):
    """|g| Q (|T| + d)^{-1} e_1, written by hand"""

    def off_diagonal(self, w):
        return np.linalg.norm(w)

    def right_side(self, grad):
        return np.linalg.norm(grad)

    def count(self):
        return self.k.products

    def inverse(self, mu):
        return 1 / (np.abs(mu) + self.k.damping)

    def update(self, grad):
        size = np.linalg.norm(grad)
        if size == 0:
            return
        q, alpha, beta = [grad / size], [], []
        while True:
            w = self.task.hvp(self.x, q[-1])
            scale = np.linalg.norm(w)
            alpha.append(w @ q[-1])
            for _ in range(2):
                for v in q:
                    w = w - (v @ w) * v
            if len(alpha) == min(self.count(), len(grad)) or np.linalg.norm(w) <= 1e-10 * scale:
                break
            beta.append(self.off_diagonal(w))
            q.append(w / np.linalg.norm(w))
        t = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
        mu, u = np.linalg.eigh(t)
        y = u @ (self.inverse(mu) * u[0]) * self.right_side(grad)
        self.x -= (self.k.learning_rate * np.stack(q, axis=1) @ y).astype(grad.dtype)


right("lanczos-sfn")(LanczosScript)


@mistake("lanczos-sfn", "the factor |g| is forgotten", "thesis 4.9 and 4.12")
class LanczosNoLength(LanczosScript):
    def right_side(self, grad):
        return 1.0


@mistake("lanczos-sfn", "beta^2 instead of beta", "w @ w stored where its root belongs")
class LanczosSquaredBeta(LanczosScript):
    def off_diagonal(self, w):
        return w @ w


@mistake("lanczos-sfn", "one Lanczos step too few", "for j in range(1, m)")
class LanczosShort(LanczosScript):
    def count(self):
        return self.k.products - 1


@mistake("lanczos-sfn", "the absolute value is forgotten", "FOM-like code: the Ritz values inverted as they are")
class LanczosSigned(LanczosScript):
    def inverse(self, mu):
        return 1 / (mu + self.k.damping)
