"""Libraries of curvature products and of solvers in JAX, for :mod:`refimpl.verify.third_party`.

They are run on fewer levels of the kit than others: each product of curvlinops sets its transformations up again, and
JAX compiles each solver.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from refimpl.verify.third_party import Host, Peer, StepOf, attribute, in_jax

# -- curvlinops -------------------------------------------------------------------------------------------------------


def _hessian_operator(task: Any, x: Host) -> Any:
    """curvlinops' Hessian of the task's loss, as of a model whose one output is the loss."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = torch.nn.Parameter(torch.from_numpy(x.copy()))

        def forward(self, inputs: Any) -> Any:
            return task.torch_loss(self.x).reshape(1, 1) * inputs

    class Itself(torch.nn.Module):
        reduction = "sum"

        def forward(self, outputs: Any, targets: Any) -> Any:
            return outputs.sum()

    model = Model()
    task.torch_loss(model.x)  # what the task keeps must not be made inside a transformation
    one = torch.ones((1, 1), dtype=model.x.dtype)
    data = [(one, one)]
    return attribute("curvlinops", "HessianLinearOperator")(model, Itself(), [model.x], data, check_deterministic=False)


def _eigh_of_operator(task: Any, x: Host, *, damping: float, mode: str, learning_rate: float) -> Host:
    """All products with the unit vectors, then eigenvalues."""
    import torch

    h = _hessian_operator(task, x) @ torch.eye(task.n, dtype=torch.from_numpy(x).dtype)
    values, vectors = np.linalg.eigh(0.5 * (h + h.T).detach().numpy().astype(float))
    return -learning_rate * (vectors @ (vectors.T @ task.gradient(x) / np.sqrt(values**2 + damping**2)))


def _cg_inverse(task: Any, x: Host, *, damping: float, learning_rate: float) -> Host:
    import torch

    operators, h = attribute("curvlinops", "CGInverseLinearOperator"), _hessian_operator(task, x)
    identity = attribute("curvlinops.examples", "IdentityLinearOperator")([(task.n,)], h.device, h.dtype)
    inverse = operators(h + damping * identity, tolerance=1e-12, max_iter=2 * task.n, max_tridiag_iter=0)
    return -learning_rate * np.asarray((inverse @ torch.from_numpy(task.gradient(x))).detach())


_CURVLINOPS = partial(Peer, package="curvlinops-for-pytorch", modules=("torch", "curvlinops"), levels=("one step",))
OPERATORS = (
    _CURVLINOPS("curvlinops.HessianLinearOperator", method="saddle-free-newton",
                make=lambda: StepOf(_eigh_of_operator)),
    _CURVLINOPS("curvlinops.CGInverseLinearOperator", method="damped-newton", make=lambda: StepOf(_cg_inverse),
                differs="directions of negative curvature are passed over: the matrix has to be positive definite"),
)  # fmt: skip

# -- JAX: matfree, optimistix -----------------------------------------------------------------------------------------


_SIZE = 6
"""Everything is given to JAX in this size, so that it compiles each solver once: what is added asks for no step."""


def _padded(matrix: Host, vector: Host) -> tuple[Host, Host]:
    """A square or rectangular matrix with ones below its diagonal's end, and a vector with zeros, in float64."""
    rows, columns = matrix.shape
    more = _SIZE - columns
    wide = np.zeros((2 * _SIZE if rows != columns else _SIZE, _SIZE))
    wide[:rows, :columns] = matrix
    wide[rows : rows + more, columns:] = np.eye(more)
    return wide, np.concatenate([vector, np.zeros(len(wide) - rows)])


@cache
def _descent_in_jax() -> Callable[..., Any]:
    import jax
    import optimistix

    def solve(rate: Any, h: Any, g: Any) -> Any:
        solver: Any = optimistix.GradientDescent(rate, rtol=0.0, atol=0.0)
        # The first of its steps only looks at the start.
        found: Any = optimistix.minimise(
            lambda y, _: y @ g + 0.5 * y @ (h @ y), solver, 0.0 * g, max_steps=2, throw=False
        )
        return found.value

    return jax.jit(solve)


def _optimistix_descent(task: Any, x: Host, *, learning_rate: float) -> Host:
    h, g = _padded(task.hessian(x), task.gradient(x))
    return in_jax(_descent_in_jax(), learning_rate, h, g)[: task.n]


@cache
def _least_squares_in_jax(name: str) -> Callable[..., Any]:
    import jax
    import optimistix

    def solve(j: Any, r: Any) -> Any:
        solver = getattr(optimistix, name)(rtol=0.0, atol=0.0)
        start = 0.0 * j[0]
        return optimistix.least_squares(lambda y, _: r + j @ y, solver, start, max_steps=2, throw=False).value

    return jax.jit(solve)


def _optimistix_least_squares(name: str) -> Callable[..., Host]:
    """One step from the residuals L^T J y + L^{-1} c, where C = L L^T is the Hessian of the outputs' loss and c its
    gradient: half their square has the gradient J^T c and the Gauss–Newton matrix J^T C J."""

    def move(task: Any, x: Host, *, damping: float, learning_rate: float) -> Host:
        size = len(task.outputs(x))
        root = np.linalg.cholesky(np.stack([task.output_hvp(x, u) for u in np.eye(size)]).astype(float))
        jacobian = np.stack([task.jvp(x, v) for v in np.eye(task.n)], axis=1).astype(float)
        right = np.linalg.solve(root, task.output_gradient(x).astype(float))
        return in_jax(_least_squares_in_jax(name), *_padded(root.T @ jacobian, right))[: task.n]

    return move


@cache
def _lanczos_in_jax(products: int, damping: float) -> Callable[..., Any]:
    """1/(|H| + d) g by matfree, compiled."""
    import jax
    from matfree import decomp, funm

    inverse = funm.dense_funm_sym_eigh(lambda value: 1.0 / (abs(value) + damping))
    apply = funm.funm_lanczos_sym(inverse, decomp.tridiag_sym(products, reortho="full"))
    return jax.jit(lambda h, g: apply(lambda v, matrix: matrix @ v, g, h))


def _matfree(task: Any, x: Host, *, products: int, damping: float, mode: str, learning_rate: float) -> Host:
    h, g = _padded(task.hessian(x), task.gradient(x))
    return -learning_rate * in_jax(_lanczos_in_jax(min(products, task.n), damping), h, g)[: task.n]


_OPTIMISTIX = partial(Peer, package="optimistix", modules=("jax", "optimistix"), levels=("one step",))
SOLVERS = (
    Peer("matfree.funm.funm_lanczos_sym", package="matfree", modules=("jax", "matfree"), method="lanczos-sfn",
         make=lambda: StepOf(_matfree), levels=("one step", "edge cases"),
         differs="a gradient of zero gives NaN: the first Lanczos vector is g/|g|"),
    _OPTIMISTIX("optimistix.GradientDescent", method="gradient-descent", make=lambda: StepOf(_optimistix_descent)),
    _OPTIMISTIX("optimistix.GaussNewton", method="gauss-newton", settings={"damping": 0.0, "learning_rate": 1.0},
                make=lambda: StepOf(_optimistix_least_squares("GaussNewton"))),
    _OPTIMISTIX("optimistix.LevenbergMarquardt", method="gauss-newton", settings={"damping": 1.0, "learning_rate": 1.0},
                make=lambda: StepOf(_optimistix_least_squares("LevenbergMarquardt"))),
)  # fmt: skip
