"""Servers for what runs beside other tools, as the tests of the API start them."""

from tests.api.conftest import make_image, make_settings, start_real

__all__ = ["make_image", "make_settings", "start_real"]
