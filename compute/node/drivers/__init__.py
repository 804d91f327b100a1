"""Hypervisor drivers behind one contract (`base`), chosen by `registry`."""
