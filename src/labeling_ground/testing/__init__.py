"""For authors of engines, stores and adapters: doubles, and suites to inherit. ``docs/extending.md`` shows how."""

import pytest

# Before any of them is imported, so that a failed assertion in a suite shows its values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{suite}" for suite in ("backend_contract", "store_contract", "state_store_contract"))
)
