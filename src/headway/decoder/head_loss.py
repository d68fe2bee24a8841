"""The next-token loss straight from hidden states."""

import torch.nn.functional as F
from torch import Tensor

from headway.ops.loss import linear_cross_entropy

IGNORED = -100


def causal_lm_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor | None,
    shift_labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """transformers' `ForCausalLMLoss` from hidden states `(B, T, C)` and the head `(V, C)`.

    The sum over labels other than -100, divided by their number or by `num_items_in_batch`.

    Args:
        hidden: `(B, T, C)`, after the final norm.
        weight: `(V, C)`.
        labels: `(B, T)`, the tokens themselves, shifted here; not read beside `shift_labels`.
        shift_labels: `(B, T)`, the token that each position is to predict.
        num_items_in_batch: labels that count in all batches of one update.
    """
    if shift_labels is None:
        assert labels is not None
        shift_labels = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    targets = shift_labels.reshape(-1).to(hidden.device)
    total = linear_cross_entropy(hidden.flatten(0, 1), weight, targets, IGNORED)
    if num_items_in_batch is None:
        return total / (targets != IGNORED).sum()
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch
