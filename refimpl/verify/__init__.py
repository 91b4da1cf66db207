"""Checks of this package, and of a reader's own code: golden vectors, derivative checks, executable claims.

``python -m refimpl.verify`` compares the package with the golden vectors on every array library it finds.
"""

from refimpl.verify.checks_curveball import StepCheckFailed, check_curveball
from refimpl.verify.checks_kryball import check_kryball
from refimpl.verify.golden import GoldenMismatch, check_implementation
from refimpl.verify.oracle import OracleCheckFailed, check_oracle, check_oracle_functions

__all__ = [
    "GoldenMismatch",
    "OracleCheckFailed",
    "StepCheckFailed",
    "check_curveball",
    "check_implementation",
    "check_kryball",
    "check_oracle",
    "check_oracle_functions",
]
