"""Mechanisms in other people's models."""

from headway.hosts.attach import attach, attached, detach, mechanism_parameters

__all__ = ["attach", "attached", "detach", "mechanism_parameters"]
