"""Our own host: a decoder-only language model of transformers' kind."""

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from headway.decoder.cache import HeadwayCache
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.model import HeadwayForCausalLM, HeadwayModel

AutoConfig.register("headway", HeadwayConfig)
AutoModel.register(HeadwayConfig, HeadwayModel)
AutoModelForCausalLM.register(HeadwayConfig, HeadwayForCausalLM)
if torch.distributed.is_available():
    from headway.decoder.tensor_parallel import STYLES, HeadsParallel

    STYLES.register("headway_heads", HeadsParallel())

__all__ = ["HeadwayCache", "HeadwayConfig", "HeadwayForCausalLM", "HeadwayModel"]
