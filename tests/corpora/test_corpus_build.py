"""Raw files to a corpus: one format, skipped files told, interrupted builds continued, archives."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headway.corpora import TokenCorpus, recordings
from headway.corpora import parts as parts_module
from headway.corpora.build import build
from headway.corpora.groups import group_names
from headway.corpora.midi import midi_of_notes, notes_of_midi
from headway.corpora.parts import Part
from headway.corpora.performance import Notes, decode, encode
from headway.corpora.render import render
from headway.corpora.sources import BadFile, raw_files
from headway.corpora.splits import SPLITS, SplitName
from headway.corpora.text import source_digest
from headway.errors import HeadwayError
from headway_settings import CorpusBuildSettings, CorpusRenderSettings

PIECES, TAKES = 30, 2


def performance(piece: int, take: int) -> bytes:
    random = np.random.default_rng((piece, take))
    start = np.sort(random.uniform(0, 20, 50))
    end = start + random.uniform(0.05, 2, 50)
    return midi_of_notes(Notes(start, end, random.integers(40, 80, 50), np.full(50, 64 + take)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("music")
    for piece in range(PIECES):
        (root / f"composer/{piece}").mkdir(parents=True)
        for take in range(TAKES):
            (root / f"composer/{piece}/{take}.mid").write_bytes(performance(piece, take))
    return root


def silent(done: int, total: int, text: str) -> None:
    assert 0 <= done <= total


def documents(corpus: TokenCorpus, split: SplitName) -> Iterator[np.ndarray]:
    tokens = getattr(corpus, split)
    ends = np.flatnonzero(tokens == corpus.eot)
    return iter([part[:-1] for part in np.split(tokens, ends + 1)[:-1]])


def music(source: Path, out: Path, **more: object) -> CorpusBuildSettings:
    return replace(CorpusBuildSettings(kind="music", path=str(source), out=out), **more)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_corpus_holds_each_performance_once_and_no_piece_is_divided(
    folder: Path, tmp_path: Path
) -> None:
    corpus = build(music(folder, tmp_path / "out"), silent)
    expected = {
        encode(notes_of_midi(performance(piece, take))).tobytes(): piece
        for piece in range(PIECES)
        for take in range(TAKES)
    }
    pieces: dict[str, set[int]] = {}
    for split in SPLITS:
        found = [expected.pop(one.astype(np.int64).tobytes()) for one in documents(corpus, split)]
        assert len(found) == TAKES * len(set(found)) == getattr(corpus.description, split).documents
        pieces[split] = set(found)
    assert not expected
    assert len(set.union(*pieces.values())) == PIECES
    assert corpus.vocab_size == 389
    assert corpus.eot == 388
    assert corpus.description.kind == "music"
    assert corpus.description.train.seconds == pytest.approx(46 * 21, rel=0.02)
    assert corpus.train.dtype == np.dtype("<u2")
    assert isinstance(corpus.train, np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_processes_and_archives_change_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_PART_FILES", 7)
    with zipfile.ZipFile(tmp_path / "music.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.mid"), reverse=True):
            archive.write(path, path.relative_to(folder).as_posix())
    build(music(folder, tmp_path / "one", workers=1), silent)
    monkeypatch.chdir(tmp_path)
    build(music(tmp_path / "music.zip", tmp_path / "two", workers=2), silent)
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    del one["corpus.json"], two["corpus.json"]
    assert one == two


def test_augmentation_is_for_training_alone(folder: Path, tmp_path: Path) -> None:
    plain = build(music(folder, tmp_path / "plain"), silent)
    more = build(music(folder, tmp_path / "more", transpose=1, tempos=(1.25,)), silent)
    assert np.array_equal(plain.validation, more.validation)
    assert np.array_equal(plain.test, more.test)
    first = decode(next(documents(plain, "train")))
    variants = [decode(one) for one, _ in zip(documents(more, "train"), range(6), strict=False)]
    moved = [int(one.pitch[0]) - int(first.pitch[0]) for one in variants]
    assert moved == [0, -1, 1, 0, -1, 1]
    assert variants[3].start[-1] == pytest.approx(first.start[-1] / 1.25, abs=0.011)
    assert more.description.train.documents == 6 * plain.description.train.documents
    assert more.description.code == {"codec": "performance", "transpose": 1, "tempos": [1.25]}


def test_an_interrupted_build_goes_on_and_leaves_no_corpus(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "_PART_FILES", 4)
    settings = music(folder, tmp_path / "out")
    build(music(folder, tmp_path / "whole"), silent)

    def stop(done: int, total: int, text: str) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(settings, stop)
    assert not settings.out.exists()
    (waiting,) = tmp_path.glob(".out.parts-*")
    kept = sorted(waiting.glob("*.json"))
    assert len(kept) == 5
    torn = bytearray((waiting / "000001.npy").read_bytes())
    torn[-1] ^= 1
    (waiting / "000001.npy").write_bytes(torn)
    kept[3].write_text(kept[3].read_text()[:-20])

    encoded: list[int] = []
    original = parts_module._encode_part

    def counted(part: Part, number: int, vocab_size: int, folder: Path) -> int:
        encoded.append(number)
        return original(part, number, vocab_size, folder)

    monkeypatch.setattr(parts_module, "_encode_part", counted)
    told: list[str] = []
    build(settings, lambda done, total, text: told.append(text))
    assert "12 of 60 were done already" in told[0]
    assert {0, 2, 4}.isdisjoint(encoded)
    assert {1, 3} <= set(encoded)
    assert files_of(settings.out) == files_of(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_parts_of_other_files_are_not_taken_over(folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    for transpose in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            build(music(folder, tmp_path / "out", transpose=transpose), stop)
        assert len(list(tmp_path.glob(".out.parts-*"))) == 1
    told: list[str] = []
    build(music(folder, tmp_path / "out"), lambda done, total, text: told.append(text))
    assert not any("done already" in text for text in told)


def test_a_folder_that_is_there_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(HeadwayError, match="exists already"):
        build(music(folder, tmp_path / "out"), lambda *_: pytest.fail("worked"))


def hostile_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for piece in range(PIECES):
            for take in range(TAKES):
                archive.writestr(f"{piece}/{take}.mid", performance(piece, take))
        archive.writestr("../../escape.mid", performance(0, 0))
        archive.writestr("/absolute.mid", performance(0, 0))
        archive.writestr("C:\\windows.mid", performance(0, 0))
        archive.writestr("bomb.mid", bytes(4 << 20))
        archive.writestr("empty.mid", b"")
        link = zipfile.ZipInfo("link.mid")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("cut.mid", performance(0, 0)[:-5])
        archive.writestr("README.md", "no music")
    content = bytearray(path.read_bytes())
    at = content.index(b"1/0.mid") + 30  # inside the compressed notes of that performance
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_a_hostile_archive_is_refused_or_its_bad_members_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "here"
    inside.mkdir()
    hostile_archive(inside / "bad.zip")
    settings = music(inside / "bad.zip", inside / "out")
    with pytest.raises(HeadwayError, match=r"max_skipped=0.05: 8 of 67 files had to be skipped"):
        build(settings, silent)
    assert not settings.out.exists()
    corpus = build(replace(settings, max_skipped=0.2), silent)
    reasons = {item.file: item.reason for item in corpus.description.skipped}
    assert "leads out" in reasons.pop("../../escape.mid")
    assert "leads out" in reasons.pop("/absolute.mid")
    assert "leads out" in next(reasons.pop(name) for name in list(reasons) if "windows" in name)
    assert "200-fold" in reasons.pop("bomb.mid")
    assert reasons.pop("empty.mid") == "empty"
    assert reasons.pop("link.mid") == "a link"
    assert "cut short" in reasons.pop("cut.mid")
    assert "damaged in the archive" in reasons.pop("1/0.mid")
    assert not reasons
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    total = sum(getattr(corpus.description, split).documents for split in SPLITS)
    assert total == PIECES * TAKES - 1


def test_names_of_any_bytes_and_links_in_a_folder(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "music"
    shutil.copytree(folder, inside)
    name = os.fsdecode(b"piece\xff")
    (inside / "composer/3").rename(inside / "composer" / name)
    (inside / "composer" / name / "cut.mid").write_bytes(performance(0, 0)[:-5])
    (inside / "out.mid").symlink_to(folder / "composer/1/1.mid")
    (inside / "more").symlink_to(folder)
    (inside / "broken.mid").symlink_to("nothing")
    os.mkfifo(inside / "pipe.mid")
    settings = music(inside, tmp_path / "out", workers=1)
    with pytest.raises(HeadwayError, match=r"max_skipped=0.05: 5 of 65 files"):
        build(settings, silent)
    corpus = build(replace(settings, max_skipped=0.1), silent)
    reasons = {item.file: item.reason for item in corpus.description.skipped}
    assert "cut short" in reasons.pop(r"composer/piece\udcff/cut.mid")
    assert reasons == {
        "out.mid": "a link that leads out of the folder",
        "more": "a link to a folder",
        "broken.mid": "a link to nothing",
        "pipe.mid": "no plain file",
    }
    total = sum(getattr(corpus.description, split).documents for split in SPLITS)
    assert total == PIECES * TAKES
    assert len(source_digest(str(inside), "music")) == 64


def test_a_size_that_the_table_of_an_archive_hides_is_found(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mid", os.urandom(5000))
    (file,) = raw_files(tmp_path / "a.zip", (".mid",))
    with pytest.raises(BadFile, match="more than the 4,999"):
        file.read(4_999)
    with pytest.raises(BadFile, match="more than the 4,999"):
        replace(file, size=10).read(4_999)
    assert len(file.read(5_000)) == 5_000


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "nowhere"}, "path: 'nowhere' does not exist"),
        ({"transpose": 13}, "transpose=13"),
        ({"tempos": (3.0,)}, "tempos: 3.0"),
        ({"workers": 0}, "workers=0"),
        ({"max_skipped": 1.5}, "max_skipped=1.5"),
        ({"group_by": "top"}, "make 1 group"),
        ({"groups": Path("nowhere.csv")}, "groups: 'nowhere.csv' cannot be read"),
        (
            {"kind": "text", "transpose": 3},
            "transpose: 3 is not accepted for text, which has no such option; accepted are "
            "tokenizer, vocab_size, max_characters",
        ),
        ({"kind": "text", "group_by": "top"}, "group_by: 'top' is not accepted for text"),
        ({"kind": "speech", "tempos": (1.1,)}, "tempos: (1.1,) is not accepted for speech in mel"),
        ({"kind": "speech", "codec": "mu-law", "codes": 8}, "codes: 8 .* for speech in mu-law"),
        ({"vocab_size": 300}, "vocab_size: 300 is not accepted for music"),
    ],
)
def test_refusals(folder: Path, tmp_path: Path, change: dict[str, object], told: str) -> None:
    with pytest.raises(HeadwayError, match=told.replace("(", r"\(").replace(")", r"\)")):
        build(music(folder, tmp_path / "out", **change), silent)


def test_no_music_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(HeadwayError, match="holds no file to read"):
        build(music(tmp_path, tmp_path / "out"), silent)
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 no archive")
    with pytest.raises(HeadwayError, match="cannot be read as an archive"):
        build(music(tmp_path / "a.zip", tmp_path / "out"), silent)


def test_groups_by_folder_level_and_by_table(folder: Path, tmp_path: Path) -> None:
    files = raw_files(folder, (".mid",))
    assert len(group_names(files, "file")) == PIECES * TAKES
    assert len(group_names(files, "folder")) == PIECES
    assert list(group_names(files, "top")) == ["composer"]
    table = tmp_path / "maestro.csv"
    table.write_text(
        "canonical_composer,canonical_title,split,midi_filename\n"
        'A,"Sonata, first",train,composer/0/0.mid\nA,"Sonata, first",test,composer/7/1.mid\n'
    )
    groups = group_names(files, "file", table)
    assert [file.name for file in groups["A: Sonata, first"]] == [
        "composer/0/0.mid",
        "composer/7/1.mid",
    ]
    assert len(groups) == PIECES * TAKES - 1
    table.write_text("a,b\n1,2\n")
    with pytest.raises(HeadwayError, match="has the columns a, b"):
        group_names(files, "file", table)


def test_a_document_and_a_continuation_become_midi(folder: Path, tmp_path: Path) -> None:
    corpus = build(music(folder, tmp_path / "out"), silent)
    asked = CorpusRenderSettings(folder=tmp_path / "out", out=tmp_path / "a.mid", split="test")
    assert render(asked) == tmp_path / "a.mid"
    first = next(documents(corpus, "test"))
    np.testing.assert_array_equal(encode(notes_of_midi((tmp_path / "a.mid").read_bytes())), first)
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([*first[:50].tolist(), corpus.eot]))
    render(replace(asked, tokens=ids))
    again = encode(notes_of_midi((tmp_path / "a.mid").read_bytes()))
    np.testing.assert_array_equal(again[:30], first[:30])
    for change, told in (
        ({"number": 99}, "number=99"),
        ({"number": -1}, "number=-1"),
        ({"out": tmp_path / "a.txt"}, "ends in .mid or .wav"),
    ):
        with pytest.raises(HeadwayError, match=told):
            render(replace(asked, **change))
    for empty, told in (
        ([], "tokens: .*ids.json' holds no token before"),
        ([corpus.eot], "holds no token before the end of text"),
        ([300, 200], "tokens: .*ids.json' holds no note; at least one"),
    ):
        ids.write_text(json.dumps(empty))
        with pytest.raises(HeadwayError, match=told):
            render(replace(asked, tokens=ids, out=tmp_path / "none.mid"))
    assert not (tmp_path / "none.mid").exists()
    ids.write_text("[389]")
    with pytest.raises(HeadwayError, match="0 to 388"):
        render(replace(asked, tokens=ids))
    ids.write_text("[true]")
    with pytest.raises(HeadwayError, match="0 to 388"):
        render(replace(asked, tokens=ids))


def test_the_real_performances(tmp_path: Path) -> None:
    data = os.environ.get("HEADWAY_DATA")
    if not data:
        pytest.skip("HEADWAY_DATA names no folder of data")
    archive = Path(data, "music", "asap-performances.zip")
    corpus = build(music(archive, tmp_path / "out", workers=1), silent)
    told = corpus.description
    assert told.skipped == ()
    assert sum(getattr(told, split).documents for split in SPLITS) == 292
    assert sum(getattr(told, split).seconds for split in SPLITS) / 3600 == pytest.approx(24, abs=1)
