"""Headway: better attention in language models, and what it changed.

Importing it needs torch and transformers and registers `HeadwayForCausalLM` with the Auto classes.
"""

from typing import TYPE_CHECKING, Any

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
from headway.waiver.cache import WaiverCache
from headway.waiver.designate import designate
from headway.waiver.profile import SinkProfile, profile_sinks

if TYPE_CHECKING:
    from headway.waiver.callback import SinkCallback

__version__ = "0.1.0"
__all__ = [
    "HeadwayCache",
    "HeadwayConfig",
    "HeadwayError",
    "HeadwayForCausalLM",
    "HeadwayModel",
    "SinkCallback",
    "SinkProfile",
    "WaiverCache",
    "attach",
    "attached",
    "designate",
    "detach",
    "from_pretrained",
    "load_mechanisms",
    "mechanism_parameters",
    "profile_sinks",
    "save_mechanisms",
    *_mechanisms,
]


def __getattr__(name: str) -> Any:
    """What comes when it is asked for: the callback needs transformers' Trainer, a large import."""
    if name == "SinkCallback":
        from headway.waiver.callback import SinkCallback

        return SinkCallback
    raise AttributeError(f"module 'headway' has no attribute {name!r}")
