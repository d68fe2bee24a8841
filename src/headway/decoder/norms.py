"""The norms a decoder can be built with."""

from torch import nn

from headway.decoder.configuration import HeadwayConfig


def make_norm(config: HeadwayConfig) -> nn.Module:
    """RMSNorm, LayerNorm, or nothing (toys)."""
    if config.norm == "rms":
        return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
    if config.norm == "layer":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
    return nn.Identity()
