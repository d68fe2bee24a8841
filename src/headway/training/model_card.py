"""The card of a trained model: README.md in its folder, as the hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headway.mechanisms import Mechanism
from headway.mechanisms.sizes import mechanisms_of
from headway.training.blueprint import Blueprint
from headway_train_settings import to_toml


def model_card(
    blueprint: Blueprint,
    model: Any,
    run: Mapping[str, Any],
    results: Mapping[str, Any],
    command: str,
) -> str:
    """Markdown with the front matter of the hub: use, results, data, settings, command.

    Args:
        blueprint: of the model.
        model: trained.
        run: of `headway.training.run_folder.write_run`.
        results: measured.
        command: that trained it.
    """
    settings, corpus = blueprint.settings, blueprint.corpus
    mechanisms = mechanisms_of(model.config)
    tags = ["headway", *(m.name for m in mechanisms)]
    told = corpus.description
    numbers = "\n".join(f"| {k} | {_shown(v)} |" for k, v in results.items() if v is not None)
    splits = "\n".join(
        f"| {name} | {len(getattr(corpus, name)):,} | {getattr(told, name).documents:,} |"
        for name in ("train", "validation", "test")
    )
    versions = ", ".join(f"{k} {v}" for k, v in run["versions"].items())
    return f"""\
---
library_name: transformers
pipeline_tag: text-generation
tags: {json.dumps(tags)}
---

# {settings.out.name}

{_about(settings.model, model, mechanisms)}

```python
{_use(model)}
```

## Results

Losses are in nats per token, on the validation split. How they are measured:
`headway train --help` and the documentation of headway.

| measured | |
|---|---|
{numbers}

## Data

Source: {told.source}. Documents are packed into windows of {settings.context} tokens\
{", which do not see each other" if settings.reset_positions else ""}.

| split | tokens | documents |
|---|---|---|
{splits}

## Training

```console
$ {command}
```

{run["device"]}; {versions}; started {run["started"]}.

```toml
{to_toml(settings).rstrip()}
```
"""


def _about(base: str | None, model: Any, mechanisms: list[Mechanism]) -> str:
    names = ", ".join(f"`{m.name}`" for m in mechanisms) or "no mechanisms"
    kind = f"trained on from `{base}`" if base else "trained from random weights"
    return (
        f"A `{type(model).__name__}` of {model.num_parameters():,} parameters with {names}, {kind}."
    )


def _use(model: Any) -> str:
    """Code that loads and asks the model, to be run in its folder."""
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    loader = "AutoModelForCausalLM"
    if model.config.model_type == "headway":
        imports.insert(0, "import headway  # registers the architecture")
    elif getattr(model.config, "mechanisms", None):
        imports = ["import headway", "from transformers import AutoTokenizer"]
        loader = "headway"
    return "\n".join(
        [
            *imports,
            "",
            'path = "."  # this folder, or its name on the hub',
            f"model = {loader}.from_pretrained(path)",
            "tokenizer = AutoTokenizer.from_pretrained(path)",
            'ids = tokenizer("The", return_tensors="pt").input_ids',
            "print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))",
        ]
    )


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
