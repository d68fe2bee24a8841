"""Whether the Hugging Face hub can be asked for a model, told before it is asked time and again."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the version it uses

from headway.errors import HeadwayError

_CONFIG = "config.json"


def require_hub(model: str, where: str) -> None:
    """Refuse a model that would have to come from a hub which no connection leads to.

    transformers tries for half a minute and more to reach the hub, in case that it comes back. A
    hub that answers, with whatever it may be, or is slow to, is left to transformers, and so are
    folders and models whose configuration is in the hub's cache.

    Args:
        model: a folder or an id on the hub.
        where: names the argument and its value.

    Raises:
        HeadwayError: there is no connection, or HF_HUB_OFFLINE rules it out.
    """
    try:
        if Path(model).is_dir() or isinstance(try_to_load_from_cache(model, _CONFIG), str):
            return
        url = hf_hub_url(model, _CONFIG)
    except HFValidationError:
        return  # no id; transformers says why
    seconds = constants.HF_HUB_ETAG_TIMEOUT
    try:
        # Whatever is answered, even that there is no such model or that a token is missing.
        get_session().head(url, follow_redirects=False, timeout=seconds)
    except OfflineModeIsEnabled as error:
        raise _absent(where, "is off limits (HF_HUB_OFFLINE)") from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise _absent(where, f"cannot be reached ({error})") from error
    except httpx.TransportError:
        return  # there is a connection, and transformers tries again


def _absent(where: str, hub: str) -> HeadwayError:
    return HeadwayError(
        f"{where} is no folder and not in the hub's cache, and the hub {hub}; accepted are a "
        "folder, and an id on a hub that can be reached"
    )
