"""Reading a long text in several ways: each is what it is called."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bounded import float64_llama, llama_reference
from bounded_models import family, own
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import headway_cli
from headway import HeadwayError
from headway.corpora import train_bpe
from headway.report.stream_page import stream_table
from headway.studies import streaming
from headway.waiver import stream
from headway.waiver.stream import (
    WAYS,
    affordable_stride,
    drawn_positions,
    read_stream,
    recomputed_nats,
)
from headway_settings import StreamSettings

pytest.importorskip("tyro", reason="the verb needs the package tyro")

DOCS = Path(__file__).parents[2] / "docs"
SENTENCES = [
    "The old boat lay on the shore and waited for the tide to come back.",
    "A child asked why the sea is salt, and nobody had an answer.\nSo it asked again.",
    "Two friends walked over the hill; one of them sang, the other listened.",
]
EXACT = {"rtol": 0, "atol": 1e-6}
LLAMA = float64_llama(5)


def tokens(length, seed=0):
    return torch.randint(1, 61, (length,), generator=torch.Generator().manual_seed(seed))


def nats_of(logits, targets):
    return -logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]


@settings(max_examples=15)
@given(
    length=st.integers(9, 40),
    held=st.integers(3, 7),
    stride=st.integers(1, 3),
)
@torch.no_grad()
def test_recomputed_windows_are_texts_of_their_own(length, held, stride):
    ids = tokens(length)
    got = recomputed_nats(LLAMA, ids, held, stride)
    assert got.shape == (length - 1,)
    ends = {*range(held + stride, length, stride), length - 1}
    for t in range(length - 1):
        # The window of a query is the first that ends at or behind it.
        first = 0
        if t >= held:
            end = min(e for e in ends if e > t)
            first = end - held
            assert held - stride < t + 1 - first <= held
        alone = LLAMA(ids[None, first : t + 1]).logits[0, -1]
        torch.testing.assert_close(got[t], nats_of(alone, ids[t + 1]), **EXACT)


@torch.no_grad()
def test_every_way_reads_as_it_is_called():
    ids = tokens(60)
    readings = {r.way: r for r in read_stream(LLAMA, ids, window=6, keep=(0, 2))}
    assert tuple(readings) == WAYS
    whole = nats_of(LLAMA(ids[None]).logits[0, :-1], ids[1:])
    torch.testing.assert_close(readings["full"].nats, whole, **EXACT)
    drawn = readings["random + window"].kept
    assert len(drawn) == 2
    for way, window, keep in (
        ("window", 8, ()),
        ("waivers + window", 6, (0, 2)),
        ("random + window", 6, drawn),
    ):
        expected = nats_of(llama_reference(LLAMA, ids[:-1], window, keep), ids[1:])
        torch.testing.assert_close(readings[way].nats, expected, **EXACT)
        assert readings[way].kept == keep
        assert readings[way].bytes < readings["full"].bytes
    others = {r.way: r for r in read_stream(LLAMA, ids, window=6, keep=(0, 2), seed=1)}
    assert others["random + window"].kept != drawn


def test_one_layer_forgets_nothing_that_a_recomputed_window_knows():
    """Keys of a first layer are those of the tokens alone, so a window is a text of its own."""
    for made in (own(num_hidden_layers=1), own(num_hidden_layers=1, position="alibi")):
        readings = {r.way: r for r in read_stream(made, tokens(50), window=7, keep=())}
        torch.testing.assert_close(
            readings["window"].nats, readings["recompute"].nats, rtol=0, atol=1e-5
        )
        assert readings["random + window"].reason == "nothing is kept"
        torch.testing.assert_close(
            readings["waivers + window"].nats, readings["window"].nats, rtol=0, atol=0
        )


def test_the_full_cache_may_run_out_of_memory(monkeypatch):
    asked = []

    def out_of_memory(out, targets):
        asked.append(len(targets))
        if len(asked) == 3:
            raise torch.OutOfMemoryError
        return torch.zeros(len(targets))

    monkeypatch.setattr(stream, "CHUNK", 8)
    monkeypatch.setattr(stream, "_nats", out_of_memory)
    reading = next(read_stream(LLAMA, tokens(40), window=6, keep=()))
    assert reading.reason == "out of memory after 16 tokens"
    assert reading.nats is None


def test_drawn_positions_are_others():
    for seed in range(20):
        drawn = drawn_positions(6, (0, 2), seed)
        assert len(drawn) == 2
        assert set(drawn) <= {1, 3, 4, 5}
    assert drawn_positions(3, (0, 1, 2), 0) == ()


def test_what_is_affordable():
    size = sum(p.numel() for p in LLAMA.parameters())
    assert affordable_stride(LLAMA, 1000, 100) == 1
    tokens_ = round(8 * stream.AFFORDABLE / size / 100)
    assert affordable_stride(LLAMA, tokens_, 100) == 8
    assert affordable_stride(LLAMA, 100 * tokens_, 100) == 100


def test_a_text_that_is_no_longer_than_what_is_held():
    with pytest.raises(HeadwayError, match=r"tokens: 8 are too few, as 8 are held"):
        next(read_stream(LLAMA, tokens(8), window=6, keep=(0, 1)))
    with pytest.raises(HeadwayError, match=r"stride: value is 9; accepted are 1 to the 8 tokens"):
        next(read_stream(LLAMA, tokens(30), window=6, keep=(0, 1), stride=9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama with a tokenizer, and a text."""
    place = tmp_path_factory.mktemp("stream")
    made = train_bpe(SENTENCES, 300)
    end = "<|endoftext|>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end)
    tokenizer.save_pretrained(place / "model")
    config = {"vocab_size": 300, "num_key_value_heads": 2, "max_position_embeddings": 16}
    family("llama", **config).float().save_pretrained(place / "model")
    family("gpt2", vocab_size=300).save_pretrained(place / "learned")
    tokenizer.save_pretrained(place / "learned")
    (place / "text.txt").write_text("\n".join(SENTENCES * 9), encoding="utf-8")
    return place


def call(folder, *words, model="model"):
    words = ["stream", str(folder / model), "--text", str(folder / "text.txt"), *words]
    return headway_cli.main([*words, "--out", str(folder / "out")])


def test_the_verb_prints_writes_and_draws(folder, capsys):
    assert call(folder, "--tokens", "80", "--window", "14", "--keep", "2") == 0
    said = capsys.readouterr()
    results = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert "5.0 times the trained context" in said.out
    assert [way["way"] for way in results["ways"]] == list(WAYS)
    by_way = {way["way"]: way for way in results["ways"]}
    ratio = by_way["waivers + window"]["perplexity"] / by_way["recompute"]["perplexity"]
    assert math.isclose(by_way["waivers + window"]["ratio"], ratio, rel_tol=1e-9)
    assert f"{ratio:.3f} times the perplexity" in said.out
    assert ("is met." in said.out) == (ratio <= 1.05)
    assert by_way["recompute"]["ratio"] == 1.0
    for row in stream_table(results).rows:
        assert all(cell in said.out for cell in row)
    curve = by_way["window"]["curve"]
    mean = sum(math.log(p) for p in curve["perplexity"]) / len(curve["perplexity"])
    assert len(curve["token"]) == 42
    assert 3 < mean < 12
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "Perplexity along the text" in page
    assert "http://" not in page.split("<script>")[0].replace("http://www.w3.org", "")


def test_json_and_auto(folder, capsys):
    assert call(folder, "--tokens", "80", "--window", "14", "--keep", "auto", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["kept"] == results["ways"][2]["kept"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", "1"], "window: value is 1; accepted are 2 and more"),
        (["--keep", "-1"], "keep: value is -1; accepted are a number of first tokens from 0"),
        (["--window", "8", "--keep", "9"], "keep: value is 9; accepted are"),
        (["--tokens", "1"], "tokens: value is 1; accepted are 2 and more"),
        (["--stride", "0"], "stride: value is 0; accepted are 1 and more"),
        (["--tokens", "99999"], "tokens: 99999 are asked for, and the text"),
        (["--tokens", "20", "--window", "18"], "tokens: 20 are too few, as 22 are held"),
        (["--device", "cuda:99"], None),
    ],
)
def test_bad_input_is_one_sentence(folder, capsys, words, said):
    options = {"--tokens": "80", "--window": "14"} | dict(zip(words[::2], words[1::2], strict=True))
    if said is None:
        with pytest.raises(SystemExit) as leaving:
            call(folder, *(word for pair in options.items() for word in pair))
        assert leaving.value.code == 2
        return
    assert call(folder, *(word for pair in options.items() for word in pair)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("headway: ")
    assert said in error


def test_models_that_cannot(folder, capsys):
    assert call(folder, "--tokens", "60", "--window", "14", model="learned") == 2
    assert "'gpt2' adds its positions" in capsys.readouterr().err
    assert call(folder, model="nothing") == 2
    assert "is no folder" in capsys.readouterr().err
    (folder / "file").write_text("", encoding="utf-8")
    words = ["stream", str(folder / "model"), "--out", str(folder / "file")]
    assert headway_cli.main(words) == 2
    assert "is a file; accepted is a folder" in capsys.readouterr().err


def test_perplexities_that_no_float_holds(folder, monkeypatch, capsys):
    def read(model, ids, window, keep, stride, seed, say):
        for way in WAYS:
            nats = torch.full((len(ids) - 1,), 1.0, dtype=torch.float64)
            if way != "recompute":
                nats[40] = math.inf
            yield stream.Reading(way, (), 16, nats, 1.0, 10)

    monkeypatch.setattr(streaming, "read_stream", read)
    assert call(folder, "--tokens", "80", "--window", "14", "--keep", "2") == 0
    said = capsys.readouterr().out
    assert "gave no finite perplexity" in said
    assert "not finite" in said


@pytest.mark.parametrize(("context", "warned"), [(516, False), (515, True), (None, False)])
def test_more_than_the_trained_context_at_once_is_said(context, warned):
    ways = [{"way": "waivers + window", "ratio": 1.01, "sees": 516}]
    results = {"model": {"context": context}, "tokens": 3000, "kept": [0], "target": 1.05}
    said = streaming.verdict(results | {"ways": ways})
    assert ("sees 516 tokens at once, and was trained on 515" in said) is warned


def test_the_page_of_documentation_shows_what_the_command_printed():
    page = (DOCS / "streaming.md").read_text(encoding="utf-8")
    files = sorted((DOCS / "results" / "streaming").glob("*.json"))
    assert len(files) == 4
    for file in files:
        results = json.loads(file.read_text(encoding="utf-8"))
        assert f"$ {results['command']}\n" in page
        assert streaming.verdict(results) in page
        printed = [" ".join(line.split()) for line in page.splitlines()]
        for row in stream_table(results).rows:
            assert " ".join(" ".join(row).split()) in printed


def test_stories_read_on_within_five_per_cent(tmp_path):
    data = os.environ.get("HEADWAY_DATA")
    if not data or not (Path(data) / "models" / "stories260K").is_dir():
        pytest.skip("set HEADWAY_DATA to the folder that holds models/stories260K")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = Path(data) / "models" / "stories260K"
    model = AutoModelForCausalLM.from_pretrained(where).eval()
    begin = AutoTokenizer.from_pretrained(where).bos_token_id
    torch.manual_seed(0)
    told = model.generate(
        torch.full((6, 1), begin), do_sample=True, top_k=0, max_new_tokens=200, pad_token_id=2
    )
    ids = torch.cat([told[0, :1], told[:, 1:][told[:, 1:] != 2]])[:900]
    readings = {r.way: r.nats for r in read_stream(model, ids, 60, range(4), stride=8)}
    cost = readings["waivers + window"] - readings["recompute"]
    assert float(cost[64:].mean().exp()) < 1.05
    # Beyond the trained context the full cache gets lost.
    assert readings["full"][700:].mean() > readings["recompute"][700:].mean()


def test_help_comes_without_torch():
    code = """
import sys, headway_cli
try:
    headway_cli.main(["stream", "--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("False\n")
    assert "headway stream my-llama --text book.txt" in done.stdout


def test_a_text_that_was_not_named_is_called_what_it_is():
    short = SimpleNamespace(input_ids=[1, 2])
    with pytest.raises(
        HeadwayError, match="5 are asked for, and the text of Python's sources gives 2;"
    ):
        streaming._tokens(StreamSettings(model="m", tokens=5), lambda *_, **__: short, ["a"])
