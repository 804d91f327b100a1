"""Switching hosts off for sure, and seeing that they are. Run by tasks alone: never in a request, never in a saga's turn."""
