"""The decoder as transformers models: `HeadwayModel` and `HeadwayForCausalLM`."""

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from headway.decoder.block import Block, Depth
from headway.decoder.cache import HeadwayCache, layers_wanted
from headway.decoder.cache_name import CACHE, NEW, OLD, given_cache
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.forward_pass import ForwardPass, Probe, start_pass
from headway.decoder.generation import HeadwayGeneration, check_pages
from headway.decoder.head_loss import causal_lm_loss
from headway.decoder.norms import make_norm
from headway.decoder.projection import untouched
from headway.errors import HeadwayError
from headway.mechanisms.attention_residual import DepthRead
from headway.mechanisms.base import Learned, Place
from headway.mechanisms.context import Streams
from headway.mechanisms.frequency import check_counts, standardised_log_counts
from headway.mechanisms.scalar_mix import FinalMix
from headway.safe_loading import one_sentence


class HeadwayPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = HeadwayConfig
    config: HeadwayConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = [OLD, NEW]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> Self:
        """Load as transformers does, but from safetensors only: a pickle can run code.

        Raises:
            HeadwayError: no safetensors there, a damaged file, or weights of other shapes.
        """
        kwargs["use_safetensors"] = True
        with one_sentence(f"pretrained_model_name_or_path: {str(pretrained_model_name_or_path)!r}"):
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Refuse reentrant checkpoints: they see no gradients of tensors inside tuples."""
        options = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and options.get("use_reentrant", True):
            raise HeadwayError(
                "gradient_checkpointing_kwargs: use_reentrant=True would lose the gradients of "
                "what layers hand on; accepted is {'use_reentrant': False}"
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Matrices from N(0, initializer_range), norms at one, mechanisms as they say."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm):
                nn.init.zeros_(module.bias)
        elif isinstance(module, Learned):
            module.reset_parameters()
        elif isinstance(module, HeadwayModel) and module.token_log_frequency is not None:
            nn.init.zeros_(module.token_log_frequency)


class HeadwayModel(HeadwayPreTrainedModel):
    """Embedding, layers and final norm, without the head."""

    token_log_frequency: Tensor | None

    def __init__(self, config: HeadwayConfig) -> None:
        super().__init__(config)
        mechanisms, dims = config.mechanism_list(), config.dims()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = None
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(config, i, mechanisms) for i in range(config.num_hidden_layers)
        )
        self.needs_lse = any(getattr(m, "needs_lse", False) for m in self.layers.modules())
        self.norm = make_norm(config)
        built = {
            m.place: m.build(dims, config.num_hidden_layers)
            for m in mechanisms
            if m.place in (Place.SUBLAYER, Place.FINAL)
        }
        self.final_read = cast(DepthRead | None, built.get(Place.SUBLAYER))
        self.final_mix = cast(FinalMix | None, built.get(Place.FINAL))
        self.cache_layers = layers_wanted(mechanisms, dims)
        places = {m.place for m in mechanisms}
        self.keep_updates = Place.SUBLAYER in places
        self.keep_outputs = bool(places & {Place.LAYER, Place.FINAL})
        counts = (
            torch.zeros(config.vocab_size) if any(m.needs_frequency for m in mechanisms) else None
        )
        self.register_buffer("token_log_frequency", counts)
        self.gradient_checkpointing = False
        self.post_init()

    def set_token_counts(self, counts: Tensor) -> None:
        """Give mechanisms that read token frequencies the training text's counts `(V,)`.

        Stored as `standardised_log_counts`. Without such a mechanism nothing is stored.

        Raises:
            HeadwayError: not one count a token, or the tokens that occur are equally frequent.
        """
        if self.token_log_frequency is None:
            return
        vocabulary = len(self.token_log_frequency)
        self.token_log_frequency.copy_(standardised_log_counts(counts, vocabulary))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HeadwayCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        probe: Probe | None = None,
        cache: HeadwayCache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Run all layers.

        Args:
            input_ids: `(B, T)`, or give `inputs_embeds` `(B, T, hidden_size)`.
            attention_mask: `(B, earlier + T)`; padding on the left or on the right.
            position_ids: `(B, T)`, restarting at 0 with every packed document.
            past_key_values: a `HeadwayCache`, or an empty cache of transformers, which becomes
                one; with `use_cache` and None a new one is returned.
            output_hidden_states: also return the embedding and every layer's output.
            probe: called by every attention, see `headway.decoder.forward_pass.Probe`.
            cache: the name of `past_key_values` in transformers from 5.24 on.

        Raises:
            HeadwayError: an input of another form.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise HeadwayError("input_ids: exactly one of input_ids and inputs_embeds is accepted")
        if output_attentions:
            raise HeadwayError(
                "output_attentions: true is not accepted, as no backend keeps T x T matrices; "
                "give a probe, which sees queries and keys"
            )
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(given_cache({OLD: past_key_values, NEW: cache}), use_cache)
        run = start_pass(
            self.config,
            hidden,
            attention_mask,
            position_ids,
            cache,
            log_frequency=self._log_frequency(input_ids),
            probe=probe,
            need_lse=self.needs_lse,
        )
        if self.embed_positions is not None:
            self._check_length(run)
            hidden = hidden + self.embed_positions(run.encoded)
        keep = self.keep_outputs or bool(output_hidden_states)
        depth = Depth(hidden, (hidden,) if self.keep_updates else None, (hidden,) if keep else None)
        streams = Streams()
        for layer in self.layers:
            depth, streams = layer(depth, streams, run)
        hidden = depth.read(self.final_read)
        if self.final_mix is not None:
            hidden = self.final_mix(cast(tuple[Tensor, ...], depth.outputs))
        result = BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden),
            hidden_states=cast(Any, depth.outputs if output_hidden_states else None),
            **cast(Any, {CACHE: cache}),
        )
        return result.to_tuple() if return_dict is False else result

    def _cache(self, given: Any, use_cache: bool | None) -> HeadwayCache | None:
        if self.gradient_checkpointing and self.training:
            return None
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        if given is None and wanted:
            return HeadwayCache(self.config, layers=self.cache_layers)
        if given is None:
            return None
        return HeadwayCache.adopt(given, self.config, self.cache_layers)

    def _log_frequency(self, input_ids: Tensor | None) -> Tensor | None:
        if self.token_log_frequency is None:
            return None
        if input_ids is None:
            raise HeadwayError(
                "inputs_embeds: not accepted with a mechanism that reads token frequencies; "
                "accepted is input_ids"
            )
        if self.training:
            check_counts(self.token_log_frequency)
        return self.token_log_frequency[input_ids]

    def _check_length(self, run: ForwardPass) -> None:
        most = self.config.max_position_embeddings
        if run.visible.whole_rows:
            longest = run.visible.keys
        elif torch.compiler.is_compiling():
            return
        else:
            longest = int(run.positions.max()) + 1
        if longest > most:
            raise HeadwayError(
                f"input_ids: {longest} tokens are too many for position='learned'; accepted are up "
                f"to max_position_embeddings={most}"
            )


class HeadwayForCausalLM(HeadwayGeneration, HeadwayPreTrainedModel, GenerationMixin):
    """The decoder with a language-model head, for training and `generate`."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: HeadwayConfig) -> None:
        super().__init__(config)
        self.model = HeadwayModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: HeadwayCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        skip_logits: bool | None = None,
        cache: HeadwayCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits `(B, T, vocab_size)` and, with `labels` `(B, T)`, the next-token loss in nats.

        Labels are shifted here; -100 is left out. Or give `shift_labels` `(B, T)`, each position's
        own label. Where a training step needs only the loss, logits are None and never stand in
        memory as a whole. Other arguments: see `HeadwayModel.forward`. `logits_to_keep=n` computes
        the logits of the last n positions only.

        Args:
            skip_logits: give no logits beside the loss; None: while training.

        Raises:
            HeadwayError: an input of another form.
        """
        check_pages(self.config, cache)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{k: v for k, v in kwargs.items() if k in PASSED_ON},
        )
        hidden, loss, logits = out.last_hidden_state, None, None
        told = {k: v for k, v in kwargs.items() if k in OF_THE_LOSS and v is not None}
        learns = labels is not None or "shift_labels" in told
        skip = learns and (self.training if skip_logits is None else skip_logits)
        if skip and self._fuses_the_loss():
            loss = causal_lm_loss(hidden, self.lm_head.weight, labels, **told)
        else:
            last = isinstance(logits_to_keep, int)
            logits = self.lm_head(
                hidden[:, slice(-logits_to_keep, None) if last else logits_to_keep]
            )
            if learns:
                size = self.config.vocab_size
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **told)
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=None if skip else logits,
            hidden_states=out.hidden_states,
            **cast(Any, {CACHE: getattr(out, CACHE)}),
        )
        return result.to_tuple() if return_dict is False else result

    def _fuses_the_loss(self) -> bool:
        """Whether head and loss are what they were built as: no adapter, hook or other loss."""
        return untouched(self.lm_head) and self.loss_function is ForCausalLMLoss

    @staticmethod
    def create_masks_for_generate(**kwargs: Any) -> None:
        """Compiled decoding needs no mask: positions say who sees whom."""
        return None


PASSED_ON = ("output_hidden_states", "output_attentions", "probe")
OF_THE_LOSS = ("num_items_in_batch", "shift_labels")
