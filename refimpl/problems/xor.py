"""The smallest network task that a linear model cannot solve."""

from __future__ import annotations

from typing import Any

from refimpl.problems.datasets import xor
from refimpl.problems.losses import BinaryCrossEntropy
from refimpl.problems.mlp import MLP


def xor_network(*, hidden: int = 8, activation: str = "softplus", **options: Any) -> MLP:
    """A 2-8-1 network on the four points of exclusive or, with binary cross-entropy on logits (33 parameters).

    ``options`` go to :class:`refimpl.problems.mlp.MLP` (``backend``, ``initialization``).

    Source: the KryBall thesis, table 5.1 (2-8-1, softplus, cross-entropy).

    >>> import numpy as np
    >>> problem = xor_network()
    >>> problem.n, round(float(problem.loss(np.zeros(33))), 4)
    (33, 0.6931)
    """
    data = xor()
    problem = MLP(
        (2, hidden, 1),
        data.train_inputs,
        data.train_targets,
        activation=activation,
        loss=BinaryCrossEntropy(),
        **options,
    )
    problem.name = "xor"
    return problem
