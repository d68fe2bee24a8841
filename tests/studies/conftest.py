"""One text for all comparisons."""

from pathlib import Path

import pytest
from small_comparisons import write_text


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve documents; only to be read."""
    return write_text(tmp_path_factory.mktemp("text") / "documents")
