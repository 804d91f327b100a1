"""Celery's entry points: one call each, ids only. Nobody but the relay and beat starts one."""
