"""Sinks while training: a few numbers from a fixed batch, every N steps, so that a run shows when
the sink emerges."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from headway.waiver.profile import THRESHOLD, SinkProfile, profile_sinks

SINK_LENGTH = 64
"""Gu's T (arXiv 2410.10781, section 3): the sink metric falls with length, so it is fixed."""


@dataclass(frozen=True)
class SinkReading:
    """A profile in ten numbers, most of them about position 0.

    Attributes:
        sink_rate: share of layers, heads and samples in which position 0 is a sink (Sink_0).
        strongest: position that is a sink most often; 0 where none is one.
        strongest_rate: its share.
        value_ratio: norm of the value at position 0 over the median of all positions, mean over
            layers and heads.
        key_ratio: the same of keys.
        entropy: of the rows of attention, nats, mean over all.
        mass: sum of a row, mean over all; below one beside a learned sink.
        massive_ratio: largest absolute activation over the median, in the layer where that is most.
        massive_count: activations above 100 and above 1,000 times the median, all layers of a
            sample together.
        largest: largest absolute activation behind any layer.
        hidden_ratio: norm of the hidden state at position 0 over the median of all positions, in
            the layer where that is most.
    """

    sink_rate: float
    strongest: int
    strongest_rate: float
    value_ratio: float
    key_ratio: float
    entropy: float
    mass: float
    massive_ratio: float
    massive_count: float
    largest: float
    hidden_ratio: float

    @classmethod
    def of(cls, profile: SinkProfile) -> SinkReading:
        """The numbers of a profile."""
        metric, sinks = profile.sink_metric(), profile.sinks(floor=0.0)
        strongest = sinks[0] if sinks else 0
        return cls(
            sink_rate=float(metric[0]),
            strongest=strongest,
            strongest_rate=float(metric[strongest]),
            value_ratio=float(_first_over_median(profile.value_norm).mean()),
            key_ratio=float(_first_over_median(profile.key_norm).mean()),
            entropy=float(profile.entropy.mean()),
            mass=float(profile.mass.mean()),
            massive_ratio=float(profile.massive_ratio.max()),
            massive_count=float(profile.massive_count.sum()),
            largest=float(profile.largest.max()),
            hidden_ratio=float(_first_over_median(profile.hidden_norm).max()),
        )


def _first_over_median(by_position: Tensor) -> Tensor:
    """`(..., T)` to `(...)`."""
    return by_position[..., 0] / by_position.median(-1).values


@dataclass(frozen=True, eq=False)
class SinkMonitor:
    """Reads a model's sinks from the same tokens each time; the model stays as it was found.

    Attributes:
        input_ids: `(M, T)`, held-out text, nothing padded; rates of other T are not comparable, and
            the literature's is 64.
        threshold: of the sink metric.
        batch_size: samples at a time.
    """

    input_ids: Tensor
    threshold: float = THRESHOLD
    batch_size: int = 64

    def read(self, model: nn.Module) -> SinkReading:
        """Measure a model that `profile_sinks` accepts.

        Raises:
            HeadwayError: the model cannot be observed.
            NotFinite: numbers in it are not finite.
        """
        found = profile_sinks(
            model, self.input_ids, threshold=self.threshold, batch_size=self.batch_size
        )
        return SinkReading.of(found)
