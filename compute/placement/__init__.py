"""Choosing and claiming: rows become scheduler types, a candidate becomes an allocation."""
