"""Which source a path, a URL or a list of pictures is.

What reads live sources and pictures is imported where one is met: a run of a file starts the sooner.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from l2g.errors import L2GError, VideoError
from l2g.runtime.video.coding.hardware import DECODERS, Choice
from l2g.runtime.video.sources.base import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    Selection,
    VideoSource,
    is_picture_name,
    reason,
    shown,
)
from l2g.runtime.video.sources.container import VideoFile

if TYPE_CHECKING:
    from l2g.runtime.video.live.address import LiveOptions
    from l2g.runtime.video.live.source import LiveSource

Input: TypeAlias = str | Path | Sequence[str | Path]

# Pictures a second: one in eleven days, and what no camera reaches.
_SLOWEST, _FASTEST = 1e-6, 1e4
_POLL_SECONDS = 0.05
# Of what says where a stream is.
_LIST_SUFFIXES = (".m3u8", ".sdp")
# A camera, a URL, or a pipeline of GStreamer.
_LIVE = re.compile(r"^/dev/v(ideo|4l/)|^camera:|://|\s!\s")


def open_source(
    path: Input,
    selection: Selection | None = None,
    picture_rate: float = 30.0,
    track: int | None = None,
    live: LiveOptions | None = None,
    threads: int | None = None,
    decoder: str | None = None,
) -> VideoSource:
    """Open a video file, a named pipe, a picture, a folder of pictures, several pictures, or a live source: the number
    or device of a camera, a URL that FFmpeg reads, or "-" for stdin.

    picture_rate: frames a second of pictures. track: the number of the video track, from 0, where a file holds several;
    None chooses the film. live: how long a live source is waited for, and how it is found again. threads: of the
    decoder of a file; None is what its pictures' size asks for. decoder: of a file, "nvdec", "vaapi" or "auto" (the
    first that is there); where it is not, and by default ("software"), the processor.
    Raises VideoError when it is missing, empty or not a video.
    """
    selection = selection or Selection()
    check_picture_rate(picture_rate)
    if not isinstance(path, (str, Path)):
        from l2g.runtime.video.sources.pictures import PictureSequence, in_natural_order

        files = in_natural_order([Path(file) for file in path])
        for file in files:
            _mode(str(file))
        _refuse_track(input_name(path), track)
        return _told(PictureSequence(input_name(path), files, selection, picture_rate), decoder)
    try:
        waiting = _begin_live(str(path), selection, track, live)
        if waiting is not None:
            try:
                return _told(waiting.ready(), decoder)
            except BaseException:
                waiting.close()
                raise
        return _told(_open(str(path), selection, picture_rate, track, threads, decoder), decoder)
    except L2GError:
        raise
    except Exception as error:
        raise VideoError(f"{input_name(path)}: cannot be opened ({reason(error)})") from error


def check_picture_rate(rate: float) -> None:
    """VideoError for frames a second that no pictures have."""
    if not _SLOWEST <= rate <= _FASTEST:
        raise VideoError(f"frame rate {rate:g} found for pictures, {_SLOWEST:g} to {_FASTEST:g} a second expected")


def open_sources(
    inputs: Sequence[Input],
    selection: Selection | None = None,
    picture_rate: float = 30.0,
    track: int | None = None,
    live: LiveOptions | None = None,
    say: Callable[[str], None] | None = None,
    decoder: str | None = None,
) -> list[VideoSource]:
    """`open_source` for several inputs; live ones are opened at the same time.

    A camera or a stream that is not there is tried again in the background, as one that is lost later, once another
    input is open; until then this waits. say: where they tell of it. VideoError where a file or a pipe cannot be opened
    or all are given up; it closes all of them.
    """
    waiting: dict[int, LiveSource] = {}
    sources: list[VideoSource] = []
    try:
        for place, path in enumerate(inputs):
            if isinstance(path, (str, Path)):
                begun = _begin_live(str(path), selection or Selection(), track, live, say)
                if begun is not None:
                    waiting[place] = begun
        for place, path in enumerate(inputs):
            if place not in waiting:
                sources.append(open_source(path, selection, picture_rate, track, live, decoder=decoder))
                continue
            sources.append(_told(waiting[place], decoder))
            try:
                waiting[place].ready()
            except VideoError as error:
                waiting[place].seek(error)
        while sources and not any(source.is_open for source in sources):
            if all(source.damage for source in sources):
                raise VideoError(str(sources[0].damage))
            time.sleep(_POLL_SECONDS)
    except BaseException:
        for source in (*waiting.values(), *sources):
            source.close()
        raise
    return sources


def group_inputs(inputs: Sequence[str]) -> list[str | tuple[str, ...]]:
    """Inputs as sources: picture files (`*.jpg`) are together one video, at the place of the first of them."""
    pictures = tuple(path for path in inputs if "://" not in path and is_picture_name(path) and os.path.isfile(path))
    if len(pictures) < 2:
        return list(inputs)
    grouped: list[str | tuple[str, ...]] = []
    for path in inputs:
        if path not in pictures:
            grouped.append(path)
        elif pictures not in grouped:
            grouped.append(pictures)
    return grouped


def folder_name(name: str) -> str:
    """What a folder of results is called after an input's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "video"


def last_part(name: str) -> str:
    """Of a path or a URL, without the suffix of a file; what else follows a dot, as in an address, stays. What a URL
    says after a file, as a signature, is no part of it."""
    suffixes = (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES, *_LIST_SUFFIXES)
    if "://" in name and (file := Path(re.split("[?#]", name, maxsplit=1)[0])).suffix.lower() in suffixes:
        return file.stem
    path = Path(name)
    return path.stem if path.suffix.lower() in suffixes or os.path.isfile(name) else path.name


def input_name(source: Input) -> str:
    """What messages and output folders call an input; pictures have the name of the folder that they lie in."""
    if isinstance(source, (str, Path)):
        text = str(source)
        if may_be_live(text):
            from l2g.runtime.video.live.address import told

            text = told(text)
        return shown(text)
    return shown(Path(source[0]).absolute().parent)


def may_be_live(text: str) -> bool:
    """Whether the name of an input has the form of a camera's, a stream's, a pipeline's or stdin's; files may have it
    too."""
    return text == "-" or text.isdecimal() or bool(_LIVE.search(text))


def may_wait(source: Input) -> bool:
    """Whether an input may be a live source or a pipe, which are waited for."""
    return isinstance(source, (str, Path)) and (may_be_live(str(source)) or _is_pipe(str(source)))


def is_pictures(source: Input) -> bool:
    """Whether an input is pictures, by its form and its name."""
    return not isinstance(source, (str, Path)) or is_picture_name(source) or os.path.isdir(source)


def _begin_live(
    text: str,
    selection: Selection,
    track: int | None,
    options: LiveOptions | None,
    say: Callable[[str], None] | None = None,
) -> LiveSource | None:
    """The live source of this name, which is being opened; None for files."""
    if not may_wait(text):
        return None
    from l2g.runtime.video.live.address import LiveOptions, live_address
    from l2g.runtime.video.live.source import LiveSource

    address = live_address(text)
    return None if address is None else LiveSource(address, selection, options or LiveOptions(), track, say)


def _told(source: VideoSource, decoder: str | None) -> VideoSource:
    """With a notice where a decoder in hardware was named and is not for this kind of source."""
    if not isinstance(source, VideoFile) and Choice.of(decoder, DECODERS, "decoder").explicit:
        source.notices.append(f"{source.name}: decoder {decoder} is for video files: decoded by the processor")
    return source


def _is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _open(
    path: str,
    selection: Selection,
    picture_rate: float,
    track: int | None,
    threads: int | None,
    decoder: str | None = None,
) -> VideoSource:
    if "://" in path and not os.path.exists(path):  # unlike Path.exists, False for what is too long for a name
        return VideoFile(input_name(path), path, selection, track=track, threads=threads, decoder=decoder)
    mode = _mode(path)
    if stat.S_ISDIR(mode) or is_picture_name(path):
        _refuse_track(shown(path), track)
    if stat.S_ISDIR(mode):
        from l2g.runtime.video.sources.pictures import PictureSequence, pictures_of_folder

        return PictureSequence(shown(path), pictures_of_folder(Path(path)), selection, picture_rate)
    if not stat.S_ISREG(mode):
        raise VideoError(f"{shown(path)}: neither a file, a folder nor a pipe; give a video")
    if Path(path).stat().st_size == 0:
        raise VideoError(f"{shown(path)}: the file is empty; copy or record it again")
    if is_picture_name(path):
        picture = _open_picture(Path(path), selection, picture_rate)
        if picture is not None:
            return picture
    # Said outright that it is a file: names may hold a colon.
    return VideoFile(shown(path), f"file:{path}", selection, Path(path), track, threads=threads, decoder=decoder)


def _refuse_track(name: str, track: int | None) -> None:
    if track is not None:
        raise VideoError(f"{name}: pictures have no tracks; leave --track out")


def _open_picture(file: Path, selection: Selection, picture_rate: float) -> VideoSource | None:
    """None for what FFmpeg should try: moving pictures, videos with the name of a picture, pictures cut short."""
    from l2g.runtime.video.sources.picture_file import decode_picture, is_moving_picture, tiff_pages, webp_animation
    from l2g.runtime.video.sources.pictures import AnimatedWebP, PictureSequence

    data = file.read_bytes()
    animation = webp_animation(data)
    if animation is not None:
        return AnimatedWebP(shown(file), file, data, animation, selection)
    if is_moving_picture(data) or (tiff_pages(file) == 1 and decode_picture(data) is None):
        return None
    return PictureSequence(shown(file), [file], selection, picture_rate)


def _mode(path: str) -> int:
    try:
        return Path(path).stat().st_mode
    except FileNotFoundError:
        raise VideoError(f"{shown(path)}: no such file or folder; check the path") from None
    except (OSError, ValueError) as error:
        raise VideoError(f"{path!r}: cannot be opened ({reason(error)}); check the path") from None
