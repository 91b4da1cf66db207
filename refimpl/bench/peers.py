"""The other libraries the package is measured against, each imported where it is asked for.

Where one is missing, :class:`Missing` says so, and the part of the goal that needs it is skipped with that reason.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from refimpl.arrays import Array


class Missing(Exception):
    """A library or a device that is not here."""


def library(name: str, package: str | None = None) -> Any:
    """The module ``name``; :class:`Missing` where ``package`` is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"{package or name} is not installed") from error


# -- curvlinops -------------------------------------------------------------------------------------------------------


def curvlinops_operator(kind: str, module: Any, loss: Any, inputs: Any, targets: Any) -> Callable[[Any], Any]:
    """v -> H v (``"Hessian"``) or G v (``"GGN"``) by curvlinops at the module's own parameters, (n,) -> (n,).

    Its passes refuse BatchNorm's running statistics, which are taken out of a copy: in train mode the function is the
    same without them.
    """
    import copy

    import torch

    operators = library("curvlinops", "curvlinops-for-pytorch")
    plain = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(module))
    build = {"Hessian": operators.HessianLinearOperator, "GGN": operators.GGNLinearOperator}[kind]
    parameters = [p for p in plain.parameters() if p.requires_grad]
    try:
        operator = build(plain, loss, parameters, [(inputs, targets)], check_deterministic=False)
    except TypeError:  # newer releases take the parameters by name
        named = {name: p for name, p in plain.named_parameters() if p.requires_grad}
        operator = build(plain, loss, named, [(inputs, targets)], check_deterministic=False)
    return lambda v: operator @ v


# -- JAX --------------------------------------------------------------------------------------------------------------


def jax(x64: bool = True) -> Any:
    """JAX on one thread of the CPU."""
    if "jax" not in sys.modules:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    found = library("jax")
    found.config.update("jax_enable_x64", x64)
    return found


def jax_series(
    widths: Sequence[int], inputs: Array, targets: Array, *, terms: int, order: int, damping: float, dtype: str
) -> Callable[[Array, float], tuple[Any, Any]]:
    """The series' inner loop as its authors run it: JAX, compiled, the loop over terms unrolled.

    A function of the place (n,) and the last V: the plain and the accelerated direction for a ReLU network with half
    the mean squared error. Each product is a forward-mode derivative of the gradient, written where it is needed; the
    compiler merges what the products at one place share. Damping is added to |H| by the coefficients of
    1/(sqrt(1 - z) + d), V <- max(V, |H^2 g|/|g|), and the table has Wynn's weights, one.

    Source: series paper, algorithm 1 and eqs. 3-5; our own lines.
    """
    jax_ = jax()
    jnp = jax_.numpy
    table, wanted = jnp.asarray(inputs, dtype=dtype), jnp.asarray(targets, dtype=dtype)
    root = [1.0]  # of the series of sqrt(1 - z)
    for k in range(1, terms):
        root.append(root[-1] * (2 * k - 3) / (2 * k))

    def loss(x: Any) -> Any:
        a, start = table, 0
        pairs = list(pairwise(widths))
        for i, (fan_in, fan_out) in enumerate(pairs):
            weight = x[start : start + fan_in * fan_out].reshape(fan_out, fan_in)
            start += fan_in * fan_out
            a = a @ weight.T + x[start : start + fan_out]
            start += fan_out
            a = jax_.nn.relu(a) if i + 1 < len(pairs) else a
        return 0.5 * jnp.mean(jnp.sum((a - wanted.reshape(a.shape)) ** 2, axis=-1))

    def update(x: Any, scale: Any) -> tuple[Any, Any]:
        slope = jax_.grad(loss)
        gradient = slope(x)

        def product(v: Any) -> Any:
            return jax_.jvp(slope, (x,), (v,))[1]

        squared = product(product(gradient))
        v = jnp.maximum(scale, jnp.linalg.norm(squared) / jnp.linalg.norm(gradient))
        d = damping / jnp.sqrt(v)
        c = [1.0 / (1.0 + d)]
        for k in range(1, terms):
            c.append(sum(-root[j] * c[k - j] for j in range(1, k + 1)) / (1.0 + d))
        z, total = gradient, c[0] * gradient
        sums = [total]
        for k in range(1, terms):
            z = z - (squared if k == 1 else product(product(z))) / v
            total = total + c[k] * z
            sums.append(total)
        return total / jnp.sqrt(v), _wynn(sums[-(2 * order + 1) :]) / jnp.sqrt(v)

    return jax_.jit(update)


def _wynn(rows: list[Any]) -> Any:
    below, column = [0.0 * row for row in rows], list(rows)
    while len(column) > 1:
        steps = [b - a for a, b in pairwise(column)]
        below, column = column, [below[i + 1] + step / (step @ step) for i, step in enumerate(steps)]
    return column[0]


# -- pytorch-minimize -------------------------------------------------------------------------------------------------


def torchmin_iterations(method: str, start: Sequence[float], most: int) -> tuple[int, Array]:
    """Iterations and the place where pytorch-minimize's ``method`` ends on Rosenbrock's function, summed over pairs."""
    import torch

    minimize = library("torchmin", "pytorch-minimize").minimize

    def rosenbrock(x: Any) -> Any:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        options: dict[str, Any] = {"max_iter": most, "disp": 0}
        found = minimize(rosenbrock, torch.tensor(start, dtype=torch.float64), method=method, options=options)
    return int(found.nit), found.x.numpy()
