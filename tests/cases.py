"""The case table: every problem × backend × dtype that the oracle tests walk through, built lazily.

``CASES`` holds functions that build a problem on a backend, so that importing this file builds nothing. The networks
come from ``network_cases()`` in network_cases.py, which imports :class:`Case` with ``from cases import Case``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from refimpl.arrays import Backend, get_backend
from refimpl.oracle import Problem

SPREAD = [4.0, 1.0, 0.25, -0.5, -2.0]
"""Eigenvalues of the indefinite quadratic of the table."""


@dataclass(frozen=True)
class Case:
    """A problem and what is known about it.

    id : name in the test report.
    build : backend -> problem, the same numbers on every backend.
    has_outputs : whether jvp, vjp and ggnvp exist.
    smooth : whether the second derivative is continuous (false for ReLU networks).
    linear_model : whether the outputs are linear in x, so that the Gauss–Newton matrix is the Hessian.
    library : the one array library it lives on, or None for all.
    """

    id: str
    build: Callable[[Backend], Problem]
    has_outputs: bool
    smooth: bool
    linear_model: bool = False
    library: str | None = None

    def runs_on(self, spec: BackendSpec) -> bool:
        """Whether the problem exists on this backend at all (a Torch module lives on Torch)."""
        return self.library in (None, spec.name)


@dataclass(frozen=True)
class BackendSpec:
    """A backend that may or may not be there: ``get()`` gives it, ``missing`` says why it cannot."""

    id: str
    name: str
    dtype: str
    device: str | None = None

    def get(self) -> Backend:
        return get_backend(self.name, self.dtype, self.device)

    @property
    def missing(self) -> str | None:
        try:
            self.get()
        except ValueError as error:
            return str(error)
        return None

    def param(self) -> object:
        """The spec as a pytest parameter, skipped with its reason where the backend is missing."""
        reason = self.missing
        marks = [pytest.mark.skip(reason=f"{self.id}: {reason}")] if reason else []
        if self.name == "cupy" or self.device == "cuda":
            marks.append(pytest.mark.gpu)
        return pytest.param(self, id=self.id, marks=marks)


BACKENDS = [
    BackendSpec("numpy-f64", "numpy", "float64"),
    BackendSpec("numpy-f32", "numpy", "float32"),
    BackendSpec("torch-f64", "torch", "float64"),
    BackendSpec("torch-f32", "torch", "float32"),
    BackendSpec("strict-f64", "array-api-strict", "float64"),
    BackendSpec("strict-device1-f64", "array-api-strict", "float64", "device1"),
    BackendSpec("strict-no_float64-f32", "array-api-strict", "float32", "no_float64"),
    BackendSpec("torch-cuda-f64", "torch", "float64", "cuda"),
    BackendSpec("torch-cuda-f32", "torch", "float32", "cuda"),
    BackendSpec("cupy-f64", "cupy", "float64"),
    BackendSpec("cupy-f32", "cupy", "float32"),
]

PRESENT = [spec for spec in BACKENDS if spec.missing is None]
"""What this machine has. Tables are built from it; test_arrays.py reports each absent backend once, with the reason."""


def toy_cases() -> list[Case]:
    """Everything in closed form: toys, test functions, quadratics and the linear network."""

    def toy(name: str, module: str = "", **options: object) -> Callable[[Backend], Problem]:
        return lambda backend: _problem(name, module, backend=backend, **options)

    def spectrum(eigenvalues: list[float]) -> Callable[[Backend], Problem]:
        return lambda backend: _problem("Quadratic").from_spectrum(eigenvalues, seed=3, backend=backend)

    def least_squares(backend: Backend) -> Problem:
        rng = np.random.default_rng(5)
        matrix, targets = rng.standard_normal((7, 4)), rng.standard_normal(7)
        return _problem("LinearLeastSquares")(matrix, targets, backend=backend)

    def bed(backend: Backend) -> Problem:
        # Starts far from the places with z_i = 0, where the third derivative jumps.
        values, slopes = [-2.0, -0.5, 1.0, 3.0], [0.5, 0.25, 1.0, 2.0]
        return _problem("SeparableCubic", "cubic_beds", curvatures=values, slopes=slopes, backend=backend)

    def sines(backend: Backend) -> Problem:
        return _problem("RandomSines", "cubic_beds").random(3, seed=6, backend=backend)

    return [
        Case("horse-saddle", toy("HorseSaddle"), has_outputs=False, smooth=True),
        Case("monkey-saddle", toy("MonkeySaddle"), has_outputs=False, smooth=True),
        Case("degenerate-saddle", toy("DegenerateSaddle"), has_outputs=False, smooth=True),
        Case("coupled-saddle", toy("CoupledSaddle"), has_outputs=False, smooth=True),
        Case("double-well", toy("DoubleWell"), has_outputs=True, smooth=True),
        Case("double-well-5", toy("DoubleWell", n=5), has_outputs=True, smooth=True),
        Case("sqrt-valley", toy("SqrtValley"), has_outputs=True, smooth=True, linear_model=True),
        Case("sqrt-valley-3", toy("SqrtValley", n=3), has_outputs=True, smooth=True, linear_model=True),
        Case("rosenbrock", toy("Rosenbrock"), has_outputs=True, smooth=True),
        Case("rosenbrock-noise", toy("Rosenbrock", noise=3.0), has_outputs=True, smooth=True),
        Case("rosenbrock-6", toy("Rosenbrock", n=6), has_outputs=True, smooth=True),
        Case("wood", toy("Wood"), has_outputs=True, smooth=True),
        Case("quadratic-indefinite", spectrum(SPREAD), has_outputs=False, smooth=True),
        Case("quadratic-convex", spectrum([abs(e) for e in SPREAD]), True, True, linear_model=True),
        Case("linear-least-squares", least_squares, has_outputs=True, smooth=True, linear_model=True),
        Case("rahimi-recht", toy("RahimiRecht", widths=(2, 3, 4), samples=20), True, True),
        Case("rahimi-recht-raw", toy("RahimiRecht", widths=(2, 2, 3), samples=9, compress=False), True, True),
        Case("triple-well", toy("TripleWell", "quartics"), has_outputs=False, smooth=True),
        Case("bent-well", toy("BentWell", "quartics"), has_outputs=False, smooth=True),
        Case("separable-cubic", bed, has_outputs=False, smooth=True),
        Case("random-sines", sines, has_outputs=False, smooth=True),
    ]


def _problem(name: str, module: str = "", **options: object) -> Any:
    found = getattr(importlib.import_module(f"refimpl.problems.{module}".rstrip(".")), name)
    return found(**options) if options else found


def __getattr__(name: str) -> list[Case]:
    # Lazily, because network_cases.py imports Case from here.
    if name != "CASES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    extra = importlib.util.find_spec("network_cases")
    more = importlib.import_module("network_cases").network_cases() if extra else []
    globals()["CASES"] = toy_cases() + more
    return globals()["CASES"]
