"""The mechanisms: one file each, a frozen dataclass to write and the module that it builds."""

from headway.mechanisms.attention_residual import AttentionResidual
from headway.mechanisms.base import Dims, Mechanism, MechanismModule, Place, fill, parameter
from headway.mechanisms.compose import AttentionMechanisms, build_mechanisms, check_list
from headway.mechanisms.context import QKV, Context, Streams
from headway.mechanisms.kv_shift import KVShift
from headway.mechanisms.layer_shortcut import LayerShortcut
from headway.mechanisms.output_gate import OutputGate
from headway.mechanisms.residual_stream import ResidualStream
from headway.mechanisms.scalable_softmax import ScalableSoftmax
from headway.mechanisms.scalar_mix import ScalarMix
from headway.mechanisms.selective_attention import SelectiveAttention
from headway.mechanisms.short_conv import ShortConv
from headway.mechanisms.sink_logit import SinkLogit
from headway.mechanisms.smeared_key import SmearedKey
from headway.mechanisms.state import DecodeState, rows_before

__all__ = [
    "QKV",
    "AttentionMechanisms",
    "AttentionResidual",
    "Context",
    "DecodeState",
    "Dims",
    "KVShift",
    "LayerShortcut",
    "Mechanism",
    "MechanismModule",
    "OutputGate",
    "Place",
    "ResidualStream",
    "ScalableSoftmax",
    "ScalarMix",
    "SelectiveAttention",
    "ShortConv",
    "SinkLogit",
    "SmearedKey",
    "Streams",
    "build_mechanisms",
    "check_list",
    "fill",
    "parameter",
    "rows_before",
]
