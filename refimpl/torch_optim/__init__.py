"""The methods of this package as ``torch.optim.Optimizer``, for an ordinary Torch training loop.

>>> import torch
>>> from refimpl import torch_optim
>>> model = torch.nn.Linear(2, 1)
>>> inputs, targets = torch.eye(2), torch.ones(2, 1)
>>> optimizer = torch_optim.LanczosSaddleFreeNewton(model.parameters(), products=4, buffers=model.buffers())
>>> def closure():
...     outputs = model(inputs)
...     return torch.nn.functional.mse_loss(outputs, targets), outputs
>>> losses = [float(optimizer.step(closure)) for _ in range(20)]
>>> losses[-1] < 1e-3 * losses[0]
True

Nothing is implemented again here: a step is ``method.step(point, state)`` of a dataclass in :mod:`refimpl.optimizers`,
at a Point made from the closure by :class:`refimpl.problems.closure.ClosureProblem`.

**The closure** returns the loss, or the pair (loss, outputs) where a method needs Gauss–Newton products: the loss is
then a convex function of that tensor. It must not call ``backward()``; ``zero_grad()`` is not needed. It is called once
with gradients, and once more under ``no_grad`` for each trial that the method makes; a closure that differentiates
inside (a derivative of the model in its inputs, say) does so under ``torch.enable_grad()``. Draw the minibatch
*outside*: a trial must see the same data. What the closure draws from Torch's generators (dropout) is the same in
every trial of a step; those of NumPy and Python are not put back. What it computes must be twice differentiable, so
``scaled_dot_product_attention`` needs ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

**Parameters** are one group: a second-order step couples all of them. Those with ``requires_grad=False`` are left
alone. **Buffers** (``model.buffers()``) are what a forward pass changes in place: given here, BatchNorm statistics
advance once per step, and not once more for each trial.

**Knobs** are the dataclass's fields, and stand in ``param_groups[0]`` under their names, but for a ``learning_rate``
that is not None: it is ``lr`` there, so that Torch's schedulers find it. A knob changed there holds from the next step
on; one that says where the method starts (``initial_damping``) changes nothing after the first. A scheduler must not
reach ``lr = 0``.

A step writes what the method returns, finite or not, as ``torch.optim`` does. Where closure or method raises,
parameters, buffers, generators and state are as they were before the step.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from refimpl.optimizers import (
    adam,
    adaptive_saddle_free,
    amos,
    arc,
    curveball,
    elmo,
    fosi,
    gradient_descent,
    hessian_free,
    kfac,
    kryball,
    lanczos_sfn,
    levenberg_marquardt,
    newton,
    saddle_free,
    series_sfn,
    sophia,
    stochastic_kryball,
    trust_region,
)
from refimpl.torch_optim.method import MethodOptimizer

__all__ = [
    "AMOS",
    "ARC",
    "ELMO",
    "FOSI",
    "KFAC",
    "Adam",
    "AdamW",
    "AdaptiveKFAC",
    "AdaptiveSaddleFreeNewton",
    "AdaptiveSeriesSaddleFreeNewton",
    "CurveBall",
    "DampedNewton",
    "GradientDescent",
    "HeavyBall",
    "HessianFree",
    "KryBall",
    "LanczosSaddleFreeNewton",
    "LevenbergMarquardt",
    "MethodOptimizer",
    "Nesterov",
    "Newton",
    "SaddleFreeNewton",
    "SeriesSaddleFreeNewton",
    "Sophia",
    "StochasticKryBall",
    "TrustRegion",
]


class _Knobs(MethodOptimizer):
    # What the public subclasses share: knobs in place of a method.

    def __init__(
        self,
        params: Iterable[Any],
        *,
        buffers: Iterable[Tensor] = (),
        module: nn.Module | None = None,
        **knobs: Any,
    ) -> None:
        assert self.method_class is not None
        try:
            method = self.method_class(**knobs)
        except TypeError as error:
            known = list(inspect.signature(self.method_class).parameters)
            raise ValueError(f"{type(self).__name__} has the knobs {known}, got {sorted(knobs)}: {error}") from error
        super().__init__(params, method, buffers=buffers, module=module)

    def __repr__(self) -> str:
        return f"{repr(self.method)[:-1]}, n={self.size})"


class GradientDescent(_Knobs):
    """:class:`refimpl.optimizers.gradient_descent.GradientDescent`: x <- x - eta g."""

    method_class = gradient_descent.GradientDescent


class HeavyBall(_Knobs):
    """:class:`refimpl.optimizers.gradient_descent.HeavyBall`: momentum; ``torch.optim.SGD`` for a constant rate."""

    method_class = gradient_descent.HeavyBall


class Nesterov(_Knobs):
    """:class:`refimpl.optimizers.gradient_descent.Nesterov`: momentum that looks one step ahead."""

    method_class = gradient_descent.Nesterov


class Adam(_Knobs):
    """:class:`refimpl.optimizers.adam.Adam`: the same operations as ``torch.optim.Adam``."""

    method_class = adam.Adam


class AdamW(_Knobs):
    """:class:`refimpl.optimizers.adam.AdamW`: Adam with decay of the parameters outside its scale."""

    method_class = adam.AdamW


class Sophia(_Knobs):
    """:class:`refimpl.optimizers.sophia.Sophia`: one gradient, and in every ``interval``-th step one pass more.

    With the default ``estimator="gnb"`` the closure must return (loss, outputs) and ``likelihood`` must be named, since
    a closure does not tell it: ``"categorical"`` for a mean cross-entropy over all rows, with logits on the last axis
    of the outputs. There is no default, because a wrong one would go unnoticed.
    """

    method_class = sophia.Sophia


class AMOS(_Knobs):
    """:class:`refimpl.optimizers.amos.AMOS`: Sophia, and gradient descent where the curvature moves too fast.

    As for :class:`Sophia`; groups are the parameters, in their order, or chunks. Torch's schedulers reach ``lr``, which
    is Sophia's rate; ``offload_rate`` is a knob of its own, and stays unless ``param_groups[0]["offload_rate"]`` is
    changed. For ``published``, give :class:`MethodOptimizer` the method it returns.
    """

    method_class = amos.AMOS


class Newton(_Knobs):
    """:class:`refimpl.optimizers.newton.Newton`, with the dense Hessian: n products per step."""

    method_class = newton.Newton


class DampedNewton(_Knobs):
    """:class:`refimpl.optimizers.newton.DampedNewton`, with the dense Hessian: n products per step."""

    method_class = newton.DampedNewton


class SaddleFreeNewton(_Knobs):
    """:class:`refimpl.optimizers.saddle_free.SaddleFreeNewton`, with the dense Hessian: n products per step."""

    method_class = saddle_free.SaddleFreeNewton


class AdaptiveSaddleFreeNewton(_Knobs):
    """:class:`refimpl.optimizers.adaptive_saddle_free.AdaptiveSaddleFreeNewton`: n products and one trial per step."""

    method_class = adaptive_saddle_free.AdaptiveSaddleFreeNewton


class SeriesSaddleFreeNewton(_Knobs):
    """:class:`refimpl.optimizers.series_sfn.SeriesSaddleFreeNewton`: 2 (terms - 1) products per step.

    For ``published`` and ``released``, give :class:`MethodOptimizer` the method they return.
    """

    method_class = series_sfn.SeriesSaddleFreeNewton


class AdaptiveSeriesSaddleFreeNewton(_Knobs):
    """:class:`refimpl.optimizers.series_sfn.AdaptiveSeriesSaddleFreeNewton`: 2 (terms - 1) products, one trial.

    The closure must return (loss, outputs), but for ``solve="released"``.
    """

    method_class = series_sfn.AdaptiveSeriesSaddleFreeNewton


class LanczosSaddleFreeNewton(_Knobs):
    """:class:`refimpl.optimizers.lanczos_sfn.LanczosSaddleFreeNewton`: ``products`` products and one trial per step."""

    method_class = lanczos_sfn.LanczosSaddleFreeNewton


class LevenbergMarquardt(_Knobs):
    """:class:`refimpl.optimizers.levenberg_marquardt.LevenbergMarquardt`: n passes for J and one trial per step.

    The closure must return (loss, outputs).
    """

    method_class = levenberg_marquardt.LevenbergMarquardt


class HessianFree(_Knobs):
    """:class:`refimpl.optimizers.hessian_free.HessianFree`: up to ``products`` products and some trials per step.

    The closure must return (loss, outputs), but for ``curvature="hessian"``.
    """

    method_class = hessian_free.HessianFree


class CurveBall(_Knobs):
    """:class:`refimpl.optimizers.curveball.CurveBall`: two jvp and one vjp per step, a trial in every fifth.

    The closure must return (loss, outputs), but for ``curvature="hessian"``.
    """

    method_class = curveball.CurveBall


class TrustRegion(_Knobs):
    """:class:`refimpl.optimizers.trust_region.TrustRegion`, n products and one trial per step."""

    method_class = trust_region.TrustRegion


class KryBall(_Knobs):
    """:class:`refimpl.optimizers.kryball.KryBall`: a Krylov space and the last step, one trial or a few.

    For ``published``, give :class:`MethodOptimizer` the method it returns.
    """

    method_class = kryball.KryBall


class StochasticKryBall(_Knobs):
    """:class:`refimpl.optimizers.stochastic_kryball.StochasticKryBall`: the form for minibatches, two trials per step.

    The knob ``momentum`` is rho.
    """

    method_class = stochastic_kryball.StochasticKryBall


class ELMO(_Knobs):
    """:class:`refimpl.optimizers.elmo.ELMO`, with the dense Hessian: n products per step, and what its oracle asks."""

    method_class = elmo.ELMO


class ARC(_Knobs):
    """:class:`refimpl.optimizers.arc.ARC`: n products, or ``dimension`` of them, and one trial per step."""

    method_class = arc.ARC


class FOSI(_Knobs):
    """:class:`refimpl.optimizers.fosi.FOSI`: ``base`` is a method of :mod:`refimpl.optimizers` with its own knobs.

    They stay those it was made with: schedulers do not reach them. A saved state holds the base as an object, so that
    ``torch.load`` asks for ``torch.serialization.safe_globals([Adam])``, or whatever its class is.
    """

    method_class = fosi.FOSI


class KFAC(_Knobs):
    """:class:`refimpl.optimizers.kfac.KFAC`: one reverse-mode pass per output of the network.

    The closure must return (loss, outputs), with outputs (samples, k), and ``module`` must be given.
    """

    method_class = kfac.KFAC


class AdaptiveKFAC(_Knobs):
    """:class:`refimpl.optimizers.kfac.AdaptiveKFAC`: the same, two Gauss–Newton products and one trial per step.

    The closure must return (loss, outputs), with outputs (samples, k), and ``module`` must be given.
    """

    method_class = kfac.AdaptiveKFAC
