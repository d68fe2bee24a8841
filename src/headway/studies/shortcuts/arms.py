"""What the studies of layerwise attention shortcuts (arXiv 2409.10870) share: arms, and conditions
under which all of them are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Literal

from headway.corpora.tokens import TokenCorpus, is_corpus
from headway.decoder import HeadwayConfig
from headway.errors import HeadwayError
from headway.mechanisms import LayerShortcut, Mechanism, ScalarMix
from headway.studies.claims import Measures, Results, Run, Size
from headway.studies.language_models.course import Arm, Extent, Look, performing
from headway.training.matched import forward_operations, matching_width, parameter_count
from headway_settings import StudySettings

PLAIN, SHORTCUT = "plain", "shortcut"
PARAMETERS, OPERATIONS = "plain-parameters", "plain-operations"
STATIC, SAME, ALL, OWN = "static-mix", "same-token", "all-taps", "own-layer"

KINDS = {
    PLAIN: "no shortcut",
    SHORTCUT: "the last layer attends to perceptrons' features of every other layer, in place of "
    "its own, over all earlier positions",
    PARAMETERS: "no shortcut, feed-forward parts widened to at least the parameters of `shortcut`",
    OPERATIONS: "no shortcut, feed-forward parts widened to at least its operations",
    STATIC: "learned weights mix the outputs of the same layers after the last one",
    SAME: "the last layer attends, beside its own self-attention, to the same features at the same "
    "position",
    ALL: "as `shortcut`, over all layers before the last",
    OWN: "as `shortcut`, over one perceptron of all their size on the last layer's own input: no "
    "earlier layer is read",
}
"""Arms by what is changed; each is run under every condition."""


def taps_of(layers: int) -> tuple[int, ...]:
    """Every other layer: 2, 4, 6 and 8 of 10."""
    return tuple(range(2, layers - 1, 2))


def arms_of(extent: Extent) -> dict[str, Arm]:
    """An arm of each kind. Perceptrons are four times as wide as the model: 1,024 at width 256.

    Args:
        extent: with one shape, to which plain arms are matched.
    """
    [shape] = extent.shapes
    taps, width = taps_of(shape.layers), 4 * shape.width
    mechanisms: dict[str, Mechanism] = {
        SHORTCUT: LayerShortcut(taps=taps, width=width),
        STATIC: ScalarMix(taps=taps),
        SAME: LayerShortcut(taps=taps, width=width, reach="token", mode="add"),
        ALL: LayerShortcut(width=width),
        OWN: LayerShortcut(taps=(shape.layers - 1,), width=len(taps) * width),
    }
    found = {
        kind: Arm(about=about, mechanisms=(mechanisms[kind],) if kind in mechanisms else ())
        for kind, about in KINDS.items()
    }
    # What is added does not depend on the vocabulary.
    plain, ours = (extent.config(found[kind], 1, 0) for kind in (PLAIN, SHORTCUT))
    costs: dict[str, Callable[[HeadwayConfig], int]] = {
        PARAMETERS: parameter_count,
        OPERATIONS: partial(_operations, extent.context),
    }
    for kind, cost in costs.items():
        wider = matching_width(plain, cost, cost(ours))
        found[kind] = replace(found[kind], fields={"intermediate_size": wider})
    return found


def _operations(length: int, config: HeadwayConfig) -> int:
    return forward_operations(config, length)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Tokens that all arms are trained on.

    Attributes:
        name: of the folder that holds them, inside of `--corpus`.
        kind: of the corpus; text is made into tokens where there is no such folder.
        extents: by size.
    """

    name: str
    kind: Literal["text", "music", "speech"] = "text"
    extents: Mapping[Size, Extent]

    def arm(self, kind: str) -> str:
        """The name of an arm under this condition."""
        return f"{kind}-{self.name}"

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of all arms."""
        return tuple(map(self.arm, KINDS))

    def placed(self, settings: StudySettings) -> StudySettings:
        """The settings under which a `Course` finds the tokens.

        Raises:
            HeadwayError: they are not there and cannot be made from text, or are of another kind.
        """
        held = settings.corpus
        if held is not None and is_corpus(held):
            raise HeadwayError(
                f"corpus: {held} is one corpus; accepted is a folder with one of them for each "
                f"condition, as {held.parent} where this one is {held.parent / self.name}"
            )
        if held is not None and is_corpus(held / self.name):
            found = TokenCorpus.load(held / self.name).description.kind
            if found != self.kind:
                raise HeadwayError(
                    f"corpus: {held / self.name} holds {found}; accepted is a corpus of {self.kind}"
                )
            text = settings.text if self.kind == "text" else None
            return replace(settings, corpus=held / self.name, text=text)
        if self.kind != "text":
            folder = held or "FOLDER"
            raise HeadwayError(
                f"corpus: {held or 'nothing'} holds no {self.name}; accepted is a folder in which "
                f"`headway corpus build {self.kind} PATH --out {folder}/{self.name}` made one"
            )
        return settings


def runs_of(
    conditions: Sequence[Condition], settings: StudySettings, results: Results
) -> list[Run]:
    """`Study.runs`: one condition after the other, each with its races and then its tests."""
    found = []
    for condition in conditions:
        own = replace(results, found=tuple(results.of(condition.arms)))
        rates = condition.extents[settings.size].rates
        found += rates.runs(dict.fromkeys(condition.arms, ()), settings, own)
    return found


def perform_conditions(
    conditions: Sequence[Condition], look: Look, runs: Sequence[Run], settings: StudySettings
) -> Iterator[tuple[Run, Measures]]:
    """`Study.perform`, from what is looked at.

    Raises:
        HeadwayError: tokens of any condition are not there; nothing is trained before.
    """
    of_arm = {arm: condition for condition in conditions for arm in condition.arms}
    met = {of_arm[run.arm].name for run in runs}
    placed = {c.name: c.placed(settings) for c in conditions if c.name in met}
    for condition, own in groupby(runs, lambda run: of_arm[run.arm]):
        extent = condition.extents[settings.size]
        arms = {condition.arm(kind): arm for kind, arm in arms_of(extent).items()}
        perform = performing(arms, {settings.size: extent}, look)
        yield from perform(list(own), placed[condition.name])
