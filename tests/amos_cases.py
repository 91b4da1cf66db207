"""AMOS told where it is and what the diagonal looks like there: for tests whose numbers follow by hand."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from refimpl import get_backend
from refimpl.arrays import to_numpy
from refimpl.optimizers.amos import AMOS

SIZES = (12, 4, 20, 5, 10, 2)
"""Coordinates of the tensors of the network: matrices and biases in turn."""


def scripted_run(method, places, estimates, shapes, backend=None, gradients=None):
    """States and infos after each step of a method that is told where it is and what the diagonal looks like there."""
    backend = backend or get_backend()

    class Scripted(type(method)):
        def _estimate(self, point, steps, draws=1):
            return backend.asarray(estimates[steps])

    method = Scripted(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})
    problem, state, seen = SimpleNamespace(tensor_shapes=shapes), None, []
    for step, place in enumerate(places):
        x = backend.asarray(place)
        gradient = backend.asarray(np.zeros(x.shape[-1]) if gradients is None else gradients[step])
        state = method.init(x) if state is None else state
        x_next, state, info = method.step(SimpleNamespace(x=x, gradient=gradient, problem=problem), state)
        seen.append((to_numpy(x_next), state, info))
    return seen


def amos(**knobs):
    return AMOS(**{"interval": 1, "offload_rate": 0.5, "threshold": 1.0} | knobs)


def flat(parts):
    return np.array([number for part in parts for number in part])


def stream(slopes, spacing=0.5):
    """Places and estimates of one coordinate whose curvature has these slopes."""
    places = [[spacing * k] for k in range(len(slopes) + 1)]
    return places, [[total * spacing] for total in np.cumsum([0.0, *slopes])]
