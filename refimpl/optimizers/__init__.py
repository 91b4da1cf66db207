"""Methods, one file each. A method is a frozen dataclass of knobs that :func:`refimpl.run.minimize` runs.

``gradient_descent`` and ``adam`` use gradients; ``newton``, ``saddle_free`` and ``adaptive_saddle_free`` the dense
Hessian; ``levenberg_marquardt`` the dense Gauss–Newton matrix; ``quasi_newton`` hands over to SciPy.
"""
