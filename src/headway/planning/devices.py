"""GPUs as their data sheets describe them."""

from __future__ import annotations

from dataclasses import dataclass

from headway.errors import HeadwayError
from headway.mechanisms.fields import nearest


@dataclass(frozen=True, kw_only=True)
class Device:
    """One GPU of a node whose GPUs are linked.

    Attributes:
        memory: bytes.
        bandwidth: of the memory, bytes a second.
        flops: dense bfloat16 operations a second.
        link: to the other GPUs of the node, bytes a second in one direction.
        source: the data sheet.
    """

    memory: float
    bandwidth: float
    flops: float
    link: float
    source: str


DEVICES: dict[str, Device] = {
    "a100": Device(
        memory=80e9,
        bandwidth=2.039e12,
        flops=312e12,
        link=300e9,
        source="NVIDIA A100 80GB SXM, data sheet 2188504 (2022)",
    ),
    "h100": Device(
        memory=80e9,
        bandwidth=3.35e12,
        flops=989.4e12,
        link=450e9,
        source="NVIDIA H100 SXM, data sheet 2287922 (2022)",
    ),
    "h200": Device(
        memory=141e9,
        bandwidth=4.8e12,
        flops=989.4e12,
        link=450e9,
        source="NVIDIA H200 SXM, data sheet 3002446 (2023)",
    ),
    "b200": Device(
        memory=180e9,
        bandwidth=7.7e12,
        flops=2.25e15,
        link=900e9,
        source="NVIDIA HGX B200, one eighth of the data sheet's figures (2024)",
    ),
}
"""Marketing's sparse figures are halved; links are half of the figure for both directions."""


def device_named(name: str) -> Device:
    """The device; HeadwayError where there is none of the name."""
    if name not in DEVICES:
        raise HeadwayError(
            f"gpu: {name!r} is unknown{nearest(name, DEVICES)}; accepted are {', '.join(DEVICES)}"
        )
    return DEVICES[name]
