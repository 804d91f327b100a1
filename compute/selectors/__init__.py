"""Reads. Each returns rows with all that a list needs already joined: no query per row."""
