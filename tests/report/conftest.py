"""Records that several tests of the report share."""

import pytest

from tests import factories


@pytest.fixture
def four():
    """One run of each of four methods."""
    return [factories.record(method) for method in ("full", "lora", "lst", "head")]
