"""Saddle-free: reference implementations of saddle-free second-order optimization.

>>> from refimpl import minimize
>>> from refimpl.problems.toy import HorseSaddle
>>> from refimpl.optimizers.saddle_free import SaddleFreeNewton
>>> minimize(HorseSaddle(), SaddleFreeNewton(), [1.5, 1.5], steps=1).x.tolist()
[0.0, 3.0]
"""

from refimpl.arrays import available_backends, get_backend
from refimpl.oracle import Counts, Point, Problem
from refimpl.run import Result, minimize

__version__ = "0.1.0"

__all__ = ["Counts", "Point", "Problem", "Result", "available_backends", "get_backend", "minimize"]
