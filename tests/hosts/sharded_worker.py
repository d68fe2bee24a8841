"""Run by torchrun in two processes: one step of attached models, sharded or replicated.

Arguments: the folder to write weights to, and cases: 'fsdp2' or 'ddp', and a list of mechanisms.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
torch.set_num_threads(1)

from tiny import LOUD, make_loud, tiny, tokens  # noqa: E402

import headway  # noqa: E402


def step(way: str, name: str, file: Path) -> None:
    """Train one step in both processes and write the weights to the file."""
    model = make_loud(headway.attach(tiny("llama"), LOUD[name])).train()
    if way == "fsdp2":
        mesh = dist.init_device_mesh("cpu", (2,))
        kinds = type(model)._no_split_modules
        for module in list(model.modules()):
            if type(module).__name__ in kinds:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        called = model
    else:
        called = torch.nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = tokens(4, 11)[dist.get_rank() :: 2]
    called(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    state = {
        n: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
        for n, t in model.state_dict().items()
    }
    if dist.get_rank() == 0:
        save_file(state, file)


folder, *cases = sys.argv[1:]
dist.init_process_group("gloo")
for case in cases:
    step(*case.split(), Path(folder) / f"{case}.safetensors")
# Caches of torch keep the group, and one of its threads that ends while Python does would abort.
dist.barrier()
os._exit(0)
