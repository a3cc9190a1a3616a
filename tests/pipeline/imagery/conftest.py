"""What readers of this process remember is forgotten between tests: ports of loopback servers come back."""

from __future__ import annotations

import pytest

from pipeline.imagery import copies, file_reader, remote_file
from pipeline.imagery.open_files import open_files


@pytest.fixture(autouse=True)
def _no_file_is_given_up() -> None:
    file_reader._given_up.clear()
    copies._silent.clear()
    remote_file._heads._kept.clear()
    open_files.close()
