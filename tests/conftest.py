"""What holds for all tests."""

import pytest
from hypothesis import settings

from dcexp.scale import PUBLISHED

settings.register_profile("shared machine", deadline=None)  # times there say nothing
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def published_scales():
    """Some tests publish a scale of a few steps; it is gone when they end."""
    before = dict(PUBLISHED)
    yield
    PUBLISHED.clear()
    PUBLISHED.update(before)
