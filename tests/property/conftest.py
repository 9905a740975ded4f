"""Examples of property tests: the same in every run, so that a red run means a changed program."""

from hypothesis import settings

settings.register_profile("homeport", derandomize=True, deadline=None, database=None)
settings.load_profile("homeport")
