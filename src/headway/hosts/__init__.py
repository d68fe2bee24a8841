"""Mechanisms in other people's models."""

from headway.hosts.attach import attach, attached, detach, mechanism_parameters
from headway.hosts.saving import from_pretrained, load_mechanisms, save_mechanisms

__all__ = [
    "attach",
    "attached",
    "detach",
    "from_pretrained",
    "load_mechanisms",
    "mechanism_parameters",
    "save_mechanisms",
]
