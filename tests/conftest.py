"""What holds for all tests."""

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # times there say nothing
settings.load_profile("shared machine")
