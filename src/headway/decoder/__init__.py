"""Our own host: a decoder-only language model of transformers' kind."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from headway.decoder.cache import HeadwayCache
from headway.decoder.configuration import HeadwayConfig
from headway.decoder.model import HeadwayForCausalLM, HeadwayModel

AutoConfig.register("headway", HeadwayConfig)
AutoModel.register(HeadwayConfig, HeadwayModel)
AutoModelForCausalLM.register(HeadwayConfig, HeadwayForCausalLM)

__all__ = ["HeadwayCache", "HeadwayConfig", "HeadwayForCausalLM", "HeadwayModel"]
