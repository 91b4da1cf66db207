"""Functions of a small symmetric matrix through its eigenvalues: |H|, |H|^{-1} g, and what to do near zero.

Everything here is dense and exact: one ``eigh`` of an (n, n) matrix. Leading axes ``(..., n, n)`` are many matrices
at once. :func:`apply_inverse_abs` and :func:`absolute` check what a user gives them; the other functions are the
parts that methods call inside a step, where nothing is checked, nothing is read back to the host, and a matrix that
is not finite gives NaN instead of an exception.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from refimpl.arrays import (
    Array,
    all_finite,
    backend_of,
    check_array,
    check_positive,
    check_symmetric,
    dtype_name,
    machine_epsilon,
    namespace,
    widened,
)

Mode = Literal["none", "abs", "square", "shift"]


class Spectrum(NamedTuple):
    """Eigenvalues (..., n), ascending, and eigenvectors (..., n, n), one per column."""

    eigenvalues: Array
    eigenvectors: Array


def apply_inverse_abs(
    matrix: Array,
    gradient: Array,
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    threshold: float = 0.0,
    replacement: float | None = None,
) -> Array:
    """The saddle-free direction |H|^{-1} g, exactly.

    Parameters
    ----------
    matrix : H, symmetric, (..., n, n).
    gradient : g, (..., n), of the same library, dtype and leading axes.
    mode, damping, threshold, replacement : how small eigenvalues are treated, see :func:`inverse_magnitudes`.

    Returns
    -------
    Array
        (..., n), in the dtype and on the device of ``matrix``. A descent direction is its negative.

    Raises
    ------
    ValueError
        A matrix that is not square, floating, finite and symmetric; a gradient that does not match it or is not
        finite; knobs that :func:`check_rule` refuses.

    Notes
    -----
    Cost: one eigendecomposition, O(n^3), and no products with H beyond those that formed it.

    Source: Dauphin et al. (2014), sec. 4 and algorithm 1, for |H|^{-1} g; the rules: series paper, sec. 4.1.

    >>> import numpy as np
    >>> apply_inverse_abs(np.diag([2.0, -4.0]), np.array([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    check_rule(mode, damping, threshold, replacement)
    _check_matrix(matrix)
    n, batch = matrix.shape[-1], tuple(matrix.shape[:-2])
    check_array("gradient", gradient, backend_of(matrix), n, batch or None)
    if not all_finite(gradient):
        raise ValueError("gradient must be finite, but it holds NaN or infinity")
    spectrum = eigen(matrix)
    inverse = inverse_magnitudes(
        spectrum.eigenvalues, mode=mode, damping=float(damping), threshold=threshold, replacement=replacement
    )
    return apply(spectrum, inverse, gradient)


def absolute(matrix: Array) -> Array:
    """|H|: the same eigenvectors, every eigenvalue replaced by its magnitude. (..., n, n) -> (..., n, n).

    It is the square root of H^2. Raises a ValueError like :func:`apply_inverse_abs`. Cost: one eigendecomposition.

    >>> import numpy as np
    >>> absolute(np.diag([2.0, -4.0])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """
    _check_matrix(matrix)
    xp = namespace(matrix)
    eigenvalues, eigenvectors = eigen(matrix)
    scaled = eigenvectors * xp.expand_dims(xp.abs(eigenvalues), axis=-2)
    return xp.matmul(scaled, xp.matrix_transpose(eigenvectors))


def eigen(matrix: Array) -> Spectrum:
    """Eigenvalues and eigenvectors of symmetric matrices (..., n, n); never raises on what they hold.

    ``matrix`` is taken to be symmetric as it is: only one triangle is read. Where it is not finite the eigenvalues
    are NaN and the eigenvectors those of the identity, for each matrix of a batch by itself.
    """
    xp = namespace(matrix)
    n = matrix.shape[-1]
    usable = xp.all(xp.all(xp.isfinite(matrix), axis=-1), axis=-1)
    # Libraries disagree on NaN (NumPy returns NaN, Torch raises), so `eigh` never sees one.
    identity = xp.eye(n, dtype=matrix.dtype, device=backend_of(matrix).device)
    result = _eigh(xp.where(usable[..., None, None], matrix, identity))
    nan = xp.full_like(result[0], float("nan"))
    return Spectrum(xp.where(usable[..., None], result[0], nan), result[1])


def _eigh(matrix: Array) -> tuple[Array, Array]:
    """``eigh``; in float64 where LAPACK gives up in float32, as it can where many eigenvalues are zero; else NaN."""
    xp = namespace(matrix)
    for one in (matrix, widened(matrix)):
        try:
            values, vectors = xp.linalg.eigh(one)
        except Exception as error:  # each library has an exception of its own
            if not type(error).__name__.endswith("LinAlgError"):
                raise
            continue
        return xp.astype(values, matrix.dtype), xp.astype(vectors, matrix.dtype)
    identity = xp.eye(matrix.shape[-1], dtype=matrix.dtype, device=backend_of(matrix).device)
    return xp.full(matrix.shape[:-1], float("nan"), dtype=matrix.dtype, device=backend_of(matrix).device), (
        xp.zeros_like(matrix) + identity
    )


def apply(spectrum: Spectrum, values: Array, vector: Array) -> Array:
    """Q diag(values) Q^T v for ``spectrum`` with eigenvectors Q: (..., n), (..., n) -> (..., n)."""
    xp = namespace(vector)
    basis = spectrum.eigenvectors
    coordinates = xp.matmul(xp.matrix_transpose(basis), vector[..., None])
    return xp.matmul(basis, values[..., None] * coordinates)[..., 0]


def inverse_magnitudes(
    eigenvalues: Array,
    *,
    mode: Mode = "none",
    damping: Any = 0.0,
    threshold: float = 0.0,
    replacement: float | None = None,
) -> Array:
    """The factor that each eigencomponent of the gradient gets: (..., n) -> (..., n), all at least zero.

    ============  =======================================================  =======================================
    mode          factor for eigenvalue h, damping d                       remark
    ============  =======================================================  =======================================
    ``"none"``    ``1/|h|``, or ``1/replacement`` if ``|h| <= threshold``  zeros are left out, see below
    ``"abs"``     ``1/(|h| + d)``                                          damps ``|H|``: always invertible
    ``"square"``  ``1/sqrt(h^2 + d^2)``                                    smooth in h
    ``"shift"``   ``1/|h + d|``                                            only to demonstrate: singular at h = -d
    ============  =======================================================  =======================================

    **An eigenvalue of zero** has no inverse. Without damping, every |h| at or below the larger of ``threshold`` and
    n·eps·max|h| (where rounding decides what it is) becomes ``replacement``; with ``replacement=None`` its component
    is left out, so the result is the pseudo-inverse |H|^+ g: finite, of least norm, and blind to a slope along a
    direction in which the curvature vanishes. With positive damping nothing is left out.

    ``damping`` may be an array of the leading shape (...), one value per run.

    Source: threshold and replacement as in the series paper's exact method (sec. 4.1); |h| is compared with <=.

    >>> import numpy as np
    >>> inverse_magnitudes(np.array([-2.0, 0.0, 1.0])).tolist()
    [0.5, 0.0, 1.0]
    >>> inverse_magnitudes(np.array([-2.0, 0.0, 1.0]), replacement=10.0).tolist()
    [0.5, 0.1, 1.0]
    """
    xp = namespace(eigenvalues)
    magnitudes = xp.abs(eigenvalues)
    undamped = isinstance(damping, int | float) and damping == 0
    if not isinstance(damping, int | float):
        damping = damping[..., None]
    if mode == "shift":
        return xp.abs(reciprocal(eigenvalues + damping))
    if not undamped:
        denominators = magnitudes + damping if mode == "abs" else xp.sqrt(magnitudes**2 + damping**2)
        return reciprocal(denominators, cut=0.0)
    cut = xp.clip(rounding_level(eigenvalues), min=threshold)
    if replacement is not None:
        magnitudes = xp.where(magnitudes <= cut, xp.full_like(magnitudes, replacement), magnitudes)
        return reciprocal(magnitudes, cut=0.0)
    return reciprocal(magnitudes, cut=cut)


def reciprocal(values: Array, cut: Any = None) -> Array:
    """1/values, and 0 where |values| <= cut: (..., n) -> (..., n), never infinite, NaN where ``values`` is NaN.

    ``cut=None`` means n·eps·max|values|: with eigenvalues for ``values`` this is the pseudo-inverse.
    """
    xp = namespace(values)
    if cut is None:
        cut = rounding_level(values)
    dropped = xp.abs(values) <= cut
    inverse = 1.0 / xp.where(dropped, xp.ones_like(values), values)
    return xp.where(dropped, xp.zeros_like(values), inverse)


def rounding_level(eigenvalues: Array) -> Array:
    """n·eps·max|eigenvalue|, (..., n) -> (..., 1): below it an eigenvalue cannot be told from zero."""
    xp = namespace(eigenvalues)
    n = eigenvalues.shape[-1]
    return n * machine_epsilon(eigenvalues) * xp.max(xp.abs(eigenvalues), axis=-1, keepdims=True)


def check_rule(mode: str, damping: float, threshold: float, replacement: float | None) -> None:
    """Refuse knobs of :func:`inverse_magnitudes` that are wrong or contradict one another (ValueError)."""
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}; choose one of {list(get_args(Mode))}")
    check_positive("damping", damping, zero_allowed=True)
    check_positive("threshold", threshold, zero_allowed=True)
    if replacement is not None:
        check_positive("replacement", replacement)
    if mode == "none" and damping > 0:
        raise ValueError(f"damping={damping!r} has no effect with mode 'none'; choose mode 'abs' or 'square'")
    if mode != "none" and (threshold > 0 or replacement is not None):
        raise ValueError(
            f"threshold and replacement belong to mode 'none'; mode {mode!r} treats small eigenvalues by damping"
        )


def _check_matrix(matrix: Any) -> None:
    if dtype_name(getattr(matrix, "dtype", None)) not in ("float32", "float64"):
        kind = getattr(matrix, "dtype", "no dtype")
        raise ValueError(f"matrix must be an array of float32 or float64, got {type(matrix).__name__} of {kind}")
    check_symmetric("matrix", matrix)
