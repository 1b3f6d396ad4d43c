"""The servers of ``tests/api``, and pictures for tools to send."""

from tests.api.conftest import backend_failure, make_backend, make_image, make_settings, server, start, start_real

__all__ = ["backend_failure", "make_backend", "make_image", "make_settings", "server", "start", "start_real"]
