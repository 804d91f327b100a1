"""Choosing hosts, purely: no Django, no I/O, no clock, no dice. Values in, values out, the same every time.

Rows become these values in `compute.placement.loader`; claims under row locks ask `capacity.fits` again.
"""
