"""From safetensors only, and in one sentence where it fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError
from transformers.utils import logging

from headway.errors import HeadwayError


@contextmanager
def one_sentence(where: str) -> Iterator[None]:
    """Around a load by transformers: its errors about a folder become `HeadwayError`s.

    Args:
        where: names the argument and its value.
    """
    try:
        yield
    except HeadwayError:
        raise
    except SafetensorError as error:
        raise HeadwayError(f"{where} holds a damaged safetensors file: {error}") from error
    except OSError as error:
        if "safetensors" in str(error):
            raise HeadwayError(
                f"{where} holds no model.safetensors; accepted are safetensors only, never pickles"
            ) from error
        said = " ".join(str(error).split())
        raise HeadwayError(f"{where} cannot be read: {said}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise HeadwayError(
            f"{where} holds weights of other shapes than its configuration asks for (the "
            "report above lists them); accepted are weights saved with that configuration"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars of weights that are read or written."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
