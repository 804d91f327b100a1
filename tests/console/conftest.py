"""The console's people: a cloud operator and everybody else."""

from tests.portal.conftest import People, cloud, people

__all__ = ["People", "cloud", "people"]
