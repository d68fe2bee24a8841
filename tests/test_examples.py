"""The examples do what they say: models learn, decoding equals one forward pass, files load."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    """An example as a module, its `main` not called."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def own() -> ModuleType:
    return load("own_attention")


def test_every_example_is_tested() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {"attach", "own_attention", "quickstart"}


def test_the_quickstart_saves_and_loads(capsys: pytest.CaptureFixture[str]) -> None:
    load("quickstart").main()
    told = capsys.readouterr().out
    assert "the loaded model generates the same: True" in told
    assert "KVShift(" in told.partition("mechanisms of the loaded model:")[2]


@pytest.mark.parametrize("given", [False, True])
def test_attach_tunes_saves_and_loads(
    given: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = load("attach")
    options = ["--steps", "12", "--characters", "200000", "--first-steps", "12"]
    if given:
        tokenizer = example.make_tokenizer(["some text to learn a few tokens from"])
        example.make_llama(tokenizer).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        options += ["--model", str(tmp_path)]
    example.main([*options, "--prompt", "def __init__"])
    told = capsys.readouterr().out
    runs = re.findall(r"(with\w*) mechanisms: held-out loss ([\d.]+) -> ([\d.]+)", told)
    assert [name for name, _, _ in runs] == ["without", "with"]
    (_, start, plain), (_, also, changed) = runs
    assert start == also
    assert plain != changed
    assert max(float(plain), float(changed)) < float(start)
    same = dict(re.findall(r"^the same logits(.*): (\w+)$", told, re.MULTILINE))
    assert same == {"": "True", " after detaching": "False", " after attaching": "True"}
    assert "loaded: kv_shift, selective_attention" in told
    assert "\ndef __init__" in told


def test_own_attention_learns_and_writes(
    own: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    own.main(["--steps", "15", "--characters", "200000"])
    told = capsys.readouterr().out
    runs = re.findall(r"(with\w*) mechanisms: held-out loss ([\d.]+) -> ([\d.]+)", told)
    assert [name for name, _, _ in runs] == ["without", "with"]
    for _, before, after in runs:
        assert float(after) < float(before) - 1
    (difference,) = re.findall(r"against at once: (\S+)", told)
    assert float(difference) < 1e-4
    assert "def __init__(self, " in told


def test_both_models_start_from_the_same_other_weights(own: ModuleType) -> None:
    plain, changed = own.make_gpt([], 3).state_dict(), own.make_gpt(own.MECHANISMS, 3).state_dict()
    added = set(changed) - set(plain)
    assert added
    assert all(".mechanisms." in name for name in added)
    assert all(torch.equal(plain[name], changed[name]) for name in plain)


def test_decoding_with_states_equals_the_whole(own: ModuleType) -> None:
    model = own.make_gpt(own.MECHANISMS, 0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        tokens = torch.randint(256, (1, 20))
        whole = model(tokens)
        caches = [own.LayerCache() for _ in range(own.LAYERS)]
        chunks = [tokens[:, :7], *tokens[:, 7:].split(1, dim=1)]
        stepwise = torch.cat([model(chunk, caches) for chunk in chunks], dim=1)
        torch.testing.assert_close(stepwise, whole, rtol=0, atol=1e-10)
        for cache in caches:  # the states are what makes it so
            cache.state = own.DecodeState()
        last = torch.randint(256, (1, 1))
        forgetful = model(last, caches)[:, -1]
        expected = model(torch.cat([tokens, last], dim=1))[:, -1]
        assert (forgetful - expected).abs().max() > 1e-3


def test_the_gpt_is_causal(own: ModuleType) -> None:
    model, tokens = own.make_gpt(own.MECHANISMS, 0), torch.randint(256, (2, 12))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6], after[:, 6])
