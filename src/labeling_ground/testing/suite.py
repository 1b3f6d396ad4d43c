"""What all suites have in common."""

import pytest


@pytest.mark.anyio
class Suite:
    """Tests that run on asyncio, with nothing to set up for it: anyio's own plugin of pytest runs them."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop that tests run on, which is also the server's."""
        return "asyncio"
