"""Arrays in files, read by many threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

from headway.corpora.storage import read_array, write_array


def test_one_thread_parses_a_header_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them at once break each other's syntax trees in Python 3.11, when memory is cleared
    up in between: "AST constructor recursion depth mismatch"."""
    path, inside, most = tmp_path / "a.npy", [0], [0]
    write_array(path, np.arange(9, dtype=np.uint16))
    mapped = np.lib.format.open_memmap

    def slowly(*args: Any, **kwargs: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        sleep(0.01)
        inside[0] -= 1
        return mapped(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "open_memmap", slowly)
    with ThreadPoolExecutor(4) as pool:
        arrays = list(pool.map(read_array, [path] * 8))
    assert all(np.array_equal(array, np.arange(9)) for array in arrays)
    assert most == [1]
