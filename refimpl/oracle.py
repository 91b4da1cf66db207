"""What a method may ask of a loss.

A :class:`Problem` is a loss with its data. ``problem.at(x, sample)`` gives a :class:`Point`: one place, one
sample, and everything an optimizer may want to know there. A Point computes each quantity at most once and counts
what it computed, because the book compares methods by work, which does not depend on the machine.

A new problem implements :class:`Evaluation` (the mathematics at one place); Point adds the checks at the door, the
memory and the counting, in one place for every problem.

Shapes: ``x, gradient, v, H v: (n,)``; outputs and vectors in output space ``(o,)``. Problems that say
``batched = True`` accept leading axes ``(..., n)``: many runs in one program.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from refimpl.arrays import Array, Backend, all_finite, check_array, get_backend
from refimpl.counts import Counts, KroneckerFactors

__all__ = ["Counts", "Evaluation", "KroneckerFactors", "Point", "Problem", "Sample"]

Sample = Any
"""What ``problem.draw`` returned: a minibatch, a noise value, or None. Opaque to every optimizer."""


class Evaluation(ABC):
    """The mathematics of a loss at one place and one sample. Implemented by problems, used only by Point.

    ``hessian`` may return None where there is no route cheaper than n products. The output-space functions exist
    only where ``has_outputs`` is true: the loss is then L(phi(x)) with L convex in the outputs phi.
    """

    has_outputs: ClassVar[bool] = False

    @abstractmethod
    def loss(self) -> Array:
        """The loss, shape () (or the batch shape)."""

    @abstractmethod
    def gradient(self) -> Array:
        """The gradient, shape (n,)."""

    @abstractmethod
    def hvp(self, v: Array) -> Array:
        """The product of the Hessian with v, shape (n,)."""

    def hessian(self) -> Array | None:
        """The Hessian (n, n), or None to have it built from products."""
        return None

    def loss_at(self, x: Array) -> Array | None:
        """The loss at another place on the same sample, or None to have the problem gather the sample again."""
        return None

    def outputs(self) -> Array:
        """The outputs phi(x), shape (o,)."""
        raise NotImplementedError

    def output_gradient(self) -> Array:
        """dL/dphi, shape (o,)."""
        raise NotImplementedError

    def output_hvp(self, u: Array) -> Array:
        """(d2L/dphi2) u, shape (o,)."""
        raise NotImplementedError

    def jvp(self, v: Array) -> Array:
        """(dphi/dx) v, shape (o,): one forward-mode pass."""
        raise NotImplementedError

    def vjp(self, u: Array) -> Array:
        """(dphi/dx)^T u, shape (n,): one reverse-mode pass."""
        raise NotImplementedError

    def sampled_output_gradient(self, rng: Any, likelihood: str | None) -> tuple[Array, int]:
        """dL/dphi (o,) for targets drawn from the model's own prediction, and how many rows L is the mean of.

        ``likelihood`` names the distribution where the loss does not tell it. ValueError where nothing does.
        """
        raise ValueError(
            f"{type(self).__name__} has no likelihood, so no targets can be drawn from its predictions; use a network "
            "with a loss, or estimator='hutchinson'"
        )

    def kronecker_factors(self) -> tuple[list[KroneckerFactors], Counts] | None:
        """The factors of every layer and what they cost; None where the parameters are not those of layers."""
        return None


class Problem(ABC):
    """A loss with its data, its starting points and its samples.

    Parameters
    ----------
    n : number of parameters.
    backend : where arrays live (:func:`refimpl.arrays.get_backend`); NumPy float64 by default.
    """

    name: str = ""
    batched: ClassVar[bool] = False

    def __init__(self, n: int, backend: Backend | None = None) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"a problem needs at least one parameter, got n={n!r}")
        if backend is not None and not isinstance(backend, Backend):
            raise ValueError(f"backend must come from get_backend, got {backend!r}; write get_backend(name, dtype)")
        self.n = n
        self.backend = backend if backend is not None else get_backend("numpy")

    @abstractmethod
    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        """The mathematics at ``x`` for ``sample``. Called by :meth:`at`, which has checked and copied ``x``."""

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the tensors that x is made of, in its order; one vector of n numbers where nothing is known."""
        return ((self.n,),)

    @abstractmethod
    def initial(self, rng: Any) -> Array:
        """A starting point, shape (n,), drawn from ``rng`` (a NumPy Generator)."""

    def draw(self, rng: Any) -> Sample:
        """One sample: a minibatch, a noise value, or None for a loss without randomness."""
        return None

    def at(self, x: Array, sample: Sample = None) -> Point:
        """The oracle at ``x`` for one sample. ``x`` is copied: later changes to it do not reach the Point.

        Raises
        ------
        ValueError
            ``x`` has the wrong shape, dtype or library.
        """
        self.check_place(x)
        return Point(self, self.copy(x), sample)

    def loss(self, x: Array, sample: Sample = None) -> Array:
        """The loss at ``x`` on ``sample``: no graph, no side effect, not counted."""
        self.check_place(x)
        return self.evaluation(self.copy(x), sample).loss()

    def evaluate(self, x: Array) -> Mapping[str, Any]:
        """Noise-free loss, and whatever else the problem reports (accuracy, test loss …). Outside the counts."""
        return {"loss": self.loss(x)}

    def to_layers(self, v: Array) -> list[Array]:
        """``v`` (..., n) as one matrix [weight | bias] per layer, (..., fan_out, fan_in + 1); ValueError if none."""
        raise ValueError(self._no_layers())

    def from_layers(self, layers: Sequence[Array]) -> Array:
        """The inverse of :meth:`to_layers`: (..., n)."""
        raise ValueError(self._no_layers())

    def _no_layers(self) -> str:
        return f"{type(self).__name__} has no layers, so no Kronecker factors; use MLP or a module of Linear layers"

    def check_place(self, x: Any, name: str = "x") -> None:
        """A ValueError unless ``x`` is a place of this problem."""
        batch = tuple(x.shape[:-1]) if self.batched and getattr(x, "ndim", 0) > 1 else None
        check_array(name, x, self.backend, self.n, batch)

    def copy(self, x: Array) -> Array:
        """A copy of ``x`` that shares no memory with it."""
        return self.backend.xp.asarray(x, copy=True)


class Point:
    """Everything a method may ask at one place, for one sample. Made by :meth:`Problem.at`.

    Attributes are computed when first asked and remembered. ``counts`` says what that has cost so far.
    """

    def __init__(self, problem: Problem, x: Array, sample: Sample) -> None:
        self.problem = problem
        self.x = x
        self.sample = sample
        self._evaluation = problem.evaluation(x, sample)
        self._known: dict[str, Any] = {}
        self._charged: set[str] = set()
        self._extra = Counts()
        self._beside: list[Point] = []

    # -- the loss and its derivatives ---------------------------------------------------------------------------

    @property
    def loss(self) -> Array:
        """The loss, a 0-d array. Cost: one forward pass, nothing more if the gradient is asked here too."""
        return self._ask("loss", self._evaluation.loss)

    @property
    def gradient(self) -> Array:
        """The gradient (n,). Cost: one gradient."""
        return self._ask("gradient", self._evaluation.gradient)

    def hvp(self, v: Array) -> Array:
        """The Hessian times ``v`` (n,). Cost: one product; the same for every further vector."""
        self._check_vector("v", v)
        self._extra += Counts(hvp=1)
        return self._evaluation.hvp(v)

    def hessian(self) -> Array:
        """The dense Hessian (n, n), symmetric. Cost: n products. For small n only."""
        return self._once("hessian", self._dense_hessian)

    def loss_at(self, x_trial: Array) -> Array:
        """The loss at another place on the same sample: what a ratio of actual to predicted decrease needs."""
        self.problem.check_place(x_trial, "x_trial")
        self._extra += Counts(loss=1)
        found = self._evaluation.loss_at(x_trial)
        return self.problem.loss(x_trial, self.sample) if found is None else found

    def beside(self, x_trial: Array) -> Point:
        """The oracle at another place on the same sample, for a search that needs gradients. Its cost counts here."""
        self.problem.check_place(x_trial, "x_trial")
        other = Point(self.problem, self.problem.copy(x_trial), self.sample)
        self._beside.append(other)
        return other

    # -- where the loss is a convex function of outputs ---------------------------------------------------------

    @property
    def has_outputs(self) -> bool:
        """Whether the loss is a convex function of outputs, so that Gauss–Newton products exist."""
        return type(self._evaluation).has_outputs

    @property
    def outputs(self) -> Array:
        """The outputs phi(x), flattened to (o,)."""
        self._require_outputs()
        return self._ask("outputs", self._evaluation.outputs)

    @property
    def output_gradient(self) -> Array:
        """dL/dphi, (o,)."""
        self._require_outputs()
        return self._ask("output_gradient", self._evaluation.output_gradient)

    def output_hvp(self, u: Array) -> Array:
        """(d2L/dphi2) u, (o,) -> (o,). Costs no pass through the model."""
        self._check_output("u", u)
        return self._evaluation.output_hvp(u)

    def jvp(self, v: Array) -> Array:
        """(dphi/dx) v, (n,) -> (o,). Cost: one forward-mode pass."""
        self._require_outputs()
        self._check_vector("v", v)
        self._extra += Counts(jvp=1)
        return self._evaluation.jvp(v)

    def vjp(self, u: Array) -> Array:
        """(dphi/dx)^T u, (o,) -> (n,). Cost: one reverse-mode pass."""
        self._check_output("u", u)
        self._extra += Counts(vjp=1)
        return self._evaluation.vjp(u)

    def ggnvp(self, v: Array) -> Array:
        """The generalized Gauss–Newton matrix times ``v``. Cost: one forward- and one reverse-mode pass.

        Source: Schraudolph (2002), sec. 3: G v = J^T (d2L/dphi2) J v.
        """
        product = self.vjp(self._evaluation.output_hvp(self.jvp(v)))
        self._extra += Counts(ggnvp=1)
        return product

    def sampled_gradient(self, rng: Any, likelihood: str | None = None) -> tuple[Array, int]:
        """The gradient (n,) of the mean loss for targets drawn from the model's own prediction, and its rows N.

        N times the square of the gradient, entry by entry, has the diagonal of the Gauss–Newton matrix as its mean.

        Parameters
        ----------
        rng : a NumPy Generator; the same numbers on every backend, and for every run of a batch.
        likelihood : ``"categorical"``, ``"gaussian"`` (unit variance) or ``"bernoulli"``, where the loss is a function
            that does not tell it; otherwise None.

        Raises
        ------
        ValueError
            No outputs; a likelihood that is not known, or another one than that of the loss.

        Cost: one reverse-mode pass (and the forward pass, where the gradient is not asked as well).

        Source: Liu et al. (2024), sec. 2.3, after Schraudolph (2002).
        """
        self._require_outputs()
        _ = self.outputs  # the forward pass is charged once, whoever asks
        slope, rows = self._evaluation.sampled_output_gradient(rng, likelihood)
        return self.vjp(slope), rows

    def kronecker_factors(self) -> list[KroneckerFactors]:
        """The Kronecker factors of every layer, in the order of ``problem.to_layers``.

        Cost: one reverse-mode pass per output of the network (plus a forward pass where activations are not kept).
        Raises a ValueError where the problem has no layers.
        """
        return self._once("kronecker_factors", self._kronecker_factors)

    # -- bookkeeping --------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        """What has been asked here so far. A forward pass without a gradient is a loss, whatever of it was asked."""
        gradient = "gradient" in self._charged
        here = self._extra + Counts(loss=int(bool(self._charged) and not gradient), gradient=int(gradient))
        return sum((other.counts for other in self._beside), here)

    def peek(self) -> tuple[Array, Array]:
        """Loss and gradient for a run's record. Not counted, unless they are asked for as well."""
        gradient = self._once("gradient", self._evaluation.gradient)
        return self._once("loss", self._evaluation.loss), gradient

    @property
    def known_gradient(self) -> Array | None:
        """The gradient where it has been computed here, else None. Costs nothing."""
        return self._known.get("gradient")

    def is_finite(self) -> bool:
        """Whether loss and gradient are finite (reads back to the host)."""
        return all_finite(self.loss, self.gradient)

    def _ask(self, key: str, compute: Any) -> Any:
        self._charged.add(key)
        return self._once(key, compute)

    def _once(self, key: str, compute: Any) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def _kronecker_factors(self) -> list[KroneckerFactors]:
        found = self._evaluation.kronecker_factors()
        if found is None:
            raise ValueError(self.problem._no_layers())
        factors, cost = found
        self._extra += cost
        return factors

    def _dense_hessian(self) -> Array:
        self._extra += Counts(hvp=self.problem.n)
        dense = self._evaluation.hessian()
        if dense is not None:
            return dense
        xp = self.problem.backend.xp
        identity = self.problem.backend.eye(self.problem.n)
        units = (xp.broadcast_to(identity[i, ...], self.x.shape) for i in range(self.problem.n))
        columns = [self._evaluation.hvp(unit) for unit in units]
        matrix = xp.stack(columns, axis=-1)
        return 0.5 * (matrix + xp.matrix_transpose(matrix))

    def _check_vector(self, name: str, v: Any) -> None:
        check_array(name, v, self.problem.backend, self.problem.n, tuple(self.x.shape[:-1]) or None)

    def _check_output(self, name: str, u: Any) -> None:
        self._require_outputs()
        shape = tuple(self._once("outputs", self._evaluation.outputs).shape)
        check_array(name, u, self.problem.backend, shape[-1], shape[:-1] or None)

    def _require_outputs(self) -> None:
        if not self.has_outputs:
            raise ValueError(
                f"{type(self.problem).__name__} is not a convex function of outputs: it has no outputs, jvp, vjp or "
                "ggnvp; use hvp, or a least-squares or network problem"
            )
