"""A real server with a toy model for the clients to talk to."""

from tests.api.conftest import make_backend, make_image, make_settings, start_real

# Fixtures for all tests of clients.
__all__ = ["make_backend", "make_image", "make_settings", "start_real"]
