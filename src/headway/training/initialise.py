"""Initial weights that arms share: a parameter's draw depends on the seed and its name alone."""

import hashlib

import torch
from transformers import PreTrainedModel


def seed_weights(model: PreTrainedModel, seed: int) -> None:
    """Draw all weights again so that models with other mechanisms agree in all they share.

    Every module is drawn from a generator of its own, seeded by `seed` and the module's name, so
    that an added module moves no other module's draw. Children come before their parents, as a
    mechanism may set a child's weights. The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        for name, module in reversed(list(model.named_modules())):
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
            torch.manual_seed(int.from_bytes(digest, "big") >> 1)
            model._init_weights(module)
