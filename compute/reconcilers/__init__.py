"""Wanted against observed, and repair. Reconcilers take no input, may run twice at once, and never retry inside: the
next period is the retry."""
