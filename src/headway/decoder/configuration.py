"""Sizes and choices of a decoder, in transformers' names."""

from typing import Any, ClassVar, Self

from transformers import PreTrainedConfig

from headway.decoder.cache_name import NEW, OLD
from headway.decoder.config_checks import check_names, check_values, even_split
from headway.errors import HeadwayError
from headway.mechanisms.base import Dims, Mechanism
from headway.mechanisms.compose import check_list
from headway.mechanisms.recommended import RECOMMENDED, RECOMMENDED_FIELDS
from headway.mechanisms.sizes import dims_of, mechanisms_of


class HeadwayConfig(PreTrainedConfig):
    """Configuration of `HeadwayModel`.

    Attributes:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
        head_dim, max_position_embeddings, initializer_range, rope_theta, tie_word_embeddings:
            as in transformers' Llama.
        intermediate_size: width of the feed-forward part; None is 8/3 hidden_size for SwiGLU and
            4 hidden_size for GELU, rounded up to a multiple of 8.
        hidden_act: 'silu' (SwiGLU) or 'gelu' (two matrices).
        norm: 'rms', 'layer', or 'none' (toys).
        norm_eps: epsilon of all norms.
        qk_norm: RMSNorm of queries and keys per head.
        position: 'rope', 'learned', 'alibi' or 'none'.
        attention_bias: biases in the four attention projections.
        attention_multiplier: factor on the scores; None is head_dim ** -0.5 (Granite's name).
        mechanisms: list of mechanisms, or their JSON form.
        attn_implementation: 'sdpa' (default), 'flex_attention' or 'eager'.

    A name that is no field and that transformers does not store is refused, as it would have no
    effect. Only a saved configuration, which carries a `transformers_version`, may hold others: a
    newer transformers may have added them, and the folder must stay loadable.

    Raises:
        HeadwayError: an unknown field, or a value, a pair of sizes or a list of mechanisms that has
            no meaning.
    """

    model_type = "headway"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [OLD, NEW]
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        "embed_tokens": "embedding_rowwise",
        "layers.*.self_attn": "headway_heads",
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }

    vocab_size: int = 32_000
    hidden_size: int = 256
    intermediate_size: int | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    norm: str = "rms"
    norm_eps: float = 1e-6
    qk_norm: bool = False
    position: str = "rope"
    rope_theta: float = 10_000.0
    max_position_embeddings: int = 2048
    attention_bias: bool = False
    attention_multiplier: float | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    mechanisms: list[Any] | tuple[Any, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.transformers_version is None:
            check_names(kwargs, type(self))
        check_values(self)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            rotates = self.position == "rope"
            self.head_dim = even_split(self.hidden_size, self.num_attention_heads, rotates)
        if self.intermediate_size is None:
            factor = 8 / 3 if self.hidden_act == "silu" else 4
            self.intermediate_size = -(-int(factor * self.hidden_size) // 8) * 8
        listed = self.mechanisms or []
        self.mechanisms = [m.to_dict() if isinstance(m, Mechanism) else m for m in listed]
        self._check()
        super().__post_init__(**kwargs)

    @classmethod
    def recommended(cls, **fields: Any) -> Self:
        """A configuration with the mechanisms that get to a plain model's loss soonest.

        Which these are was found by the study `combine` (docs/combine.md). They are better in loss
        and not in context: from token 50 to its end, the loss falls less than a plain model's.

        Args:
            fields: all others, such as sizes.

        Raises:
            HeadwayError: a field that is recommended, or a wrong one.
        """
        chosen = {"mechanisms": RECOMMENDED, **RECOMMENDED_FIELDS}
        for name in chosen.keys() & fields.keys():
            raise HeadwayError(
                f"{name}: {fields[name]!r} is not accepted here, where it is what is recommended; "
                f"accepted are other fields, or HeadwayConfig({name}=...)"
            )
        return cls(**fields, **chosen)

    def _check(self) -> None:
        if self.position == "rope" and self.dims().head_dim % 2:
            raise HeadwayError(
                f"head_dim: {self.head_dim} is odd, and position='rope' turns pairs of channels; "
                "accepted are even numbers"
            )
        check_list(self.mechanism_list(), self.dims())

    def mechanism_list(self) -> list[Mechanism]:
        """The mechanisms as objects."""
        return mechanisms_of(self)

    def dims(self) -> Dims:
        """What mechanisms are built for."""
        return dims_of(self, self.qk_norm)

    @property
    def attention_scale(self) -> float:
        """Factor on the scores."""
        assert self.head_dim is not None
        given = self.attention_multiplier
        return self.head_dim**-0.5 if given is None else given
