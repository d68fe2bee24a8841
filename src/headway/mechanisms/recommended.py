"""What is worth having, as the study `combine` found it, for a lower loss: a model with it gains no
more from its context than a plain one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from headway.mechanisms.base import Mechanism
from headway.mechanisms.residual_stream import ResidualStream

RECOMMENDED: tuple[Mechanism, ...] = (ResidualStream(source="first", scale="layer"),)
"""In the order of the data."""
RECOMMENDED_FIELDS: Mapping[str, Any] = MappingProxyType({})
"""Of `HeadwayConfig`, besides its mechanisms."""
