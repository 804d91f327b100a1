"""Slow things as tables of steps, each with its undo, run by the engine. One file per kind, `<noun>_<verb>.py`."""
