"""The sink profile: what each token receives, layer by layer, head by head, over many samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from headway.decoder.observer import Observer
from headway.errors import HeadwayError
from headway.waiver.anatomy import Site, sites_of
from headway.waiver.measure import LayerSums, MassiveActivation
from headway.waiver.watch import run, stack_of, watching

if TYPE_CHECKING:
    from headway.waiver.battery import Battery
    from headway.waiver.verdict import Verdict

THRESHOLD = 0.3
"""Gu's eps (arXiv 2410.10781, section 3): a head has a sink where it gives a token more."""
FLOOR = 0.01
"""Share of heads, above the neighbours', from which on a position counts as a place of sinks."""


class FirstToken(NamedTuple):
    """What stands at position 0.

    Attributes:
        ids: the different token ids there, over samples.
        text: of the one that is there most often; None without a tokenizer.
        special: whether that one is a special token; None without a tokenizer.
        bos_added: whether a beginning-of-sequence token was put there for the profile; None where
            the caller made the ids.
    """

    ids: tuple[int, ...]
    text: str | None = None
    special: bool | None = None
    bos_added: bool | None = None


@dataclass(frozen=True)
class SinkProfile:
    """Means over samples; `L` layers, `H` heads, `T` positions; all tensors on the CPU.

    Attributes:
        model: its name.
        causal: whether tokens see earlier ones only.
        threshold: of the sink metric.
        tokens: T.
        samples: how many.
        layers: names of the attentions.
        first: what stands at position 0.
        token_texts: of the first sample, or its ids as text.
        received: `(L, H, T)`, attention received per query that may see the key (alpha).
        sink_rate: `(L, H, T)`, share of samples in which `received` is above the threshold.
        peak: `(L, H, T)`, largest weight from any query.
        share_over: `(L, H, T)`, share of queries that give more than the threshold.
        value_norm: `(L, H, T)`, norm of the head's value.
        written_norm: `(L, H, T)`, the same behind the output projection; NaN where that was not
            found.
        key_norm: `(L, H, T)`.
        write: `(L, H, T)`, attention from later tokens times value norm (effective write).
        contribution: `(L, H, T)`, share of all that the head writes, `sum_t A_tj |W_O v_j|`
            over its sum over j; by `value_norm` where no projection was found.
        entropy: `(L, H, T)`, of the rows, nats.
        mass: `(L, H)`, mean sum of a row: below one beside a learned sink.
        hidden_norm: `(L, T)`, of the hidden state after the layer.
        massive: per layer, activations above 100 and above 1,000 times the median, of any sample.
        massive_ratio: `(L,)`, largest absolute activation over the median, mean over samples.
        massive_count: `(L,)`, number of massive activations, mean over samples.
        largest: `(L,)`, largest absolute activation, mean over samples.
        sink_by_sample: `(M, L, T)`, share of heads above the threshold in each sample.
        battery: of interventions on the same samples, where it was asked for.
        verdict: why the sink is where it is, decided from the battery.
    """

    model: str
    causal: bool
    threshold: float
    tokens: int
    samples: int
    layers: tuple[str, ...]
    first: FirstToken
    token_texts: tuple[str, ...]
    received: Tensor
    sink_rate: Tensor
    peak: Tensor
    share_over: Tensor
    value_norm: Tensor
    written_norm: Tensor
    key_norm: Tensor
    write: Tensor
    contribution: Tensor
    entropy: Tensor
    mass: Tensor
    hidden_norm: Tensor
    massive: tuple[tuple[MassiveActivation, ...], ...]
    massive_ratio: Tensor
    massive_count: Tensor
    largest: Tensor
    sink_by_sample: Tensor = field(repr=False)
    battery: Battery | None = field(default=None, repr=False)
    verdict: Verdict | None = None

    def sink_metric(self) -> Tensor:
        """`(T,)`, Gu's Sink_k: share of layers, heads and samples in which k is a sink."""
        return self.sink_rate.mean((0, 1))

    @property
    def searched(self) -> int:
        """How many positions, from the first, sinks are looked for in.

        A decoder's last quarter is left out: few queries see those tokens, so that the weight that
        a token gives itself counts too much.
        """
        return self.tokens - self.tokens // 4 if self.causal else self.tokens

    def excess(self) -> Tensor:
        """`(T,)`, the sink metric above the median of the neighbours, an eighth of T on each side.

        Heads that look at recent tokens make the metric rise along the text, as few queries see
        late tokens; a sink stands out from its neighbours.
        """
        metric, reach = self.sink_metric(), max(2, self.tokens // 8)
        padded = nn.functional.pad(metric, (reach, reach), value=torch.nan)
        around = padded.unfold(0, 2 * reach + 1, 1).clone()
        around[:, reach] = torch.nan
        return metric - around.nanmedian(-1).values

    def sinks(self, floor: float = FLOOR) -> tuple[int, ...]:
        """Positions whose `excess` is above `floor`, strongest first, among the `searched`."""
        excess = self.excess()[: self.searched]
        found = [int(i) for i in excess.argsort(descending=True) if excess[i] > floor]
        return tuple(found)

    def waivers(self, floor: float = FLOOR, value_ratio: float = 0.5) -> tuple[int, ...]:
        """Sinks whose values are small, in order: `value_ratio()` at most the given one."""
        ratios = self.value_ratio()
        return tuple(sorted(i for i in self.sinks(floor) if ratios[i] <= value_ratio))

    def value_ratio(self) -> Tensor:
        """`(T,)`, value norm over the median of the positions, in the heads where the token is a
        sink (all heads where it is none): mean over those, weighted by how often."""
        norms = self.value_norm if self.written_norm.isnan().any() else self.written_norm
        ratios = norms / norms.median(-1, keepdim=True).values
        weight = self.sink_rate.clone()
        weight[:, :, weight.sum((0, 1)) == 0] = 1.0
        return (ratios * weight).sum((0, 1)) / weight.sum((0, 1))

    def report(self, path: str | Path) -> Path:
        """Write the page of the profile, one HTML file that needs no network; its path.

        Raises:
            ModuleNotFoundError: plotly or jinja2 is not installed.
        """
        # The page stands in a room above; whoever profiles without looking at it needs no plotly.
        from headway.report.sinks_page import SinkReport, write_page

        return write_page(SinkReport(self, self.battery, self.verdict), Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        found: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, Tensor):
                value = value.tolist()
            elif name in ("battery", "verdict"):
                value = value.to_dict()
            elif name == "first":
                value = value._asdict()
            elif name == "massive":
                value = [[m._asdict() for m in layer] for layer in value]
            found[name] = value
        return found | {
            "sink_metric": self.sink_metric().tolist(),
            "excess": self.excess().tolist(),
            "value_ratio": self.value_ratio().tolist(),
            "sinks": list(self.sinks()),
            "waivers": list(self.waivers()),
        }


def profile_sinks(
    model: nn.Module,
    input_ids: Tensor,
    *,
    threshold: float = THRESHOLD,
    batch_size: int = 8,
    tokenizer: Any = None,
    bos_added: bool | None = None,
    battery: bool = False,
) -> SinkProfile:
    """Measure where attention goes, without keeping a T x T matrix.

    Args:
        model: any decoder or encoder of transformers that uses its attention interface, with or
            without mechanisms, or our own.
        input_ids: `(M, T)`, one sample a row, nothing padded.
        threshold: of the sink metric, strictly above; between 0 and 1.
        batch_size: samples at a time.
        tokenizer: of transformers, to say what the tokens are.
        bos_added: whether a beginning-of-sequence token was put at position 0.
        battery: also intervene, to tell why the sink is where it is, which takes dozens of passes.

    Raises:
        HeadwayError: ids of another form, a threshold that is no share, a model that cannot be
            observed, or numbers that are not finite (with layer and head).
    """
    if not 0 < threshold < 1:
        raise HeadwayError(f"threshold: value is {threshold}; accepted are numbers between 0 and 1")
    if input_ids.dim() != 2 or input_ids.shape[1] < 2 or not len(input_ids):
        raise HeadwayError(
            f"input_ids: the shape {tuple(input_ids.shape)} is not accepted; accepted is "
            "(samples, tokens) with at least 1 sample of 2 tokens"
        )
    sites = sites_of(model, input_ids)
    with Collector(model, sites, threshold) as collector:
        for ids in input_ids.split(batch_size):
            collector.run(ids)
    found = collector.profile(input_ids, tokenizer, bos_added)
    if not battery:
        return found
    # The battery profiles too.
    from headway.waiver.battery import run_battery
    from headway.waiver.verdict import decide

    made = run_battery(model, input_ids, profile=found, tokenizer=tokenizer, batch_size=batch_size)
    return replace(found, battery=made, verdict=decide(made))


class Collector:
    """Adds up what one model's attentions do, pass by pass, while it is entered.

    Args:
        model: to watch.
        sites: its attentions.
        threshold: of the sink metric.
    """

    def __init__(self, model: nn.Module, sites: list[Site], threshold: float) -> None:
        self.model, self.stack, self.sites = model, stack_of(model), sites
        self.threshold = threshold
        self.sums = [LayerSums(site, threshold) for site in sites]
        self.observer = Observer(self._see)
        self.next = 0

    def __enter__(self) -> Collector:
        self.watch = watching(self.model, self.observer)
        self.watch.__enter__()
        self.hooks = [
            site.layer.register_forward_hook(sums.see_hidden)
            for site, sums in zip(self.sites, self.sums, strict=True)
        ]
        return self

    def __exit__(self, *failure: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        self.watch.__exit__(*failure)

    def run(self, ids: Tensor) -> None:
        """One pass over `(B, T)`."""
        self.next = 0
        run(self.stack, ids.to(self.stack.device))

    def _see(self, attending: Any) -> None:
        self.sums[self.next].see(attending)
        self.next += 1

    def profile(self, input_ids: Tensor, tokenizer: Any, bos_added: bool | None) -> SinkProfile:
        """What was added up, as means."""
        stacked = [sums.means() for sums in self.sums]
        means: dict[str, Any] = {
            name: torch.stack([m[name] for m in stacked]) for name in stacked[0]
        }
        config = self.stack.config
        return SinkProfile(
            model=config.name_or_path or type(self.model).__name__,
            causal=all(sums.causal for sums in self.sums),
            threshold=self.threshold,
            tokens=input_ids.shape[1],
            samples=len(input_ids),
            layers=tuple(site.name for site in self.sites),
            first=_first(input_ids, tokenizer, bos_added),
            token_texts=token_texts(input_ids[0], tokenizer),
            massive=tuple(tuple(sums.massive) for sums in self.sums),
            **means,
            sink_by_sample=torch.stack([torch.cat(s.sink_by_sample) for s in self.sums], dim=1),
        )


def token_texts(ids: Tensor, tokenizer: Any) -> tuple[str, ...]:
    """The text of each token `(T,)`; its id where there is no tokenizer."""
    if tokenizer is None:
        return tuple(str(int(i)) for i in ids)
    return tuple(tokenizer.decode([int(i)]) for i in ids)


def _first(input_ids: Tensor, tokenizer: Any, bos_added: bool | None) -> FirstToken:
    values, counts = input_ids[:, 0].unique(return_counts=True)
    common = int(values[counts.argmax()])
    ids = tuple(int(i) for i in values)
    if tokenizer is None:
        return FirstToken(ids, bos_added=bos_added)
    special = common in set(tokenizer.all_special_ids)
    return FirstToken(ids, tokenizer.decode([common]), special, bos_added)
