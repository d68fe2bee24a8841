"""Reading text: what a document is in each source, and every refusal in one sentence."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from headway.corpora import read_documents
from headway.corpora.formats import _plain_documents, file_documents
from headway.errors import HeadwayError

MANY = 10**9
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
TEXTS = ["first\nline", "zweites – \u2028 文", "third \U0001f600"]


def json_lines(texts: list[str]) -> bytes:
    return "".join(
        json.dumps({"text": t, "id": 1}, ensure_ascii=False) + "\n" for t in texts
    ).encode()


def refusal(source: str | None, max_characters: int = MANY) -> str:
    """The sentence that reading `source` is refused with."""
    with pytest.raises(HeadwayError) as caught:
        read_documents(source, max_characters)
    sentence = str(caught.value)
    assert "accepted" in sentence or "name a" in sentence or "name another" in sentence
    assert "\n" not in sentence
    return sentence


def written(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def test_default_is_python_itself_in_a_fixed_order() -> None:
    documents = read_documents(None, 1_000_000)
    assert documents == read_documents(None, 1_000_000)
    assert 700_000 < sum(map(len, documents)) <= 1_000_000
    assert any("assert" in document for document in documents[:3])


def test_default_leaves_tests_and_installed_packages_out() -> None:
    documents = read_documents(None, MANY)
    assert len(set(documents)) > 300
    assert Path(json.__file__).read_text(encoding="utf-8") in documents
    assert Path(pytest.__file__).read_text(encoding="utf-8") not in documents
    assert sum(map(len, documents)) < 20_000_000


@pytest.mark.parametrize("suffix", COMPRESS)
def test_json_lines_are_the_same_documents_however_compressed(tmp_path: Path, suffix: str) -> None:
    data = COMPRESS[suffix](json_lines(TEXTS))
    assert read_documents(written(tmp_path, f"a.jsonl{suffix}", data), MANY) == TEXTS


@pytest.mark.parametrize("suffix", COMPRESS)
def test_plain_text_is_read_however_compressed(tmp_path: Path, suffix: str) -> None:
    text = "".join(f"Sätze {i}.\n\n" for i in range(30_000))
    documents = read_documents(
        written(tmp_path, f"a.txt{suffix}", COMPRESS[suffix](text.encode())), MANY
    )
    assert "".join(documents) == text
    assert all(4_000 < len(document) < 4_020 for document in documents[:-1])


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_several_compressed_parts_in_one_file_are_one_text(tmp_path: Path, suffix: str) -> None:
    parts = [COMPRESS[suffix](json_lines([text])) for text in TEXTS]
    assert read_documents(written(tmp_path, "a.jsonl" + suffix, b"".join(parts)), MANY) == TEXTS


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
@pytest.mark.parametrize("harm", ["cut", "flip", "no bytes"])
def test_damaged_compression_is_told(tmp_path: Path, suffix: str, harm: str) -> None:
    data = bytearray(COMPRESS[suffix](os.urandom(200_000).hex().encode()))
    if harm == "cut":
        del data[-1000:]
    elif harm == "no bytes":
        data.clear()
    else:
        data[:40] = b"?" * 40
    sentence = refusal(written(tmp_path, "a.txt" + suffix, bytes(data)))
    assert "a.txt" + suffix in sentence
    empty_gzip = harm == "no bytes" and suffix == ".gz"  # gzip takes no bytes for an empty text
    assert ("is empty" if empty_gzip else "damaged or cut short") in sentence


@given(
    st.lists(st.sampled_from(["word ", "\n", "\n\n", "x" * 3_000, "ß" * 9_000, "\r\n \r\n"])),
    st.sampled_from([1, 7, 65_536]),
)
def test_pieces_joined_are_the_text(parts: list[str], block: int) -> None:
    text = "".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "headway.corpora.formats.read_text",
            lambda _: (text[i : i + block * 1000] for i in range(0, len(text), block * 1000)),
        )
        pieces = list(_plain_documents("any"))
    assert "".join(pieces) == text
    assert all(4_000 <= len(piece) <= 8_000 for piece in pieces[:-1])
    assert pieces == list(_whole(text))


def _whole(text: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headway.corpora.formats.read_text", lambda _: iter([text]))
        return list(_plain_documents("any"))


def test_a_piece_ends_where_the_docstring_says(tmp_path: Path) -> None:
    ends = {
        "a" * 4_500 + "\n \n": 4_503,
        "a" * 4_500 + "\n" + "a" * 1_000: 4_501,
        "a" * 4_500 + " " + "a" * 1_000: 4_501,
        "a" * 8_000: 8_000,
    }
    for head, end in ends.items():
        path = written(tmp_path, "a.txt", (head + "b" * 6_000).encode())
        assert len(next(file_documents(path))) == end


def test_reading_stops_at_whole_documents(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", json_lines(["aaaa", "bbbb", "cc"]))
    assert read_documents(path, 10) == ["aaaa", "bbbb", "cc"]
    assert read_documents(path, 9) == ["aaaa", "bbbb"]
    assert read_documents(path, 4) == ["aaaa"]
    assert "max_characters=3" in refusal(path, 3)
    assert "max_characters=0" in refusal(path, 0)


def test_what_lies_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    good = json_lines([os.urandom(500).hex() for _ in range(2_000)])
    path = written(tmp_path, "a.jsonl.xz", lzma.compress(good)[:-100_000])
    assert len(read_documents(path, 10_000)) == 10


def test_memory_stays_small_on_a_large_compressed_file(tmp_path: Path) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    line = json_lines(["x" * 1_000])
    path = written(tmp_path, "a.jsonl.zst", COMPRESS[".zst"](line * 20_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in file_documents(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_byte_order_mark_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    data = "\ufeff".encode() + json_lines(["a"]) + b"\r\n  \n" + json_lines(["  ", "b"])
    assert read_documents(written(tmp_path, "a.jsonl", data), MANY) == ["a", "b"]


def test_a_folder_is_read_in_sorted_order(tmp_path: Path) -> None:
    written(tmp_path, "b/two.md", b"two")
    written(tmp_path, "a.txt", b"one")
    written(tmp_path, "c.JSONL.gz", gzip.compress(json_lines(["three"])))
    written(tmp_path, "d.rst.xz", lzma.compress(b"four"))
    written(tmp_path, "e.py", b"five")
    written(tmp_path, "picture.png", b"\0\0")
    written(tmp_path, ".hidden/a.txt", b"hidden")
    assert read_documents(str(tmp_path), MANY) == ["one", "two", "three", "four", "five"]


def test_links_out_of_a_folder_are_not_followed_and_told(tmp_path: Path) -> None:
    outside, inside = tmp_path / "folder-2", tmp_path / "folder"
    written(outside, "secret.txt", b"secret")
    written(inside, "a.txt", b"mine")
    (inside / "again.txt").symlink_to(inside / "a.txt")
    (inside / "file.txt").symlink_to(outside / "secret.txt")
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "broken.txt").symlink_to(inside / "nothing")
    (inside / "picture.png").symlink_to(inside / "nothing")
    os.mkfifo(inside / "pipe.txt")
    told: dict[str, str] = {}

    def tell(path: str, reason: str | None) -> None:
        told[os.path.relpath(path, inside)] = reason or ""

    assert read_documents(str(inside), MANY, tell) == ["mine", "mine"]
    assert told.pop("a.txt") == told.pop("again.txt") == ""
    assert "(a link that leads out of the folder)" in told.pop("file.txt")
    assert "(a link to a folder)" in told.pop("folder")
    assert "(a link to a folder)" in told.pop("loop")
    assert "(a link to nothing)" in told.pop("broken.txt")
    assert "(no plain file)" in told.pop("pipe.txt")
    assert not told
    assert "is not read (a link to nothing)" in refusal(str(inside))


@pytest.mark.parametrize("source", ["no/such/file.txt", "", "no/such/file.jsonl.zst"])
def test_a_missing_path_is_told(source: str) -> None:
    assert f"{source!r} does not exist" in refusal(source)


@pytest.mark.parametrize("data", [b"", b" \n\n \t", "\ufeff".encode()])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_empty_text_is_told(tmp_path: Path, data: bytes, name: str) -> None:
    assert "is empty" in refusal(written(tmp_path, name, data))


def test_binary_text_is_told_with_its_offset(tmp_path: Path) -> None:
    far = b"a" * 100_001
    assert "byte offset 100001" in refusal(written(tmp_path, "nul.txt", far + b"\0abc"))
    assert "byte offset 100001" in refusal(written(tmp_path, "latin.txt", far + b"\xe4abc"))
    assert "byte offset 100001" in refusal(written(tmp_path, "cut.txt", far + "文".encode()[:2]))
    zipped = gzip.compress(far + b"\0")
    assert "byte offset 100001" in refusal(written(tmp_path, "nul.txt.gz", zipped))
    assert "binary (NUL byte at byte offset 3" in refusal(
        written(tmp_path, "wide.txt", "wide".encode("utf-16"))
    )


def test_a_file_without_permission_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    path = written(tmp_path, "a.txt", b"text")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("headway.corpora.streams.open", refuse, raising=False)
    assert "permission denied" in refusal(path)


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    assert str(tmp_path) in refusal(str(tmp_path))


def test_another_failure_of_the_disk_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("headway.corpora.streams.open", fail, raising=False)
    assert "Input/output error" in refusal(written(tmp_path, "a.txt", b"text"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b'["text"]', "is a list"),
        (b'"text"', "is a str"),
        (b'{"txt": "a", "id": 3}', "its fields: txt, id"),
        (b'{"text": 3}', 'the field "text" of line 3 of'),
        (b'{"text": null}', "is of type NoneType, no string"),
        (b"{}", "its fields: none"),
        (rb'{"text": "a\ud800"}', "surrogate pair at character 1"),
    ],
)
def test_a_broken_json_line_is_told_by_number(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, "a.jsonl", json_lines(["a"]) + b"\n" + line + b"\n")
    sentence = refusal(path)
    assert "line 3 of" in sentence
    assert reason in sentence


def test_a_folder_without_text_is_told(tmp_path: Path) -> None:
    written(tmp_path, "picture.png", b"\0")
    assert "folder without text" in refusal(str(tmp_path))


def test_a_hub_data_set_is_streamed(tmp_path: Path) -> None:
    """A folder stands for a data set of the hub; the same library reads both."""
    pytest.importorskip("datasets")
    written(tmp_path, "train.jsonl", json_lines(TEXTS))
    assert read_documents(f"hf:{tmp_path}", MANY) == TEXTS
    assert read_documents(f"hf:{tmp_path}", len(TEXTS[0])) == TEXTS[:1]


def test_a_hub_data_set_without_text_is_told(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    written(tmp_path, "train.jsonl", b'{"content": "a"}\n')
    assert "its fields: content" in refusal(f"hf:{tmp_path}")


def test_a_hub_data_set_that_cannot_be_reached_is_told(monkeypatch: Any) -> None:
    datasets = pytest.importorskip("datasets")
    assert "hf:no such name cannot be read" in refusal("hf:no such name")
    assert "'hf:/' names no data set" in refusal("hf:/")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "Couldn't reach the Hub" in refusal("hf:some/name")


@pytest.mark.parametrize(
    ("package", "source"), [("datasets", "hf:some/name"), ("zstandard", "a.jsonl.zst")]
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: Any, package: str, source: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    if not source.startswith("hf:"):
        source = written(tmp_path, source, b"any")
    with pytest.raises(HeadwayError, match=f"pip install {package}"):
        read_documents(source, MANY)


def test_wikipedia() -> None:
    path = os.path.join(os.environ.get("HEADWAY_DATA", ""), "wiki", "validation.jsonl.xz")
    if not os.path.isfile(path):
        pytest.skip("set HEADWAY_DATA to the folder that holds wiki/validation.jsonl.xz")
    documents = read_documents(path, 1_000_000)
    assert 900_000 < sum(map(len, documents)) <= 1_000_000
    assert all(len(document) >= 1_000 for document in documents)


def archive(path: Path, members: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return str(path)


def test_members_of_an_archive_are_read_as_files_of_a_folder(tmp_path: Path) -> None:
    members = {
        f"{number}/text{suffix}{compression}": compress(data)
        for number, (compression, compress) in enumerate(COMPRESS.items())
        for suffix, data in ((".txt", b"plain text\n" * 900), (".jsonl", json_lines(TEXTS)))
    } | {"notes.mid": b"MThd\0\0", ".hidden.txt": b"hidden", "__MACOSX/0/text.txt": b"\0\1"}
    for name, data in members.items():
        if not name.startswith("__MACOSX"):
            written(tmp_path / "folder", name, data)
    expected = read_documents(str(tmp_path / "folder"), MANY)
    assert len(expected) > 4 * (1 + len(TEXTS))
    assert read_documents(archive(tmp_path / "a.ZIP", members), MANY) == expected


def test_a_single_member_is_read_whatever_its_name(tmp_path: Path) -> None:
    source = archive(tmp_path / "text8.zip", {"text8": b" anarchism originated as a term"})
    assert read_documents(source, MANY) == [" anarchism originated as a term"]


def test_hostile_members_are_told_and_nothing_is_unpacked(tmp_path: Path) -> None:
    members = {"good.txt": b"good", "../../escape.txt": b"out", "bomb.txt": b"a" * (1 << 21)}
    (tmp_path / "in").mkdir()
    source = archive(tmp_path / "in" / "a.zip", members)
    said: dict[str, str | None] = {}
    documents = read_documents(source, MANY, lambda path, reason: said.update({path: reason}))
    assert documents == ["good"]
    assert said.pop(f"{source}/good.txt") is None
    assert "leads out" in str(said.pop(f"{source}/../../escape.txt"))
    assert "200-fold" in str(said.pop(f"{source}/bomb.txt"))
    assert not said
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "a.zip"]
    assert "leads out" in refusal(source)


def test_archives_that_hold_no_text_or_are_damaged_are_refused(tmp_path: Path) -> None:
    two = archive(tmp_path / "two.zip", {"a.mid": b"a", "b.mid": b"b"})
    assert "is an archive without text" in refusal(two)
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4" + bytes(40))
    assert "cannot be read as an archive" in refusal(str(tmp_path / "broken.zip"))
    whole = archive(tmp_path / "whole.zip", {"a.txt": os.urandom(50_000).hex().encode()})
    data = bytearray(Path(whole).read_bytes())
    data[2_000] ^= 0xFF
    Path(whole).write_bytes(data)
    assert "whole.zip/a.txt' is damaged or cut short" in refusal(whole)
