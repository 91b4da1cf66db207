"""The series method with H as a matrix, for the tests of the two optimizers.

It takes H apart into eigenvalues, gets the coefficients from Cauchy's integral and keeps the whole epsilon table.
"""

import numpy as np

from refimpl.problems.quadratic import Quadratic

WEIGHTS = {"shanks": lambda c: 1, "sablonniere": lambda c: c // 2 + 1}
ASTRAY = Quadratic([[9 / 16]])
"""For V = 1, K = 5 and N = 2 Sablonnière's weights overshoot so far that the direction points downhill in g."""


def walk(problem, method, x, steps):
    """Places after each step, and the infos."""
    x = problem.backend.asarray(x)
    state, places, infos = method.init(x), [], []
    for _ in range(steps):
        x, state, info = method.step(problem.at(x), state)
        places.append(np.array(x))
        infos.append(info)
    return np.array(places), infos, state


def coefficients(terms, d):
    """Those of 1/(sqrt(1 - z) + d), by Cauchy's integral over |z| = 1/2."""
    z = 0.5 * np.exp(2j * np.pi * np.arange(256) / 256)
    return (np.fft.fft(1 / (np.sqrt(1 - z) + d)).real / 256)[:terms] * 2.0 ** np.arange(terms)


def corner(sums, order, weight):
    """The last entry of the epsilon table of the last 2N + 1 sums, N = ``order``."""
    rows = sums[-2 * order - 1 :]
    e = {(m, 0): row for m, row in enumerate(rows)} | {(m, -1): 0.0 for m in range(2 * order + 2)}
    for c in range(1, 2 * order + 1):
        for m in range(2 * order + 1 - c):
            d = e[m + 1, c - 1] - e[m, c - 1]
            e[m, c] = e[m + 1, c - 2] + weight(c) * d / (d @ d)
    return e[0, 2 * order]


def dense_direction(method, h, g, v, damping):
    """|H|^{-1} g as ``method`` approximates it, from eigenvalues."""
    values, q = np.linalg.eigh(h)
    square = values**2 + (damping**2 if method.mode == "square" else 0.0)
    c = coefficients(method.terms, damping / np.sqrt(v) if method.mode == "abs" else 0.0)
    powers = (1 - square / v)[:, None] ** np.arange(method.terms)
    sums = np.cumsum((c * powers).T * (q.T @ g), axis=0) @ q.T
    return corner(sums, method.order, WEIGHTS[method.accelerate]) / np.sqrt(v)


def dense_scale(method, h, g, v, damping):
    """The V of a step whose predecessor had ``v``."""
    ratio = np.linalg.norm(h @ h @ g) / np.linalg.norm(g)
    exact = 1.1 * np.abs(np.linalg.eigvalsh(h)).max() ** 2  # eight Lanczos steps exhaust so small a space
    v = {"fixed": v, "ratio": max(method.scale_decay * v, ratio), "lanczos": exact}[method.scale_rule]
    if method.guard and method.mode == "square":  # it watches the matrix of the series, H^2 + d^2
        seen = np.linalg.norm(h @ h @ g + damping**2 * g) / np.linalg.norm(g)
        return 1.1 * seen if seen > v else v
    return v


def dense_walk(problem, method, x, steps):
    """Places after each step, and V."""
    x, v, velocity, seen = np.array(x), method.scale, 0.0, []
    for _ in range(steps):
        point = problem.at(x)
        v = dense_scale(method, point.hessian(), point.gradient, v, method.damping)
        direction = dense_direction(method, point.hessian(), point.gradient, v, method.damping)
        velocity = method.momentum * velocity + method.learning_rate * direction
        x = x - velocity
        seen.append((x, v))
    return [np.array(column) for column in zip(*seen, strict=True)]
