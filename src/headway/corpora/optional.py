"""Packages that only some inputs need are imported here, at the moment they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from headway.errors import HeadwayError


def optional_package(name: str, purpose: str) -> Any:
    """Import package `name`; `purpose` begins the sentence that is told when it is missing.

    Raises HeadwayError when the package is not installed. A package that is installed but lacks one
    of its own dependencies raises its own ModuleNotFoundError.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        message = f"{purpose} needs the package {name}; install it with: pip install {name}"
        raise HeadwayError(message) from error
