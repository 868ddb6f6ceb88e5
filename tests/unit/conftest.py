"""Settings of the property tests without root."""

from hypothesis import settings

# On a busy machine a slow example is no defect.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")
