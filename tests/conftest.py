"""Fixtures shared by the unit tests."""

import os

# Before any array library is loaded: on small arrays more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from cases import PRESENT


@pytest.fixture(params=[spec.param() for spec in PRESENT])
def backend(request):
    """Every backend of the table that this machine has, in both precisions."""
    return request.param.get()
