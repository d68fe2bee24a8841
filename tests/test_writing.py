"""Folders that results are written to."""

from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.files import writing_to


def test_a_folder_is_made_with_all_around_it(tmp_path: Path) -> None:
    with writing_to(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="not even root makes a folder there")
def test_a_folder_that_cannot_be_made_is_refused() -> None:
    told = pytest.raises(HeadwayError, match=r"out: '/proc/none' cannot be .*No such file")
    with told, writing_to(Path("/proc/none")):
        raise AssertionError("nothing is done there")


def test_a_file_that_is_missing_inside_is_no_fault_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), writing_to(tmp_path):
        (tmp_path / "none").read_text()
