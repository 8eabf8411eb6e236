"""Hypothesis runs the same examples everywhere; a busy machine's slowness is no failure."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")
