"""The argument and the output by which models of transformers hand a cache on."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast

from headway.errors import HeadwayError

OLD = "past_key_values"
NEW = "cache"
CACHE = NEW if NEW in {field.name for field in fields(BaseModelOutputWithPast)} else OLD
"""What this version of transformers says: 'cache' from 5.24 on, 'past_key_values' before."""


def given_cache(inputs: Mapping[str, Any]) -> Any:
    """The cache among arguments by name, under either of its names; None without one.

    Raises:
        HeadwayError: there are two.
    """
    old, new = inputs.get(OLD), inputs.get(NEW)
    if old is not None and new is not None and old is not new:
        raise HeadwayError(f"{NEW}: not accepted beside {OLD}; accepted is one of the two")
    return new if old is None else old
