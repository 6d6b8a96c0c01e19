"""Track ids with birth and death. A slot is one object's identity, but a long stream uses the same slot again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from l2g.errors import ConfigError
from l2g.runtime.arrays import Array


@dataclass(frozen=True)
class TrackParameters:
    """When tracks begin and end. Frames are processed frames of one stream.

    birth_score: a slot without a track begins one when its score reaches this, 0..1.
    death_score: a track is seen in a frame when its score reaches this; None: equal to birth_score. Lower than
        birth_score it keeps tracks whose score dips.
    max_age: a track ends after more than this many frames in a row in which it is not seen. Until then it keeps its id:
        long enough for an occlusion, short enough that a slot's next object is not taken for the last one.
    confirm_frames: frames in a row a new track must be seen before it is reported; 1 reports it at once, more drops
        what flickers up once (those first frames are not reported later either).
    """

    birth_score: float = 0.5
    death_score: float | None = None
    max_age: int = 30
    confirm_frames: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.birth_score <= 1:
            raise ConfigError(f"score threshold (birth score) {self.birth_score:g} found, 0 to 1 expected")
        if self.death_score is not None and not 0 <= self.death_score <= self.birth_score:
            raise ConfigError(
                f"death score {self.death_score:g} found, 0 to the birth score {self.birth_score:g} expected"
            )
        if self.max_age < 0:
            raise ConfigError(f"max age {self.max_age} found, 0 frames or more expected")
        if self.confirm_frames < 1:
            raise ConfigError(f"confirm frames {self.confirm_frames} found, 1 or more expected")

    @property
    def seen_score(self) -> float:
        return self.birth_score if self.death_score is None else self.death_score


@dataclass(frozen=True)
class TrackedSlot:
    """A track seen in this frame.

    label: the class with the largest sum of scores over the track's life so far. score: this frame's, of `frame_label`.
    """

    track_id: int
    slot: int
    label: int
    score: float
    frame_label: int


@dataclass
class _Track:
    track_id: int
    votes: dict[int, float] = field(default_factory=dict)
    seen_in_a_row: int = 0
    unseen_in_a_row: int = 0
    confirmed: bool = False

    def label(self) -> int:
        return min(self.votes, key=lambda label: (-self.votes[label], label))


class SlotTracker:
    """Turns one stream's slots into track ids, which start at 1 and are never used twice.

    Memory is bounded by the number of slots, however long the stream is.
    """

    def __init__(self, parameters: TrackParameters | None = None):
        self.parameters = parameters or TrackParameters()
        self.born = 0  # tracks confirmed so far
        self._tracks: dict[int, _Track] = {}

    def update(self, slots: Sequence[int], scores: Sequence[float], labels: Sequence[int]) -> list[TrackedSlot]:
        """Take one frame's slots with their best class and its probability, [M] each; return the tracks seen in it.

        A slot that is not listed counts as unseen. The result keeps the order of the arguments.
        """
        seen: list[TrackedSlot] = []
        present: set[int] = set()
        for slot, score, label in zip(map(int, slots), map(float, scores), map(int, labels), strict=True):
            if score < (self.parameters.seen_score if slot in self._tracks else self.parameters.birth_score):
                continue
            present.add(slot)
            track = self._see(slot, score, label)
            if track.confirmed:
                seen.append(TrackedSlot(track.track_id, slot, track.label(), score, label))
        self._age(present)
        return seen

    def reset(self) -> None:
        """End every track; ids go on counting."""
        self._tracks.clear()

    def memory(self) -> dict[str, Array]:
        """All that is known, as arrays by name, for `recall`."""
        tracks = [
            (slot, track.track_id, track.seen_in_a_row, track.unseen_in_a_row, track.confirmed)
            for slot, track in self._tracks.items()
        ]
        votes = [(slot, label, vote) for slot, track in self._tracks.items() for label, vote in track.votes.items()]
        return {
            "born": np.array(self.born),
            "tracks": np.array(tracks, np.int64).reshape(-1, 5),
            "voted": np.array([pair[:2] for pair in votes], np.int64).reshape(-1, 2),
            "votes": np.array([vote for *_, vote in votes], np.float64),
        }

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Know what `memory` told."""
        self.born = int(memory["born"])
        self._tracks = {
            slot: _Track(track_id, {}, seen, unseen, bool(confirmed))
            for slot, track_id, seen, unseen, confirmed in memory["tracks"].tolist()
        }
        for (slot, label), vote in zip(memory["voted"].tolist(), memory["votes"].tolist(), strict=True):
            self._tracks[slot].votes[label] = vote

    def _see(self, slot: int, score: float, label: int) -> _Track:
        track = self._tracks.setdefault(slot, _Track(track_id=0))
        track.votes[label] = track.votes.get(label, 0.0) + score
        track.seen_in_a_row += 1
        track.unseen_in_a_row = 0
        if not track.confirmed and track.seen_in_a_row >= self.parameters.confirm_frames:
            self.born += 1
            track.confirmed, track.track_id = True, self.born
        return track

    def _age(self, present: set[int]) -> None:
        for slot in [slot for slot in self._tracks if slot not in present]:
            track = self._tracks[slot]
            track.seen_in_a_row = 0
            track.unseen_in_a_row += 1
            if not track.confirmed or track.unseen_in_a_row > self.parameters.max_age:
                del self._tracks[slot]
