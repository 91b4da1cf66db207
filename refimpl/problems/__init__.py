"""Losses with known answers: toy landscapes, test functions, quadratics, and the two-layer linear network.

Networks on data are in their own modules, since some of those need Torch or a download.
"""

from refimpl.problems.closed_form import ClosedForm, ConvexForm, LeastSquaresForm, Toy
from refimpl.problems.linear_network import RahimiRecht
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic, gaussian_symmetric, random_orthogonal
from refimpl.problems.toy import (
    CoupledSaddle,
    DegenerateSaddle,
    DoubleWell,
    HorseSaddle,
    MonkeySaddle,
    Rosenbrock,
    SqrtValley,
    Wood,
)

__all__ = [
    "ClosedForm",
    "ConvexForm",
    "CoupledSaddle",
    "DegenerateSaddle",
    "DoubleWell",
    "HorseSaddle",
    "LeastSquaresForm",
    "LinearLeastSquares",
    "MonkeySaddle",
    "Quadratic",
    "RahimiRecht",
    "Rosenbrock",
    "SqrtValley",
    "Toy",
    "Wood",
    "gaussian_symmetric",
    "random_orthogonal",
]
