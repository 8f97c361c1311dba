"""Every test of this folder must leave the shared networks untouched."""

import pytest


@pytest.fixture(autouse=True)
def _untouched(untouched):
    yield
