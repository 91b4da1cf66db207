"""A network small enough for dense arithmetic, for the tests of K-FAC."""

import numpy as np
from network_cases import LOSSES, network

from refimpl import get_backend


def small(activation="tanh", loss=LOSSES[0], samples=7, **options):
    """The problem on NumPy and a place on it."""
    problem = network(activation, loss, samples=samples)(get_backend("numpy"), **options)
    return problem, problem.initial(np.random.default_rng(2))
