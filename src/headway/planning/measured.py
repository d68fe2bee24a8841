"""Plans beside runs that were measured: `python -m headway.planning.measured benchmarks/results`.

Only the benches' own sizes are compared, on the GPU that they ran on. Three numbers are taken from
these runs, from a profile of one of them: what matrix products, attention and passes over memory
reach. They are the same for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from headway.bench.decoders import M124, M350, THREE
from headway.bench.llama import Shape
from headway.bench.shards import SHAPES
from headway.decoder import HeadwayConfig
from headway.errors import HeadwayError
from headway.mechanisms import Mechanism
from headway.planning.activations import cache_bytes
from headway.planning.devices import DEVICES
from headway.planning.estimate import ATTENTION, Cluster, Plan, Work, estimate
from headway.report.cells import Table
from headway.report.tables import markdown_table

BFLOAT16, FLOAT32 = 2, 4
"""Bytes; of weights, gradients and moments, in most benches and in `headway train`."""
WHOLE = ATTENTION * 13.8 / 33
"""As `ATTENTION`, of transformers' Llama, whose attention is not told to be causal: it took 33 ms
in a profile of the 124M step where ours took 13.8 (`benchmarks/RESULTS.md`, 'train')."""


class Compared(NamedTuple):
    """One figure.

    Attributes:
        file: of results.
        name: of the line in it.
        measured: there.
        planned: by us.
    """

    file: str
    name: str
    measured: float
    planned: float

    @property
    def ratio(self) -> float:
        """Planned over measured."""
        return self.planned / self.measured


def compared(folder: Path) -> list[Compared]:
    """All lines of the results of benches that a plan foretells.

    Args:
        folder: with the JSON files of `headway bench ... --json`.

    Raises:
        HeadwayError: one of them cannot be read.
    """
    return list(_rows(folder))


def table(rows: Sequence[Compared]) -> Table:
    """Of `compared`."""
    return Table(
        "Planned and measured",
        ("results", "line", "measured", "planned", "planned over measured"),
        tuple(
            (f"`{r.file}`", r.name, f"{r.measured:.5g}", f"{r.planned:.5g}", f"{r.ratio:.3f}")
            for r in rows
        ),
    )


def _rows(folder: Path) -> Iterator[Compared]:
    def line(
        file: str, name: str, value: Callable[[dict[str, Any]], float], told: float
    ) -> Compared:
        content = _content(folder / f"{file}.json")
        (found,) = [row for row in content["lines"] if row["name"] == name]
        return Compared(file, name, value(found), told)

    plain, three = _planned(M124), _planned(M124, THREE)
    peak = "peak of a training step, plain, MiB"
    yield line("memory-h200", peak, _value, plain.memory.total / 2**20)
    share = three.memory.total / plain.memory.total
    yield line("memory-h200", "peak of a training step, the three over plain", _value, share)
    beside = "train-llama-wide-h200"
    yield line(beside, "tokens a second: plain", _value, plain.tokens_a_second)
    yield line(beside, "tokens a second: wide plain", _value, _planned(M350).tokens_a_second)
    yield line("peers-h200", "tokens a second: plain", _value, plain.tokens_a_second)
    loop = _planned(M124, weights=FLOAT32).tokens_a_second
    yield line("loop-h200", "tokens a second: headway train", _value, loop)
    for part, shape in SHAPES.items():
        two = _planned(shape, weights=FLOAT32, gpus=2).tokens_a_second
        name = f"tokens a second, sharded over 2: {part}, plain"
        yield line(f"shards-{part}-h200", name, _value, two)
    # Their step without anything attached is the ratio's baseline.
    host = _planned(Shape(), attention=WHOLE).step
    yield line("host-h200", "training step, compiled", lambda row: row["ratio"]["seconds"][1], host)
    for batch in (1, 64):
        bytes_of = [
            cache_bytes(_config(M124, listed), M124.length, batch, BFLOAT16)
            for listed in (THREE, ())
        ]
        name = f"cache bytes over plain, batch of {batch}"
        yield line("decode-h200", name, _value, bytes_of[0] / bytes_of[1])


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HeadwayError(
            f"results: {str(path)!r} cannot be read ({error.strerror}); accepted is a folder of "
            "the benches' results, such as benchmarks/results"
        ) from error


def _value(row: dict[str, Any]) -> float:
    return float(row["value"])


def _planned(
    shape: Shape,
    mechanisms: Sequence[Mechanism] = (),
    weights: int = BFLOAT16,
    gpus: int = 1,
    attention: float = ATTENTION,
) -> Plan:
    cluster = Cluster(device=DEVICES["h200"], gpus=gpus, attention=attention)
    work = Work(
        context=shape.length,
        micro_batch_size=shape.batch,
        weights=weights,
        sharding="none" if gpus == 1 else "fsdp",
    )
    return estimate(_config(shape, mechanisms), cluster, work)


def _config(shape: Shape, mechanisms: Sequence[Mechanism]) -> HeadwayConfig:
    return HeadwayConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        mechanisms=list(mechanisms),
    )


def main(folders: Sequence[str]) -> int:
    """Print the comparison as Markdown; the exit code."""
    try:
        for folder in folders:
            print(markdown_table(table(compared(Path(folder)))), end="")
    except HeadwayError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
