"""How common each token is, in the form that mechanisms read."""

import torch
from torch import Tensor

from headway.errors import HeadwayError


def standardised_log_counts(counts: Tensor, vocabulary: int) -> Tensor:
    """Logarithms of count + 1, standardised over the text: each token weighs as often as it occurs.

    Args:
        counts: `(V,)`, how often each token occurs in the training text.
        vocabulary: V.

    Returns:
        `(V,)` in float64.

    Raises:
        HeadwayError: not one count a token, or the tokens that occur are equally frequent.
    """
    if counts.shape != (vocabulary,) or bool((counts < 0).any()):
        raise HeadwayError(
            f"counts: shape {tuple(counts.shape)} or a negative count is not accepted; "
            f"accepted are {vocabulary} counts, one for each token of the vocabulary"
        )
    counts = counts.to(torch.float64)
    logs = (counts + 1).log()
    share = counts / counts.sum()
    mean = (share * logs).sum()
    spread = ((share * (logs - mean) ** 2).sum()).sqrt()
    if not spread > 1e-9:
        raise HeadwayError(
            "counts: all tokens that occur are equally frequent, so that frequency tells nothing; "
            "accepted are counts that differ"
        )
    return (logs - mean) / spread


def check_counts(known: Tensor) -> None:
    """Refuse to learn from frequencies that nobody gave: the mechanism's gradient would be zero.

    A table is read once, as that makes a GPU wait. Not without gradients, on the meta device, or in
    a compiled graph, where a value cannot be looked at.

    Args:
        known: `(V,)`, a model's table; zeros until counts are set or loaded.

    Raises:
        HeadwayError: all of it is zero.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or known.is_meta:
        return
    if getattr(known, _FILLED, False):
        return
    if not bool(known.any()):
        raise HeadwayError(
            "token_log_frequency: no token counts are set, and a mechanism that reads token "
            "frequencies learns nothing without them; call set_token_counts(counts) of the stack "
            "of layers (model.model) with the training text's counts (V,)"
        )
    setattr(known, _FILLED, True)


_FILLED = "_headway_filled"
"""Set on a table that was seen to hold counts; one that is loaded or moved is another tensor."""
