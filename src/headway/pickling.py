"""Objects of classes that are made while the program runs, which pickle finds by no name."""

from collections.abc import Callable
from typing import Any


def reduce_by(make: Callable[..., Any], *parts: Any) -> Callable[[Any, int], Any]:
    """A `__reduce_ex__` for the class that `make(*parts)` gives.

    Args:
        make: gives the same class each time, and is found by its name, as the parts are.
        parts: its arguments.
    """

    def reduce(self: Any, protocol: int) -> Any:
        if type(self) is not make(*parts):  # somebody derived a class of their own
            return object.__reduce_ex__(self, protocol)
        return _blank, (make, *parts), self.__dict__

    return reduce


def _blank(make: Callable[..., Any], *parts: Any) -> Any:
    made = make(*parts)
    return made.__new__(made)
