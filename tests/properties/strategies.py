"""What the property tests draw: mechanisms, lists of them, small models and tokens.

A new mechanism needs one line in `MECHANISMS`; every property then holds for it or fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from headway import (
    AttentionResidual,
    HeadwayConfig,
    HeadwayError,
    HeadwayForCausalLM,
    KVShift,
    LayerShortcut,
    Mechanism,
    OutputGate,
    ResidualStream,
    ScalableSoftmax,
    ScalarMix,
    SelectiveAttention,
    ShortConv,
    SinkLogit,
    SmearedKey,
)
from headway.mechanisms.base import Learned

VOCABULARY = 40
LONGEST = 64


def accepted(make: Callable[..., Mechanism], *args: Any, **options: Any) -> Mechanism | None:
    """The mechanism, or None where these options are refused together."""
    try:
        return make(*args, **options)
    except HeadwayError:
        return None


def drawn(cls: type[Mechanism], **given: SearchStrategy[Any]) -> SearchStrategy[Mechanism]:
    """Instances of `cls`: its choices and flags from the annotations, all else as given."""
    hints = get_type_hints(cls)
    options = dict(given)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if field.name in given:
            continue
        if get_origin(hint) is Literal:
            options[field.name] = st.sampled_from(get_args(hint))
        elif hint is bool:
            options[field.name] = st.booleans()
        else:
            raise TypeError(f"{cls.__name__}.{field.name}: say what to draw")
    tried = st.fixed_dictionaries(options).map(lambda o: accepted(cls, **o))
    return tried.filter(lambda mechanism: mechanism is not None)


TARGETS = st.lists(
    st.sampled_from(["query", "key", "value"]), min_size=1, max_size=3, unique=True
).map(tuple)
TAPS = st.sampled_from(["all", (0,), (1,), (0, 1), (1, 1, 0)])

MECHANISMS: dict[str, SearchStrategy[Mechanism]] = {
    "kv_shift": drawn(KVShift, targets=TARGETS, window=st.integers(1, 3)),
    "smeared_key": drawn(SmearedKey),
    "residual_stream": drawn(
        ResidualStream, scale=st.sampled_from([1.0, 0.5, -0.7, "layer", "head"])
    ),
    "short_conv": drawn(ShortConv, targets=TARGETS, taps=st.integers(2, 4)),
    "selective_attention": drawn(SelectiveAttention, slope=st.sampled_from([0.0113, 0.4])),
    "scalable_softmax": drawn(ScalableSoftmax),
    "sink_logit": drawn(SinkLogit),
    "output_gate": drawn(OutputGate),
    "attention_residual": drawn(AttentionResidual),
    "layer_shortcut": drawn(LayerShortcut, taps=TAPS, width=st.sampled_from([5, 8])),
    "scalar_mix": drawn(ScalarMix, taps=TAPS),
}
ANY_MECHANISM = st.one_of(*MECHANISMS.values())


@st.composite
def compositions(
    draw: st.DrawFn, kinds: SearchStrategy[Mechanism] = ANY_MECHANISM, most: int = 5
) -> tuple[Mechanism, ...]:
    """A list of mechanisms that may stand together, in their order; drawn misfits are left out."""
    chosen: list[Mechanism] = []
    for mechanism in draw(st.lists(kinds, max_size=most)):
        if not any(mechanism.clash(other) or other.clash(mechanism) for other in chosen):
            chosen.append(mechanism)
    return tuple(sorted(chosen, key=lambda mechanism: mechanism.place))


HOSTS: SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "heads": st.sampled_from([(4, 4), (4, 2), (4, 1), (3, 3), (3, 1)]),
        "head_dim": st.sampled_from([4, 6]),
        "num_hidden_layers": st.integers(2, 3),
        "position": st.sampled_from(["rope", "learned", "alibi", "none"]),
        "qk_norm": st.booleans(),
        "norm": st.sampled_from(["rms", "layer"]),
        "hidden_act": st.sampled_from(["silu", "gelu"]),
        "attention_bias": st.booleans(),
        "attention_multiplier": st.sampled_from([None, 0.7]),
        "attn_implementation": st.sampled_from(["sdpa", "eager"]),
    }
)


@dataclass(frozen=True)
class Case:
    """A small model to build: sizes and choices, mechanisms, and the seed of its weights."""

    host: dict[str, Any]
    mechanisms: tuple[Mechanism, ...]
    seed: int

    def config(self) -> HeadwayConfig:
        """The configuration."""
        heads, key_value_heads = self.host["heads"]
        return HeadwayConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=16,
            num_attention_heads=heads,
            num_key_value_heads=key_value_heads,
            max_position_embeddings=LONGEST,
            mechanisms=self.mechanisms,
            **{k: v for k, v in self.host.items() if k != "heads"},
        )

    def model(
        self, dtype: torch.dtype = torch.float32, initial: bool = False
    ) -> HeadwayForCausalLM:
        """The model in eval mode, its weights large enough that every part shows.

        Args:
            dtype: of the weights.
            initial: leave the mechanisms' parameters as they start.
        """
        torch.manual_seed(self.seed)
        model = HeadwayForCausalLM(self.config()).eval()
        make_loud(model, initial)
        return model.to(dtype)

    def plain(self) -> Case:
        """The same without mechanisms."""
        return dataclasses.replace(self, mechanisms=())

    def tokens(self, *shape: int) -> Tensor:
        """Token ids of this shape."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randint(VOCABULARY, shape, generator=generator)


def cases(
    mechanisms: SearchStrategy[tuple[Mechanism, ...]] | None = None, **host: SearchStrategy[Any]
) -> SearchStrategy[Case]:
    """Cases over a strategy of mechanism lists; `host` replaces what is drawn for the host."""
    hosts = HOSTS
    if host:
        hosts = st.builds(lambda base, own: base | own, HOSTS, st.fixed_dictionaries(host))
    lists = compositions() if mechanisms is None else mechanisms
    return st.builds(Case, hosts, lists, st.integers(0, 10_000))


def one_of_each(name: str) -> SearchStrategy[tuple[Mechanism, ...]]:
    """Lists of this mechanism alone."""
    return MECHANISMS[name].map(lambda mechanism: (mechanism,))


@torch.no_grad()
def make_loud(model: nn.Module, initial: bool = False) -> None:
    """Draw weights with which attention is neither flat nor one-hot and no branch negligible."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=1.2 * module.in_features**-0.5)
            if module.bias is not None:
                module.bias.normal_(std=0.3)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(std=0.7)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            module.weight.normal_(mean=1.0, std=0.2)
    for module in model.modules():
        if isinstance(module, Learned) and initial:
            module.reset_parameters()
        elif isinstance(module, Learned):
            for own in module.parameters(recurse=False):
                own.clamp_(-2, 2).add_(0.4 * torch.randn_like(own))
    if isinstance(model, HeadwayForCausalLM):
        model.model.set_token_counts(torch.randint(1, 1000, (model.config.vocab_size,)))


def logits(model: HeadwayForCausalLM, tokens: Tensor, **inputs: Any) -> Tensor:
    """Logits `(B, T, V)` without a cache, unless one is given."""
    inputs.setdefault("use_cache", inputs.get("past_key_values") is not None)
    with torch.no_grad():
        return model(tokens, **inputs).logits


TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Equal up to rounding: the largest difference against the largest expected value."""
    bound = TOLERANCE[expected.dtype] if tolerance is None else tolerance
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound * scale)
