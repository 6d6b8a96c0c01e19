"""What crosses between driver, workers and disk: settings, tasks, and what became of a video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from l2g.errors import L2GError
from l2g.records import Record
from l2g.runtime.video.live.address import without_password

if TYPE_CHECKING:
    from l2g.runtime.identity.tracks import TrackParameters
    from l2g.runtime.video.overlay import OverlayStyle
    from l2g.runtime.video.source import Selection

DONE, DAMAGED, FAILED = "done", "damaged", "failed"


@dataclass(frozen=True)
class Settings(Record):
    """All that decides what is in a video's files. It lies in the output as `batch.json`: results of two kinds are
    never mixed in one.

    model_sha256: of a model that is a file, of a folder that of its first file of tensors; None of a shipped or
    published one. cuts, canvas, num_queries, num_heads, box_init, class_names, library, device, precision, compile,
    fp32_blocks: as `l2g run` has them. overlay: whether one is written. picture_rate: frames a second of pictures.
    piece, overlap: seconds; 0 takes videos whole.
    """

    model: str
    model_sha256: str | None = None
    score_threshold: float = 0.5
    top_k: int = 50
    max_age: int = 30
    start: float = 0.0
    end: float | None = None
    stride: int = 1
    cuts: str | tuple[float, ...] = "auto"
    picture_rate: float = 30.0
    canvas: tuple[int, ...] | None = None
    num_queries: int | None = None
    num_heads: int | None = None
    box_init: str | None = None
    class_names: tuple[str, ...] | None = None
    library: str | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool = False
    fp32_blocks: tuple[str, ...] = ()
    overlay: bool = True
    labels: bool = True
    opacity: float = 0.45
    trails: int = 0
    hud: bool = False
    piece: float = 0.0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if self.piece < 0 or self.overlap < 0 or (self.overlap and self.overlap >= self.piece):
            raise L2GError(
                f"pieces of {self.piece:g} s with an overlap of {self.overlap:g} s found; "
                "expected a piece of more than 0 s and a shorter overlap"
            )
        if self.piece and self.overlay:
            raise L2GError("--piece writes no overlay, since pieces are drawn apart; add --no-overlay")
        if self.piece and (self.start or self.end is not None):
            raise L2GError("--piece found with --start or --end; take one or the other")
        self._refuse_bad_values()

    def _refuse_bad_values(self) -> None:
        """Here and not at every video, when the output would have them in its `batch.json`."""
        from l2g.runtime.video.sources.open import check_picture_rate

        self.selection(), self.tracking(), self.style()
        check_picture_rate(self.picture_rate)
        if self.top_k < 1:
            raise L2GError(f"top-k {self.top_k} found, at least 1 expected")

    def selection(self) -> Selection:
        from l2g.runtime.video.source import Selection

        return Selection(self.start, self.end, self.stride)

    def tracking(self) -> TrackParameters:
        from l2g.runtime.identity.tracks import TrackParameters

        return TrackParameters(birth_score=self.score_threshold, max_age=self.max_age)

    def style(self) -> OverlayStyle:
        from l2g.runtime.video.overlay import OverlayStyle

        return OverlayStyle(self.labels, self.opacity, self.trails, self.hud)

    def differences(self, other: Settings) -> list[str]:
        """The names of the fields in which the two are not equal."""
        return [name for name, value in vars(self).items() if value != getattr(other, name)]


@dataclass(frozen=True)
class Entry:
    """A video. source: absolute path or URL. name: of its folder in the output. number: of the run's videos, from 0."""

    source: str
    name: str
    number: int = 0


@dataclass(frozen=True)
class Task:
    """What a worker is asked for: a video, or with `pieces` the piece of that number, or with `join` their union.

    attempt: from 1.
    """

    entry: Entry
    attempt: int = 1
    piece: int = 0
    pieces: int = 0
    join: bool = False

    @property
    def key(self) -> tuple[int, int, int, bool]:
        """The same for every attempt at it, and another's never: two videos may have one name, and the first piece of a
        video is not the whole."""
        return self.entry.number, self.piece, self.pieces, self.join


@dataclass(frozen=True)
class VideoRecord(Record):
    """What became of a video; `video.json` in its folder, and a row of the manifest.

    source: without a password, as are error and notices: others read them. status: "done"; "damaged": the source could
    not be read to its end, the files hold what could be; "failed": there are no files. error: what was wrong, of the
    last two. seconds: of work, all pieces together. resets: how often the stream began anew, by reason. pieces: that
    the video was cut into. attempts: that it took. worker: host and process.
    """

    name: str
    source: str
    status: str
    frames: int = 0
    tracks: int = 0
    seconds: float = 0.0
    error: str | None = None
    notices: tuple[str, ...] = ()
    resets: dict[str, int] = field(default_factory=dict)
    pieces: int = 1
    attempts: int = 1
    worker: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", without_password(self.source))
        object.__setattr__(self, "error", self.error and without_password(self.error))
        object.__setattr__(self, "notices", tuple(map(without_password, self.notices)))


@dataclass(frozen=True)
class Outcome:
    """A video is settled. before: its files were there already, from an earlier run or another copy of the task."""

    record: VideoRecord
    before: bool = False


@dataclass(frozen=True)
class Split:
    """A video is long: it goes on as so many pieces."""

    pieces: int


@dataclass(frozen=True)
class PieceDone:
    """A piece lies in the store."""


Result = Outcome | Split | PieceDone
