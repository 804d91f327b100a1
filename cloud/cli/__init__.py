"""The `cenote` command: the public API for people and scripts, and nothing else. It imports no other part of the project."""
