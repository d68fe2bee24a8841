"""Headway: better attention in language models, and what it changed.

Importing it needs torch and transformers and registers `HeadwayForCausalLM` with the Auto classes.
"""

from headway.decoder import HeadwayCache, HeadwayConfig, HeadwayForCausalLM, HeadwayModel
from headway.errors import HeadwayError
from headway.hosts import (
    attach,
    attached,
    detach,
    from_pretrained,
    load_mechanisms,
    mechanism_parameters,
    save_mechanisms,
)
from headway.mechanisms import *  # noqa: F403
from headway.mechanisms import __all__ as _mechanisms

__version__ = "0.1.0"
__all__ = [
    "HeadwayCache",
    "HeadwayConfig",
    "HeadwayError",
    "HeadwayForCausalLM",
    "HeadwayModel",
    "attach",
    "attached",
    "detach",
    "from_pretrained",
    "load_mechanisms",
    "mechanism_parameters",
    "save_mechanisms",
    *_mechanisms,
]
