"""What tests of KryBall share: the quartic function of the golden steps, and a step that counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from golden_vectors import golden

from refimpl.arrays import Array, Backend, namespace
from refimpl.problems.closed_form import Toy

GOLDEN = golden("curveball_kryball")["kryball_step"]


class Quartic(Toy):
    """sum_i (x_i^4/4 - a_i x_i^2/2) + x·Cx/2 + d·x, with the numbers of the golden steps."""

    name = "quartic"

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(4, backend)
        self.a, self.c, self.d = (self.backend.asarray(GOLDEN[key]) for key in "aCd")

    def f(self, x: Array) -> Array:
        xp = namespace(x)
        quartic = xp.sum(0.25 * x**4 - 0.5 * self.a * x * x, axis=-1)
        return quartic + xp.sum((0.5 * xp.matmul(x, self.c) + self.d) * x, axis=-1)

    def gradient_at(self, x: Array) -> Array:
        return x**3 - self.a * x + namespace(x).matmul(x, self.c) + self.d

    def hessian_at(self, x: Array) -> Array:
        identity = self.backend.eye(4)
        return (3 * x * x - self.a)[..., None] * identity + self.c


def network(seed: int = 0) -> Any:
    """A small softmax network on random data."""
    from refimpl.problems.losses import SoftmaxCrossEntropy
    from refimpl.problems.mlp import MLP

    rng = np.random.default_rng(seed)
    data = rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
    return MLP((3, 4, 3), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch")
