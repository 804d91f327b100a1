from tests.sagas.conftest import cloud

__all__ = ["cloud"]
