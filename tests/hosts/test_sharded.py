"""Two processes train an attached model as one does: sharded (FSDP2) and replicated."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import LOUD, make_loud, tiny, tokens

import headway

pytestmark = pytest.mark.filterwarnings("ignore:the logits change at once")
WORKER = Path(__file__).with_name("sharded_worker.py")


CASES = [("fsdp2", "everything"), ("fsdp2", "replaced"), ("ddp", "everything")]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """A folder with the weights of every case; one launch makes them all."""
    folder = tmp_path_factory.mktemp("sharded")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "--standalone", str(WORKER), str(folder), *(" ".join(case) for case in CASES)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("way", "name"), CASES)
def test_a_step_of_two_processes(way, name, stepped):
    alone = make_loud(headway.attach(tiny("llama"), LOUD[name])).train()
    before = {n: t.clone() for n, t in alone.state_dict().items()}
    optimiser = torch.optim.SGD(alone.parameters(), lr=0.1)
    ids = tokens(4, 11)
    alone(ids, labels=ids).loss.backward()
    optimiser.step()
    together = load_file(stepped / f"{way} {name}.safetensors")
    for key, expected in alone.state_dict().items():
        torch.testing.assert_close(together[key], expected, atol=1e-6, rtol=1e-4)
    moved = [n for n, t in together.items() if not torch.equal(t, before[n])]
    assert any("headway" in n for n in moved)
