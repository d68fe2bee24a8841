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
