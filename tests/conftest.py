"""What all tests share: one thread a test process, and no time limit on a drawn example."""

import gc
import os

import torch
from hypothesis import settings

# No test asks the network; the hub's client reads this when it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# Matrix products are the same to the bit wherever in memory their operands lie, as those of a model
# that was loaded; MKL reads this when it is first called, and on some processors rounds otherwise.
os.environ["MKL_CBWR"] = "AUTO"

torch.set_num_threads(1)

# Without a GPU the kernels run in Triton's interpreter, which reads this when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Nothing that one test builds is found by another, or by who runs the tests.
os.environ["HEADWAY_CACHE"] = ""

# Where CI is set, Hypothesis draws the same examples in every run; elsewhere new ones.
settings.register_profile("headway", parent=settings(), deadline=None)
settings.load_profile("headway")

# What is imported stays to the end. The garbage collector would walk through it again and again,
# which costs more than a tenth of all time where graphs are compiled, so it never looks there.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(5_000, 10, 10)
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()
