"""Which of several video tracks is the film, and which are covers, previews and thumbnails."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from l2g.errors import VideoError

# Tracks that accompany a film or a song, by what the container says of them.
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.metadata
# Packets looked at to tell a still from a film: one track has to bring this many, or all tracks so many.
_MOVING, _LOOK_AT = 8, 2000


@dataclass(frozen=True)
class Track:
    """number: among the video tracks, from 0. seconds: None where the container does not tell."""

    number: int
    stream: VideoStream
    codec: str | None
    height: int
    width: int
    seconds: float | None
    accompanies: bool
    is_default: bool
    packets: int | None

    @property
    def is_still(self) -> bool:
        return self.packets is not None and self.packets <= 1

    def __str__(self) -> str:
        kind = ", a cover or preview" if self.accompanies else ", a still" if self.is_still else ""
        return f"{self.number} ({self.codec or 'unknown codec'} {self.width}x{self.height}{kind})"


def choose_track(container: InputContainer, name: str, wanted: int | None, path: str | None) -> tuple[Track, str]:
    """The track to decode, and a sentence on the choice where there was one, else "".

    wanted: the number that the user asks for. path: of a local file, which can be opened a second time to look at how
    many pictures each track brings; None for what can be read once only. VideoError when nothing can be decoded.
    """
    streams = list(container.streams.video)
    counts = _count_packets(path, len(streams)) if path and len(streams) > 1 else None
    tracks = [_track(stream, number, counts[number] if counts else None) for number, stream in enumerate(streams)]
    if wanted is not None:
        if not 0 <= wanted < len(tracks):
            raise VideoError(f"{name}: video track {wanted} asked for, but it holds {_listed(tracks)}")
        return _decodable(tracks[wanted], name), ""
    films = [track for track in tracks if not track.accompanies]
    if not films:
        only, other = (f", only {_listed(tracks)}", ", or one of these with --track") if tracks else ("", "")
        raise VideoError(f"{name}: holds no video stream{only}; give a video, such as MP4, MKV or AVI{other}")
    known = [track for track in films if track.codec is not None] or films
    moving = [track for track in known if not track.is_still] or known
    longest = max((track.seconds or 0.0) for track in moving)
    long = [track for track in moving if track.seconds is None or track.seconds >= longest / 2]
    best = max(long, key=lambda track: (track.is_default, track.height * track.width, -track.number))
    note = f"track {best.number} is used, of {_listed(tracks)}; --track chooses another" if len(tracks) > 1 else ""
    return _decodable(best, name), note


def _track(stream: VideoStream, number: int, packets: int | None) -> Track:
    codec = stream.codec_context
    return Track(
        number=number,
        stream=stream,
        codec=codec.name if codec else None,
        height=codec.height if codec else 0,
        width=codec.width if codec else 0,
        seconds=stated_seconds(stream),
        accompanies=bool(stream.disposition & _NO_FILM),
        is_default=bool(stream.disposition & Disposition.default),
        packets=packets,
    )


def stated_seconds(stream: VideoStream) -> float | None:
    """How long the container says that this track lasts; Matroska may mean the time of its end."""
    # Matroska keeps it in a tag per stream; the container's own duration, which FFmpeg gives to streams that have none,
    # may be that of a longer sound track.
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (Fraction(part) for part in parts)
        return float(3600 * hours + 60 * minutes + seconds) or None
    except (ValueError, ZeroDivisionError):
        return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None


def _count_packets(path: str, tracks: int) -> list[int] | None:
    """How many pictures each video track brings at the beginning of the file; None where it cannot be told."""
    counts = [0] * tracks
    try:
        with av.open(path, metadata_errors="replace") as container:
            numbers = {stream.index: number for number, stream in enumerate(container.streams.video)}
            for looked_at, packet in enumerate(container.demux(list(container.streams.video))):
                if packet.size:
                    counts[numbers[packet.stream.index]] += 1
                if looked_at >= _LOOK_AT or max(counts) >= _MOVING * tracks:
                    break
    except (av.error.FFmpegError, OSError, ValueError, KeyError, IndexError):
        return None
    return counts


def _decodable(track: Track, name: str) -> Track:
    if track.codec is None:
        raise VideoError(f"{name}: cannot be decoded: the codec of its video is unknown; is the file complete?")
    return track


def _listed(tracks: list[Track]) -> str:
    return ("video track " if len(tracks) == 1 else "video tracks ") + ", ".join(map(str, tracks))
