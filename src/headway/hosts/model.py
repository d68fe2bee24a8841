"""A host's stack of layers and its model with a head, with mechanisms attached."""

import json
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from headway.decoder.cache import HeadwayCache
from headway.decoder.cache_name import CACHE, NEW, OLD, given_cache
from headway.decoder.generation import HeadwayGeneration, check_pages
from headway.decoder.observer import OBSERVED
from headway.errors import HeadwayError
from headway.files import write_atomically
from headway.hosts.host_pass import HostPass, find_positions
from headway.hosts.mixin import FamilyMixin
from headway.hosts.parts import ModelParts
from headway.mechanisms.base import Learned
from headway.mechanisms.frequency import check_counts, standardised_log_counts
from headway.mechanisms.sizes import CONFIG_FIELD


class InitialisesParts(FamilyMixin):
    """Initial values of what attaching added, asked for by transformers."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Families whose norms start at zero (Gemma) would set ours to zero as well.
        if isinstance(module, Learned | nn.RMSNorm):
            module.reset_parameters()
        else:
            cast(Any, super())._init_weights(module)


class HostModel(InitialisesParts):
    """Stands before a family's model class (the stack of layers) in a class made of both."""

    headway: ModelParts
    config: Any
    input_names: ClassVar[tuple[str, ...]]
    """Names of the forward's arguments, in order."""

    def set_token_counts(self, counts: Tensor) -> None:
        """Give mechanisms that read token frequencies the training text's counts `(V,)`.

        Raises:
            HeadwayError: not one count a token, or the tokens that occur are equally frequent.
        """
        known = self.headway.token_log_frequency
        if known is not None:
            known.copy_(standardised_log_counts(counts, len(known)))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the family's own. An empty cache of transformers becomes a `HeadwayCache`.

        Raises:
            HeadwayError: a cache that was filled elsewhere, or one of pages.
        """
        kwargs.update(zip(self.input_names, args, strict=False))
        check_pages(self.config, kwargs.get(NEW))
        cache = self._cache(kwargs)
        for name in (OLD, NEW):
            kwargs.pop(name, None)
        kwargs[CACHE] = cache
        kwargs["headway"] = self.start_pass(kwargs)
        return super().forward(**kwargs)

    def start_pass(self, inputs: dict[str, Any]) -> HostPass:
        """What the layers share, from the arguments of the forward."""
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        shown = embeds if ids is None else ids
        if shown is None:
            raise HeadwayError("input_ids: exactly one of input_ids and inputs_embeds is accepted")
        # An observer edits what is encoded; mechanisms keep to the positions in the text.
        observed = self.config._attn_implementation == OBSERVED
        positions = find_positions(
            shown.shape[0],
            shown.shape[1],
            shown.device,
            given_cache(inputs),
            inputs.get("attention_mask"),
            None if observed else inputs.get("position_ids"),
        )
        return HostPass(positions, self._log_frequency(ids), torch.is_grad_enabled())

    def _cache(self, inputs: dict[str, Any]) -> HeadwayCache | None:
        given, wanted = given_cache(inputs), inputs.get("use_cache")
        if wanted is None:
            wanted = self.config.use_cache and not self.training
        if self.training and getattr(self, "gradient_checkpointing", False):
            given, wanted = None, False
        inputs["use_cache"] = wanted
        layers = self.headway.cache_layers
        if given is None:
            return HeadwayCache(self.config, layers=layers) if wanted else None
        return HeadwayCache.adopt(given, self.config, layers)

    def _log_frequency(self, input_ids: Tensor | None) -> Tensor | None:
        known = self.headway.token_log_frequency
        if known is None:
            return None
        if input_ids is None:
            raise HeadwayError(
                "inputs_embeds: not accepted with a mechanism that reads token frequencies; "
                "accepted is input_ids"
            )
        if self.training:
            check_counts(known)
        return known.to(input_ids.device)[input_ids]


class HostForCausalLM(HeadwayGeneration, InitialisesParts):
    """Stands before a family's model with a head in a class made of both."""

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As transformers does, and the table of token frequencies with them."""
        embedding: nn.Module = cast(Any, super()).resize_token_embeddings(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, ModelParts):
                module.resize(self.config.vocab_size)
        return embedding

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As transformers does. The configuration carries the mechanisms, and a mark that stops
        transformers from loading the folder without them.

        Raises:
            HeadwayError: asked to push at once, before the mark is set.
        """
        if kwargs.get("push_to_hub"):
            raise HeadwayError(
                "push_to_hub: true is not accepted here; call model.push_to_hub(repo_id), which "
                "saves as this does"
            )
        cast(Any, super()).save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            _mark(Path(save_directory) / "config.json")


def _mark(file: Path) -> None:
    # With an adapter added, transformers writes that alone; what lies there may be another's.
    written = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if CONFIG_FIELD in written:
        marked = written | {"attn_implementation": MARK}
        write_atomically(file, json.dumps(marked, indent=2, sort_keys=True) + "\n")


MARK = "headway: this model has attached mechanisms; load it with headway.from_pretrained(path)"
"""Stands in the saved configuration where transformers expects the name of an attention
implementation; transformers quotes it when it refuses the folder."""
