"""Frames out of video files, streams and pictures, upright, in order, with their times.

Times are seconds from the first frame, taken from the presentation timestamps, so that variable frame rates stay
true. Files that break in the middle give what can be decoded, and `damage` then says what was lost.
"""

from l2g.runtime.video.sources.base import NothingSelectedError, Selection, VideoFrame, VideoSource, said_unreadable
from l2g.runtime.video.sources.container import ONE_CORE_PIXELS
from l2g.runtime.video.sources.open import (
    folder_name,
    group_inputs,
    input_name,
    is_pictures,
    last_part,
    may_be_live,
    may_wait,
    open_source,
    open_sources,
)

__all__ = [
    "ONE_CORE_PIXELS",
    "NothingSelectedError",
    "Selection",
    "VideoFrame",
    "VideoSource",
    "folder_name",
    "group_inputs",
    "input_name",
    "is_pictures",
    "last_part",
    "may_be_live",
    "may_wait",
    "open_source",
    "open_sources",
    "said_unreadable",
]
