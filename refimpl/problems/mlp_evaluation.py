"""Forward, backward, R-operator, Gauss–Newton parts and the dense Hessian of a multilayer perceptron.

Inside, arrays are feature-major: an activation is (..., width, samples), a layer is one matrix [weight | bias] of
shape (..., fan_out, fan_in + 1), and activations carry a row of ones for the bias. Elementwise work then runs along
long contiguous rows and the bias costs no pass of its own.

With weights W, pre-activations z, activations a = f(z), and delta = dL/dz, a direction V gives

    forward    R[z] = V a + W R[a]            R[a] = f'(z) R[z]
    backward   R[dL/dW] = R[delta] a^T + delta R[a]^T
               R[delta below] = f'(z) (W^T R[delta] + V^T delta) + f''(z) (W^T delta) R[z]

Source: Pearlmutter (1994), sec. 4; Møller (1993).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from refimpl.arrays import Array
from refimpl.oracle import Counts, Evaluation, KroneckerFactors
from refimpl.problems.kronecker import input_factor, join_layers, output_factor, split_layers
from refimpl.problems.sampled_targets import sampled_output_gradient

if TYPE_CHECKING:
    from refimpl.problems.mlp import MLP


class _Forward(NamedTuple):
    below: list[Array]  # activations each layer reads, with the row of ones
    below_transposed: list[Array]
    slopes: list[Array]  # f'(z) of each hidden layer
    outputs: Array  # (..., samples, k)


class _Backward(NamedTuple):
    deltas: list[Array]  # dL/dz of each layer
    bends: list[Array] | None  # f''(z) (W^T delta) of each hidden layer, None where f'' = 0


class MLPEvaluation(Evaluation):
    """One place, one sample. Activations and deltas are computed once and kept for every product.

    Cost of a product, in matrix products per layer: gradient 3, hvp 6, jvp 2, vjp 2.
    """

    has_outputs: ClassVar[bool] = True

    def __init__(self, problem: MLP, x: Array, inputs: Array, targets: Array) -> None:
        self._problem = problem
        self._xp = problem.backend.xp
        # Not `.mT`: CuPy arrays do not have it in every version.
        self._transposed = self._xp.matrix_transpose
        self._inputs = inputs
        self._targets = targets
        self._lead = tuple(x.shape[:-1])
        self._layers = self._matrices(x)
        # Without the bias column: what a derivative goes through on its way up or down.
        self._weights = [matrix[..., :-1] for matrix in self._layers]
        self._weights_transposed = [self._transposed(weight) for weight in self._weights]

    # -- the loss and its derivatives -------------------------------------------------------------------------------

    def loss(self) -> Array:
        """The loss, shape of the leading axes."""
        return self._problem.loss_function.value(self._forward.outputs, self._targets)

    def gradient(self) -> Array:
        """One backward pass over the kept activations."""
        return self._products(self._backward.deltas)

    def hvp(self, v: Array) -> Array:
        """The R-operator: one tangent pass up, one pass down, over kept activations and deltas."""
        directions = self._matrices(v)
        tangents_below, tangents = self._tangents(directions)
        deltas, bends = self._backward
        tangent_delta = self._transposed(self._curvature(self._transposed(tangents[-1])))
        parts: list[Array] = []
        for layer in range(len(self._layers) - 1, -1, -1):
            part = tangent_delta @ self._forward.below_transposed[layer]
            if layer > 0:
                part[..., :-1] += deltas[layer] @ self._transposed(tangents_below[layer])
                down = self._weights_transposed[layer] @ tangent_delta
                down += self._transposed(directions[layer][..., :-1]) @ deltas[layer]
                down *= self._forward.slopes[layer - 1]
                if bends is not None:
                    down += bends[layer - 1] * tangents[layer - 1]
                tangent_delta = down
            parts.append(part)
        return self._assemble(parts[::-1])

    def hessian(self) -> Array:
        """The dense Hessian (..., n, n).

        A weight w_ij moves only z_i, by a_j, sample by sample. It is therefore enough to follow the fan_out unit
        directions of each layer's pre-activations (not its fan_out (fan_in + 1) weights) and to contract with the
        activations over the samples at the end; blocks above the diagonal follow by symmetry.

        Cost: for each pair of layers two matrix products, (fan_out fan_out') x samples x (fan_in fan_in').
        """
        xp, depth = self._xp, len(self._layers)
        sizes = [matrix.shape[-2] * matrix.shape[-1] for matrix in self._layers]
        starts = [sum(sizes[:i]) for i in range(depth + 1)]
        matrix = self._problem.backend.zeros((*self._lead, starts[-1], starts[-1]))
        for low in range(depth):
            for high, block in self._hessian_blocks(low):
                rows, columns = slice(starts[high], starts[high + 1]), slice(starts[low], starts[low + 1])
                matrix[..., rows, columns] = block
                matrix[..., columns, rows] = self._transposed(block)
        matrix = self._problem.from_augmented(matrix)
        matrix = self._transposed(self._problem.from_augmented(self._transposed(matrix)))
        return 0.5 * (matrix + xp.matrix_transpose(matrix))

    # -- outputs ----------------------------------------------------------------------------------------------------

    def predictions(self) -> Array:
        """Outputs (..., samples, k)."""
        return self._forward.outputs

    def outputs(self) -> Array:
        """Outputs flattened sample by sample, (..., samples k)."""
        return self._flat(self._forward.outputs)

    def output_gradient(self) -> Array:
        """dL/dphi, (..., samples k)."""
        return self._flat(self._problem.loss_function.gradient(self._forward.outputs, self._targets))

    def output_hvp(self, u: Array) -> Array:
        """(d2L/dphi2) u, (..., samples k)."""
        return self._flat(self._curvature(self._table(u)))

    def jvp(self, v: Array) -> Array:
        """The tangent pass alone."""
        _, tangents = self._tangents(self._matrices(v))
        return self._flat(self._transposed(tangents[-1]))

    def vjp(self, u: Array) -> Array:
        """The backward pass alone, from ``u`` in output space."""
        return self._products(self._pass_down(self._transposed(self._table(u))))

    def sampled_output_gradient(self, rng: Any, likelihood: str | None) -> tuple[Array, int]:
        """dL/dphi (..., samples k) for targets drawn from the predictions, and the number of samples."""
        loss = self._problem.loss_function
        gradient, rows = sampled_output_gradient(loss, self._forward.outputs, rng, likelihood)
        return self._flat(gradient), rows

    def kronecker_factors(self) -> tuple[list[KroneckerFactors], Counts]:
        """Factors of the Gauss–Newton blocks: all k outputs are followed down at once, over kept activations."""
        xp, width, samples = self._xp, self._problem.widths[-1], self._inputs.shape[0]
        unit = self._problem.backend.eye(width)[:, :, None]
        deltas = xp.broadcast_to(unit, (*self._lead, width, width, samples))
        curvature = self._output_curvature(deltas)
        factors = []
        for layer in range(len(self._layers) - 1, -1, -1):
            below = self._forward.below[layer]
            factors.append(KroneckerFactors(input_factor(below), output_factor(deltas, curvature)))
            if layer > 0:
                slopes = self._forward.slopes[layer - 1]
                deltas = slopes[..., :, None, :] * self._through(self._weights_transposed[layer], deltas)
        return factors[::-1], Counts(vjp=width)

    # -- passes -----------------------------------------------------------------------------------------------------

    @cached_property
    def _forward(self) -> _Forward:
        xp = self._xp
        samples = self._inputs.shape[0]
        ones = xp.ones((*self._lead, 1, samples), dtype=self._inputs.dtype, device=self._inputs.device)
        first = xp.broadcast_to(self._transposed(self._inputs), (*self._lead, self._inputs.shape[1], samples))
        below, slopes = [xp.concat([first, ones], axis=-2)], []
        z = self._layers[0] @ below[0]
        for matrix in self._layers[1:]:
            a, slope = self._problem.activation.forward(z)
            slopes.append(slope)
            below.append(xp.concat([a, ones], axis=-2))
            z = matrix @ below[-1]
        return _Forward(below, [self._transposed(a) for a in below], slopes, self._transposed(z))

    @cached_property
    def _backward(self) -> _Backward:
        gradient = self._problem.loss_function.gradient(self._forward.outputs, self._targets)
        deltas = self._pass_down(self._transposed(gradient))
        second = self._problem.activation.second
        if second is None:
            return _Backward(deltas, None)
        bends = []
        for i, slope in enumerate(self._forward.slopes):
            value = self._forward.below[i + 1][..., :-1, :]
            bends.append(second(value, slope) * (self._weights_transposed[i + 1] @ deltas[i + 1]))
        return _Backward(deltas, bends)

    @cached_property
    def _curvature(self) -> Callable[[Array], Array]:
        return self._problem.loss_function.curvature(self._forward.outputs, self._targets)

    def _pass_down(self, delta: Array) -> list[Array]:
        deltas = [delta]
        for layer in range(len(self._layers) - 1, 0, -1):
            delta = (self._weights_transposed[layer] @ delta) * self._forward.slopes[layer - 1]
            deltas.append(delta)
        return deltas[::-1]

    def _tangents(self, directions: list[Array]) -> tuple[list[Array | None], list[Array]]:
        # R[a] that each layer reads (None for the inputs, which do not move) and R[z] of each layer.
        tangents_below: list[Array | None] = [None]
        tangents = [directions[0] @ self._forward.below[0]]
        for layer in range(1, len(self._layers)):
            tangent_below = self._forward.slopes[layer - 1] * tangents[-1]
            tangent = directions[layer] @ self._forward.below[layer]
            tangent += self._weights[layer] @ tangent_below
            tangents_below.append(tangent_below)
            tangents.append(tangent)
        return tangents_below, tangents

    # -- the dense Hessian ------------------------------------------------------------------------------------------

    def _hessian_blocks(self, low: int) -> list[tuple[int, Array]]:
        """Blocks (layer ``high``, layer ``low``) for every high >= low, augmented order, high on the rows."""
        below, slopes = self._forward.below, self._forward.slopes
        bends = self._backward.bends
        width, samples = self._layers[low].shape[-2], below[0].shape[-1]
        unit = self._problem.backend.eye(width)[:, :, None]
        # Tangents are (..., units of this layer, unit directions, samples).
        tangent = self._xp.broadcast_to(unit, (*self._lead, width, width, samples))
        tangents, tangents_below = [tangent], [None]
        for layer in range(low + 1, len(self._layers)):
            tangents_below.append(slopes[layer - 1][..., :, None, :] * tangents[-1])
            tangents.append(self._through(self._weights[layer], tangents_below[-1]))
        tangent_delta = self._output_curvature(tangents[-1])
        blocks = []
        for high in range(len(self._layers) - 1, low - 1, -1):
            here = high - low
            blocks.append((high, self._contract(high, low, tangent_delta, tangents_below[here])))
            if high > low:
                tangent_delta = self._through(self._weights_transposed[high], tangent_delta)
                tangent_delta = slopes[high - 1][..., :, None, :] * tangent_delta
                if bends is not None:
                    tangent_delta += bends[high - 1][..., :, None, :] * tangents[here - 1]
        return blocks

    def _through(self, matrix: Array, tangent: Array) -> Array:
        # One matrix for all directions and samples: one large product instead of one per direction.
        *_, rows, directions, samples = tangent.shape
        flat = self._xp.reshape(tangent, (*self._lead, rows, directions * samples))
        return self._xp.reshape(matrix @ flat, (*self._lead, matrix.shape[-2], directions, samples))

    def _output_curvature(self, tangent: Array) -> Array:
        # The loss wants (..., samples, k); directions go in front of the samples.
        runs = len(self._lead)
        order = (*range(runs), runs + 1, runs + 2, runs)
        back = (*range(runs), runs + 2, runs, runs + 1)
        outputs = self._forward.outputs[..., None, :, :]
        moved = self._xp.permute_dims(tangent, order)
        curvature = self._problem.loss_function.curvature(outputs, self._targets)
        # The samples stay outputs.shape[-2], so the mean over samples is the same.
        return self._xp.permute_dims(curvature(moved), back)

    def _contract(self, high: int, low: int, tangent_delta: Array, tangent_below: Array | None) -> Array:
        xp, runs, lead = self._xp, len(self._lead), self._lead
        above, under = self._forward.below[high], self._forward.below[low]
        delta = self._backward.deltas[high]
        (k, i, samples), p, j = tangent_delta.shape[-3:], above.shape[-2], under.shape[-2]

        def ordered(array: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
            array = xp.reshape(array, (*lead, *shape))
            return xp.permute_dims(array, (*range(runs), *(runs + axis for axis in axes)))

        # sum over samples of R[delta]_ki a_p a_j
        pairs = xp.reshape(above[..., :, None, :] * under[..., None, :, :], (*lead, p * j, samples))
        block = xp.reshape(tangent_delta, (*lead, k * i, samples)) @ self._transposed(pairs)
        block = ordered(block, (k, i, p, j), (0, 2, 1, 3))
        if tangent_below is not None:
            # sum over samples of delta_k R[a]_pi a_j; the bias row of ones does not move
            pairs = xp.reshape(delta[..., :, None, :] * under[..., None, :, :], (*lead, k * j, samples))
            moved = xp.reshape(tangent_below, (*lead, (p - 1) * i, samples))
            extra = ordered(pairs @ self._transposed(moved), (k, j, p - 1, i), (0, 2, 3, 1))
            block = xp.concat([block[..., :-1, :, :] + extra, block[..., -1:, :, :]], axis=-3)
        return xp.reshape(block, (*lead, k * p, i * j))

    # -- shapes -----------------------------------------------------------------------------------------------------

    def _matrices(self, v: Array) -> list[Array]:
        return split_layers(self._problem.to_augmented(v), self._problem.widths)

    def _products(self, deltas: list[Array]) -> Array:
        below = self._forward.below_transposed
        return self._assemble([delta @ a for delta, a in zip(deltas, below, strict=True)])

    def _assemble(self, parts: list[Array]) -> Array:
        return self._problem.from_augmented(join_layers(parts))

    def _flat(self, table: Array) -> Array:
        return self._xp.reshape(table, (*self._lead, table.shape[-2] * table.shape[-1]))

    def _table(self, u: Array) -> Array:
        return self._xp.reshape(u, (*self._lead, self._inputs.shape[0], self._problem.widths[-1]))
