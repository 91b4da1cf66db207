"""Fixtures shared by the unit tests."""

import pytest
from cases import PRESENT


@pytest.fixture(params=[spec.param() for spec in PRESENT])
def backend(request):
    """Every backend of the table that this machine has, in both precisions."""
    return request.param.get()
