"""Pools, hosts, instances, and everything that makes them run."""
