"""Why a model has its sink: the class, decided from the battery's effects, evidence in view."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from headway.waiver.battery import Battery
from headway.waiver.effects import Interval

Kind = Literal[
    "position-encoding based", "feature based", "token based", "learned sink", "none", "mixed"
]


@dataclass(frozen=True)
class Thresholds:
    """Where the rule draws its lines; effects are shares of the original sink.

    Attributes:
        floor: share of heads above which there is a sink.
        gone: a sink of which no more is kept needed what was taken away.
        stays: a sink of which as much is kept did not need it.
        follows: with as much of the sink at the new place, it followed the swapped position, or
            the isolated token (less what an untouched place has).
        follows_token: the same for an exchanged token: the whole sink should go with it.
        still: with no more of the sink at the new place, it did not follow at all.
        repeat_kept: of a repeated token; where positions cannot be edited, more than this says
            that positions are needed (arXiv 2410.10781, proposition 1 to 4).
        outweighs: a learned sink and a sink token count as one cause if one is this much stronger.
    """

    floor: float = 0.01
    gone: float = 0.25
    stays: float = 0.6
    follows: float = 0.2
    follows_token: float = 0.5
    still: float = 0.1
    repeat_kept: float = 0.5
    outweighs: float = 2.0


@dataclass(frozen=True)
class Evidence:
    """One number that the rule looked at.

    Attributes:
        key: of the pooled effect, or 'natural', 'learned'.
        says: what it means, in words.
        effect: with its interval.
        threshold: the line that it was held against.
        sure: whether the whole interval lies on the same side of the line.
    """

    key: str
    says: str
    effect: Interval
    threshold: float
    sure: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {**vars(self), "effect": self.effect._asdict()}


@dataclass(frozen=True)
class Facts:
    """What the rule decides from, for a model or one of its layers.

    Attributes:
        natural: sink of a token, share of heads.
        learned: share of heads that give a learned sink more than the threshold; None without one.
        encodings: 'absolute', 'relative', 'none' or 'closed'.
        effects: by key of the battery; absent where a test was not run.
    """

    natural: Interval
    learned: Interval | None
    encodings: str
    effects: Mapping[str, Interval]


@dataclass(frozen=True)
class Verdict:
    """The class and why.

    Attributes:
        kind: of the model.
        words: sentences with the numbers.
        evidence: what the rule looked at, in order.
        layers: class of each layer.
        thresholds: that it was decided with.
    """

    kind: Kind
    words: str
    evidence: tuple[Evidence, ...]
    layers: tuple[Kind, ...]
    thresholds: Thresholds

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "kind": self.kind,
            "words": self.words,
            "evidence": [evidence.to_dict() for evidence in self.evidence],
            "layers": list(self.layers),
            "thresholds": asdict(self.thresholds),
        }


def decide(battery: Battery, thresholds: Thresholds = Thresholds()) -> Verdict:
    """The verdict on a model and on each of its layers; the rule is `judge`.

    Args:
        battery: of `run_battery`.
        thresholds: in the place of the calibrated ones.
    """
    rates = battery.learned
    learned = None
    if rates:
        learned = Interval(*(sum(x) / len(rates) for x in zip(*rates, strict=True)))
    whole = {key: effect.total for key, effect in battery.pooled.items()}
    facts = Facts(battery.total, learned, battery.encodings, whole)
    kind, evidence = judge(facts, thresholds)
    layers = []
    for number, natural in enumerate(battery.natural):
        own = {key: effect.layers[number] for key, effect in battery.pooled.items()}
        rate = rates[number] if rates else None
        layers.append(judge(Facts(natural, rate, battery.encodings, own), thresholds)[0])
    return Verdict(kind, _words(kind, evidence, battery), evidence, tuple(layers), thresholds)


def judge(facts: Facts, thresholds: Thresholds) -> tuple[Kind, tuple[Evidence, ...]]:
    """The rule, on the numbers alone.

    A cause has two marks. Taken away, the sink goes; given to another token, the sink comes there.
    Whether positions are needed is asked first, as it is the sharpest test: with all of them equal
    nothing is left that a position-encoding based sink could be found by, while one that comes
    from features or from a token does not notice. An isolated token may draw a sink in models of
    both sorts, so that it decides only where positions are not needed. There the lack of context
    is the feature that is known: a token that loses its context becomes a sink, or the first one
    ceases to be a sink when it gets some.
    """
    t, look = thresholds, _Look(facts, thresholds)
    natural = look.natural()
    learned = look.learned()
    if learned > t.floor and learned >= t.outweighs * natural:
        return "learned sink", look.evidence
    if natural <= t.floor:
        return "none", look.evidence
    position, token = look.position_needed(), look.token_needed()
    swap, exchanged, isolated = look.swap_moved(), look.token_moved(), look.isolate_moved()
    without_context = look.context_ends_it() or isolated
    if learned > t.floor and natural < t.outweighs * learned:
        return "mixed", look.evidence
    by_token = token == "needed" and exchanged >= t.follows_token
    if position == "needed":
        alone = swap is not False and exchanged < t.follows
        return ("position-encoding based" if alone else "mixed"), look.evidence
    # A sink that position changes weaken but never move was not chosen by position.
    chosen_by_position = position == "partly" and swap is not None and not look.still
    if position == "unknown" or chosen_by_position or swap:
        return "mixed", look.evidence
    if by_token:
        return "token based", look.evidence
    if without_context and token != "needed" and exchanged < t.follows:
        return "feature based", look.evidence
    return "mixed", look.evidence


class _Look:
    """Reads facts one by one and keeps them as evidence."""

    def __init__(self, facts: Facts, thresholds: Thresholds) -> None:
        self.facts, self.t = facts, thresholds
        self.kept: list[Evidence] = []
        self.still = False

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        return tuple(self.kept)

    def natural(self) -> float:
        found = self.facts.natural
        above = found.value > self.t.floor
        says = "some token is a sink" if above else "no token is a sink"
        return self._add("natural", f"share of heads with the sink: {says}", found, self.t.floor)

    def learned(self) -> float:
        if self.facts.learned is None:
            return 0.0
        says = "share of heads that spend on a learned sink"
        return self._add("learned", says, self.facts.learned, self.t.floor)

    def position_needed(self) -> str:
        """'needed', 'not needed', 'partly' or 'unknown'."""
        if self.facts.encodings == "none":
            return "not needed"
        kept = self._get("equal_kept")
        if kept is None:
            return self._by_repeat()
        if kept.value <= self.t.gone:
            says, line, found = "without position information the sink goes", self.t.gone, "needed"
        elif kept.value >= self.t.stays:
            says, line = "without position information the sink stays", self.t.stays
            found = "not needed"
        else:
            says, line = "without position information part of the sink stays", self.t.stays
            found = "partly"
        self._add("equal_kept", says, kept, line)
        return found

    def _by_repeat(self) -> str:
        """Where positions cannot be edited: repeated tokens differ by an absolute encoding alone,
        as long as rows of attention sum to one."""
        repeat, guard = self._get("repeat_kept"), self._get("repeat_guard")
        if repeat is None or self.facts.learned is not None:
            return "unknown"
        if guard is not None and guard.value > self.t.still:
            says = "repeated tokens differ without positions"
            self._add("repeat_guard", says, guard, self.t.still)
            return "unknown"
        if repeat.value > self.t.repeat_kept:
            self._add("repeat_kept", "repeated tokens keep it", repeat, self.t.repeat_kept)
            return "needed"
        if repeat.value > self.t.still:
            self._add("repeat_kept", "repeated tokens keep some of it", repeat, self.t.repeat_kept)
            return "unknown"
        self._add("repeat_kept", "repeated tokens have no sink", repeat, self.t.still)
        return "not needed"

    def token_needed(self) -> str:
        kept = self._get("replace_kept")
        if kept is None:
            return "unknown"
        if kept.value <= self.t.gone:
            self._add("replace_kept", "with another token there the sink goes", kept, self.t.gone)
            return "needed"
        says = "stays" if kept.value >= self.t.stays else "partly stays"
        self._add("replace_kept", f"with another token there the sink {says}", kept, self.t.stays)
        return "not needed" if kept.value >= self.t.stays else "partly"

    def swap_moved(self) -> bool | None:
        moved = self._get("swap_moved")
        if moved is None:
            return None
        self.still = moved.value <= self.t.still
        follows = moved.value >= self.t.follows
        says = (
            "the sink follows its position encoding"
            if follows
            else (
                "the sink does not follow its position encoding"
                if self.still
                else "little of the sink follows its position encoding"
            )
        )
        self._add("swap_moved", says, moved, self.t.follows)
        return follows

    def token_moved(self) -> float:
        moved = self._get("token_moved")
        if moved is None:
            return 0.0
        follows = moved.value >= self.t.follows_token
        says = "the sink follows its token" if follows else "the sink does not follow its token"
        return self._add("token_moved", says, moved, self.t.follows_token)

    def isolate_moved(self) -> bool:
        moved, control = self._get("isolate_moved"), self._get("isolate_control")
        if moved is None:
            return False
        less = 0.0 if control is None else control.value
        line = self.t.follows + less
        follows = moved.value >= line
        says = "becomes a sink" if follows else "becomes no sink"
        self._add("isolate_moved", f"a token that sees itself alone {says}", moved, line)
        return follows

    def context_ends_it(self) -> bool:
        kept = self._get("context_kept")
        if kept is None:
            return False
        goes = kept.value <= self.t.gone
        says = "goes" if goes else "does not go"
        words = f"with context before the first token the sink {says}"
        self._add("context_kept", words, kept, self.t.gone)
        return goes

    def _get(self, key: str) -> Interval | None:
        found = self.facts.effects.get(key)
        return None if found is None or math.isnan(found.value) else found

    def _add(self, key: str, says: str, effect: Interval, line: float) -> float:
        sure = (effect.low > line) == (effect.high > line)
        self.kept.append(Evidence(key, says, effect, line, sure))
        return effect.value


REASONS: dict[Kind, str] = {
    "position-encoding based": "The sink is chosen by its position encoding",
    "feature based": "The sink is chosen by features, those of a token without context",
    "token based": "The sink is chosen by its token",
    "learned sink": "Attention is spent on a learned sink, which is no token",
    "none": "There is no sink",
    "mixed": "No single cause explains the sink",
}


def _words(kind: Kind, evidence: tuple[Evidence, ...], battery: Battery) -> str:
    """The verdict in sentences."""
    found = [f"{e.says}: {e.effect} ({_line(e)})" for e in evidence]
    place = ""
    if battery.placed is not None:
        place = f" Token {battery.placed} is a sink wherever it stands."
    elif battery.origin is not None:
        place = f" It stands at position {battery.origin}."
    unsure = [e.says for e in evidence if not e.sure]
    doubt = ""
    if unsure:
        doubt = f" Not sure at this number of samples: {'; '.join(unsure)}."
    return f"{REASONS[kind]}.{place} Evidence: {'; '.join(found)}.{doubt}"


def _line(evidence: Evidence) -> str:
    side = "above" if evidence.effect.value > evidence.threshold else "not above"
    return f"{side} {evidence.threshold:.3g}"
