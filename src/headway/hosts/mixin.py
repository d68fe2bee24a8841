"""Base of the classes that stand before a family's own."""

from typing import TYPE_CHECKING, Any

from torch import nn


class FamilyMixin(nn.Module):
    """Its attributes are those of the family's class behind it, which no type tells."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
