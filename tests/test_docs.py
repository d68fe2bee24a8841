"""The documentation agrees with the code: links, options, costs, presets, and code that runs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import tyro
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import headway
from headway import HeadwayCache, HeadwayConfig, HeadwayForCausalLM, Mechanism
from headway.studies.presets import PRESETS, resolve_arms
from headway_settings import CompareSettings
from properties.strategies import drawn, make_loud

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
NAMES = sorted(n for n, cls in Mechanism.registry.items() if cls.__module__.startswith("headway."))
OWN = DOCS / "add-a-mechanism.md"
HOST = DOCS / "add-a-host.md"  # tests/hosts/test_add_a_host.py runs it
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fences(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for _, kind, body in found if kind == language]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def rows(page: Path) -> list[list[str]]:
    """The cells of every table row of a page."""
    lines = (line for line in prose(page).splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def anchors(page: Path) -> set[str]:
    """What a link may name in a page, by GitHub's rule."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def page_of(name: str) -> Path:
    return DOCS / "mechanisms" / f"{name}.md"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{label(page)} links to {target}"
        assert path.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(path), f"{label(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)[^)]*\)", prose(page)):
            todo += [p for p in [(page.parent / target).resolve()] if p.exists()]
    assert set(PAGES) <= reached


def test_pages_are_those_of_the_mechanisms() -> None:
    assert sorted(p.stem for p in (DOCS / "mechanisms").glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_mechanism_stands_in_the_tables(name: str) -> None:
    cls = Mechanism.registry[name].__name__
    for page, link in ((README, f"docs/mechanisms/{name}.md"), (DOCS / "index.md", None)):
        wanted = f"[{cls}]({link or f'mechanisms/{name}.md'})"
        assert any(row[0] == wanted for row in rows(page)), wanted


def test_the_index_lists_mechanisms_in_the_order_of_the_data() -> None:
    linked = re.findall(r"\| \[\w+\]\(mechanisms/(\w+)\.md\)", prose(DOCS / "index.md"))
    places = [Mechanism.registry[name].place for name in linked]
    assert len(linked) == len(NAMES)
    assert places == sorted(places)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_told_with_its_default(name: str) -> None:
    told = {row[0]: row[1:] for row in rows(page_of(name))}
    for field in dataclasses.fields(Mechanism.registry[name]):
        cells = told.get(f"`{field.name}`")
        assert cells is not None, f"{name}.{field.name} is missing in {label(page_of(name))}"
        assert cells[0] == f"`{field.default!r}`".replace("'", '"'), f"{name}.{field.name}"
    options = {row[0].strip("`") for row in rows(page_of(name)) if row[0].startswith("`")}
    assert options == {field.name for field in dataclasses.fields(Mechanism.registry[name])}


def choices(hint: Any) -> set[str]:
    """The words that an annotation accepts."""
    if get_origin(hint) is Literal:
        return {a for a in get_args(hint) if isinstance(a, str)}
    return set().union(*(choices(part) for part in get_args(hint)))


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_is_told(name: str) -> None:
    told = {row[0]: " ".join(row[1:]) for row in rows(page_of(name))}
    for option, hint in get_type_hints(Mechanism.registry[name]).items():
        for choice in choices(hint) if f"`{option}`" in told else ():
            assert f'"{choice}"' in told[f"`{option}`"], f"{name}.{option}: {choice}"


@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_the_new_parameters_are_as_told(name: str, heads: tuple[int, int]) -> None:
    (told,) = re.findall(r"New parameters with the default options: `(.+?)`", prose(page_of(name)))
    sizes: dict[str, Any] = {
        "vocab_size": 30,
        "hidden_size": 36,
        "num_hidden_layers": 5,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 6,
    }

    def count(mechanisms: list[Mechanism]) -> int:
        with torch.device("meta"):
            made = HeadwayForCausalLM(HeadwayConfig(**sizes, mechanisms=mechanisms))
        return made.num_parameters()

    values = {"H": heads[0], "G": heads[1], "D": 6, "L": 5, "C": 36}
    assert count([Mechanism.registry[name]()]) - count([]) == eval(told, values)


@pytest.mark.parametrize("name", NAMES)
def test_mechanism_pages_have_their_sections(name: str) -> None:
    titles = re.findall(r"^## (.*)$", prose(page_of(name)), re.MULTILINE)
    assert titles == [
        "What it does",
        "Options",
        "Initialisation",
        "Cache",
        "When it should help",
        "Published numbers",
        "Cost",
        "Our result",
        "Errata and assumptions",
        "Use",
    ]
    assert "(../results.md)" in prose(page_of(name))


def test_presets_are_as_told() -> None:
    told = {row[0].strip("`"): row[1].strip("`") for row in rows(README) if row[0][0] == "`"}
    assert list(told) == list(PRESETS)
    for name, code in told.items():
        made = eval(code, {**vars(headway), "hidden_size": 48})
        assert made == PRESETS[name](48), name


def test_every_setting_is_told() -> None:
    options = [row[0] for row in rows(DOCS / "compare.md") if row[0].startswith("`--")]
    told = {name.replace("-", "_") for cell in options for name in re.findall(r"`--(.+?)`", cell)}
    assert told == {field.name for field in dataclasses.fields(CompareSettings)}


def commands() -> Iterator[str]:
    """All `headway compare` lines that the documentation shows, those of wrong use left out."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^\$ (headway compare[^#\n]*)", text, re.MULTILINE)
        found += re.findall(r"`(headway compare [^`]*)`", text)
        yield from (c.strip() for c in found if "kv_shfit" not in c and "--help" not in c)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_are_understood(command: str) -> None:
    words = shlex.split(command)[2:]
    asked = tyro.cli(CompareSettings, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    arms = resolve_arms(asked.arms, asked.hidden_size)
    for mechanisms in arms.values():
        HeadwayConfig(num_hidden_layers=asked.num_hidden_layers, mechanisms=mechanisms)


def test_json_arms_are_understood(tmp_path: Path) -> None:
    (told,) = fences(README, "json")
    (tmp_path / "arms.json").write_text(told)
    arms = resolve_arms([str(tmp_path / "arms.json")], 64)
    assert list(arms) == ["vanilla", *json.loads(told)]


CODE = [p for p in PAGES if fences(p, "python") and p not in (OWN, HOST)]


@pytest.mark.parametrize("page", CODE, ids=label)
def test_the_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "page"}
    for block in fences(page, "python"):
        exec(compile(block, label(page), "exec"), names)


def test_the_example_with_a_model_of_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [b for b in fences(README, "text") if "headway.attach(" in b]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=20, num_attention_heads=2, **sizes)
    LlamaForCausalLM(config).save_pretrained("my-llama")
    names: dict[str, Any] = {}
    exec(compile(code, label(README), "exec"), names)
    assert headway.attached(headway.from_pretrained("my-llama-with-mechanisms"))
    assert not headway.attached(names["model"])


def test_the_tutorial_shows_the_whole_example() -> None:
    page, example = DOCS / "tutorial-hosts.md", ROOT / "examples" / "attach.py"

    def written(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.strip()]

    assert written("\n".join(fences(page, "python"))) == written(example.read_text("utf-8"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The mechanism that the page on adding one shows, as a file of its own."""
    monkeypatch.setattr(Mechanism, "registry", dict(Mechanism.registry))
    monkeypatch.syspath_prepend(str(tmp_path))
    (code,) = fences(OWN, "python")
    assert len(code.splitlines()) < 100
    (tmp_path / "head_temperature.py").write_text(code)
    yield importlib.import_module("head_temperature")
    del sys.modules["head_temperature"]


@pytest.fixture
def tempered(own: ModuleType) -> HeadwayForCausalLM:
    torch.manual_seed(0)
    config = HeadwayConfig(
        vocab_size=40,
        hidden_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        qk_norm=True,
        mechanisms=[headway.KVShift(), own.HeadTemperature(start=0.7)],
    )
    model = HeadwayForCausalLM(config).double().eval()
    make_loud(model)
    return model


def test_the_added_mechanism_is_causal(tempered: HeadwayForCausalLM) -> None:
    tokens = torch.randint(40, (2, 9))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 40
    with torch.no_grad():
        before, after = tempered(tokens).logits, tempered(changed).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5], after[:, 5])


@pytest.mark.parametrize("static", [False, True])
def test_the_added_mechanism_decodes(tempered: HeadwayForCausalLM, static: bool) -> None:
    tokens = torch.randint(40, (2, 9))
    cache = HeadwayCache(tempered.config, max_cache_len=9 if static else None)
    with torch.no_grad():
        parts = [tempered(p, past_key_values=cache).logits for p in tokens.split([4, 1, 1, 3], 1)]
        whole = tempered(tokens, use_cache=False).logits
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)


def test_the_added_mechanism_generates_and_packs(tempered: HeadwayForCausalLM) -> None:
    tokens = torch.randint(40, (1, 9))
    options = {"max_new_tokens": 5, "do_sample": False}
    generated = tempered.generate(tokens, **options)
    assert torch.equal(generated, tempered.generate(tokens, use_cache=False, **options))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    with torch.no_grad():
        packed = tempered(tokens, position_ids=positions).logits
        apart = [tempered(document).logits for document in tokens.split([4, 5], dim=1)]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1), rtol=0, atol=1e-12)


def test_the_added_mechanism_is_saved_and_loaded(
    tempered: HeadwayForCausalLM, tmp_path: Path
) -> None:
    tempered.save_pretrained(tmp_path / "model")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float64).eval()
    tokens = torch.randint(40, (2, 9))
    assert read.config.mechanism_list() == tempered.config.mechanism_list()
    weights = tempered.state_dict()
    assert read.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in read.state_dict().items())
    with torch.no_grad():  # some processors round otherwise where a matrix lies otherwise in memory
        torch.testing.assert_close(read(tokens).logits, tempered(tokens).logits, rtol=0, atol=1e-12)


def test_the_added_mechanism_starts_and_learns(own: ModuleType) -> None:
    torch.manual_seed(0)
    plain = HeadwayForCausalLM(HeadwayConfig(vocab_size=40, hidden_size=24))
    changed = HeadwayForCausalLM(
        HeadwayConfig(vocab_size=40, hidden_size=24, mechanisms=[own.HeadTemperature()])
    )
    changed.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randint(40, (2, 9))
    out = changed(tokens, labels=tokens, skip_logits=False)
    assert torch.equal(out.logits, plain(tokens).logits)
    out.loss.backward()
    (temperature,) = changed.model.layers[0].self_attn.mechanisms.members.values()
    assert temperature.log_scale.grad.any()
    assert temperature.learned()["temperature"].tolist() == [1.0] * 4
    with pytest.raises(headway.HeadwayError, match=r"head_temperature\.start"):
        own.HeadTemperature(start=0.0)


@pytest.mark.parametrize("start", [1, 0.7])
def test_attach_warns_of_the_added_mechanism_where_logits_change(
    own: ModuleType, start: float
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=20, num_attention_heads=2, initializer_range=0.5, **sizes)
    model, tokens = LlamaForCausalLM(config).eval(), torch.randint(20, (2, 9))
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        before = model(tokens).logits
        headway.attach(model, [own.HeadTemperature(start=start)])
        stays = torch.equal(model(tokens).logits, before)
    told = [str(warning.message) for warning in caught]
    assert stays == (start == 1) == (not told)
    assert all(
        line.endswith("as head_temperature start(s) away from the identity") for line in told
    )


def test_the_added_mechanism_is_an_arm(own: ModuleType, tmp_path: Path) -> None:
    (told,) = re.findall(r"`(\{\"tempered\".*?\})`", prose(OWN))
    (tmp_path / "arms.json").write_text(told)
    arms = resolve_arms([str(tmp_path / "arms.json")], 64)
    assert arms == {"vanilla": [], "tempered": [own.HeadTemperature()]}


def test_the_line_for_the_property_tests(own: ModuleType) -> None:
    (line,) = [b for b in fences(OWN, "text") if "drawn(" in b]
    names = {"drawn": drawn, "st": st, "HeadTemperature": own.HeadTemperature}
    ((name, strategy),) = eval("{" + line.strip() + "}", names).items()
    assert name == own.HeadTemperature.name

    @given(strategy)
    @settings(max_examples=5)
    def holds(mechanism: Mechanism) -> None:
        assert isinstance(mechanism, own.HeadTemperature)

    holds()
