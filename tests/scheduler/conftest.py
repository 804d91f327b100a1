"""Hypothesis for the scheduler: `pytest tests/scheduler --hypothesis-profile=long` runs the full counts."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Two cores are shared by many tests: a slow example says nothing about the scheduler, so there is no deadline.
settings.register_profile("quick", max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
if settings.get_current_profile_name() != "long":
    settings.load_profile("quick")
