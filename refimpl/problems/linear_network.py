"""The Rahimi–Recht problem: fit a two-layer linear network to a linear map.

The loss is a polynomial of degree four with saddles and flat directions, and its global minima are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.arrays import Array, Backend, as_generator, check_count, check_positive, host_numbers
from refimpl.oracle import Evaluation, Sample
from refimpl.problems.closed_form import LeastSquaresForm, Toy
from refimpl.problems.quadratic import random_orthogonal


class RahimiRecht(Toy):
    """f = meanᵢ |W₂ W₁ xᵢ − A xᵢ|², the parameters being W₁ (hidden, in) and then W₂ (out, hidden), row by row.

    With the inputs' Cholesky factor L Lᵀ = X Xᵀ/samples the loss is |(W₂W₁ − A) L|² in the Frobenius norm: 60
    residuals instead of 10 000, the same f. The model is batched (``x: (..., n)``).

    Parameters
    ----------
    kind : ``"rows"``, the published generator: the entries of A are uniform on [0, 1) and its rows are multiplied
        by linspace(1, 1/condition, out). Only the last row is tiny: the true condition number of A is near 22, not
        ``condition``. ``"svd"``: random singular vectors and true singular values linspace(1, 1/condition, rank).
    condition : the nominal condition number.
    singular_values : for ``"svd"``, the min(in, out) singular values themselves, instead of ``condition``.
    widths : (in, hidden, out), with hidden at least min(in, out).
    samples : number of inputs, drawn from N(0, I); at least ``in`` of them.
    seed : decides A and the inputs (a NumPy Generator is accepted).
    compress : False keeps one residual for each sample and output, scaled by 1/√samples.

    Attributes
    ----------
    target : A, an array (out, in) of the backend.
    condition_number : the true condition number of A.
    minimizers : one global minimizer (loss 0), the balanced factorization of A by its singular value decomposition.
    saddles : the origin. There the gradient is zero and, A not being zero, the Hessian indefinite.

    Raises
    ------
    ValueError
        Unknown kind, widths that cannot represent A, too few samples, singular values that do not fit.

    Source: CurveBall paper, section 4, after Rahimi & Recht (2017); thesis, section 5.2, for the true spectrum.

    >>> problem = RahimiRecht(seed=1)
    >>> problem.n, problem.condition_number < 100
    (96, True)
    """

    name = "rahimi-recht"
    formula = r"\tfrac1N \sum_i \lVert W_2 W_1 x_i - A x_i \rVert^2"

    def __init__(
        self,
        kind: str = "rows",
        condition: float = 1e5,
        *,
        singular_values: Sequence[float] | None = None,
        widths: tuple[int, int, int] = (6, 6, 10),
        samples: int = 1000,
        seed: int | np.random.Generator = 0,
        compress: bool = True,
        backend: Backend | None = None,
    ) -> None:
        if not isinstance(widths, Sequence) or len(widths) != 3:
            raise ValueError(f"widths must be (in, hidden, out), got {widths!r}")
        inputs, hidden, outputs = (check_count("each width", width) for width in widths)
        if hidden < min(inputs, outputs):
            raise ValueError(f"the hidden width must be at least {min(inputs, outputs)} to represent A, got {hidden}")
        check_count("samples", samples, minimum=inputs)
        super().__init__(hidden * (inputs + outputs), backend)
        self.widths = (inputs, hidden, outputs)
        rng = as_generator(seed)
        target = _target(kind, condition, singular_values, inputs, outputs, rng)
        data = rng.standard_normal((inputs, samples)) / np.sqrt(samples)
        self.target = self.backend.asarray(target)
        self.factor = self.backend.asarray(np.linalg.cholesky(data @ data.T) if compress else data)
        spectrum = np.linalg.svd(target, compute_uv=False)
        self.condition_number = float(spectrum[0] / spectrum[-1]) if spectrum[-1] > 0 else float("inf")
        self.minimizers = (_balanced(target, hidden),)
        self.saddles = ((0.0,) * self.n,)

    def initial(self, rng: Any) -> Array:
        """Normal weights of variance 1, (n,)."""
        return self.backend.normal(rng, self.n)

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        return LeastSquaresForm(x, self._residuals, self._jvp, self._vjp, self._bend)

    def layers(self, x: Array) -> tuple[Array, Array]:
        """(..., n) to W₁ (..., hidden, in) and W₂ (..., out, hidden)."""
        inputs, hidden, outputs = self.widths
        reshape, batch = self.backend.xp.reshape, tuple(x.shape[:-1])
        first = reshape(x[..., : hidden * inputs], (*batch, hidden, inputs))
        return first, reshape(x[..., hidden * inputs :], (*batch, outputs, hidden))

    def _residuals(self, x: Array) -> Array:
        w1, w2 = self.layers(x)
        return self._seen(w2 @ w1 - self.target)

    def _jvp(self, x: Array, v: Array) -> Array:
        (w1, w2), (v1, v2) = self.layers(x), self.layers(v)
        return self._seen(v2 @ w1 + w2 @ v1)

    def _vjp(self, x: Array, u: Array) -> Array:
        w1, w2 = self.layers(x)
        back, transpose = self._unseen(u), self.backend.xp.matrix_transpose
        return self._flat(transpose(w2) @ back, back @ transpose(w1))

    def _bend(self, x: Array, u: Array, v: Array) -> Array:
        v1, v2 = self.layers(v)
        back, transpose = self._unseen(u), self.backend.xp.matrix_transpose
        return self._flat(transpose(v2) @ back, back @ transpose(v1))

    def _seen(self, error: Array) -> Array:
        """An error (..., out, in) of the map to the residuals (..., out * k) that the data make of it."""
        product = error @ self.factor
        return self.backend.xp.reshape(product, (*product.shape[:-2], product.shape[-2] * product.shape[-1]))

    def _unseen(self, u: Array) -> Array:
        """The transpose of :meth:`_seen`: (..., out * k) to (..., out, in)."""
        xp = self.backend.xp
        rows = xp.reshape(u, (*u.shape[:-1], self.widths[2], self.factor.shape[1]))
        return rows @ xp.matrix_transpose(self.factor)

    def _flat(self, first: Array, second: Array) -> Array:
        parts = [self.backend.xp.reshape(w, (*w.shape[:-2], w.shape[-2] * w.shape[-1])) for w in (first, second)]
        return self.backend.xp.concat(parts, axis=-1)


def _target(
    kind: str,
    condition: float,
    singular_values: Sequence[float] | None,
    inputs: int,
    outputs: int,
    rng: np.random.Generator,
) -> np.ndarray:
    if check_positive("condition", condition) < 1.0:
        raise ValueError(f"condition must be at least 1, got {condition!r}")
    if kind == "rows":
        if singular_values is not None:
            raise ValueError("singular_values belong to kind='svd'; kind='rows' takes condition")
        scale = np.linspace(1.0, 1.0 / condition, outputs)
        return scale[:, None] * rng.uniform(0.0, 1.0, (outputs, inputs))
    if kind != "svd":
        raise ValueError(f"unknown kind {kind!r}; choose 'rows' or 'svd'")
    rank = min(inputs, outputs)
    values = (
        np.linspace(1.0, 1.0 / condition, rank)
        if singular_values is None
        else host_numbers("singular_values", singular_values)
    )
    if values.shape != (rank,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"singular_values must be {rank} finite numbers of at least zero, got {singular_values!r}")
    left, right = random_orthogonal(outputs, rng), random_orthogonal(inputs, rng)
    return (left[:, :rank] * values) @ right[:, :rank].T


def _balanced(target: np.ndarray, hidden: int) -> tuple[float, ...]:
    """W₁ = √S Vᵀ and W₂ = U √S for the singular value decomposition U S Vᵀ of the target, padded with zeros."""
    left, values, right = np.linalg.svd(target, full_matrices=False)
    rank = values.size
    first, second = np.zeros((hidden, target.shape[1])), np.zeros((target.shape[0], hidden))
    first[:rank] = np.sqrt(values)[:, None] * right
    second[:, :rank] = left * np.sqrt(values)
    return (*first.ravel().tolist(), *second.ravel().tolist())
