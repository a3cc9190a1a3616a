"""What readers of this process remember is forgotten between tests: ports of loopback servers come back."""

from __future__ import annotations

import pytest

from pipeline.imagery import file_reader


@pytest.fixture(autouse=True)
def _no_file_is_given_up() -> None:
    file_reader._given_up.clear()
