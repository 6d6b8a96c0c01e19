"""OVIS: the YouTube-VIS format with a grade of occlusion per object and frame (github.com/qjy981010/cocoapi)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from l2g.data.checks import raise_if_fatal
from l2g.data.dataset import Problem, Video, VideoDataset
from l2g.data.youtube_vis import FileVideo, load_youtube_vis

GRADES = ("no_occlusion", "slight_occlusion", "severe_occlusion")


def load_ovis(
    directory: str | Path, split: str = "train", *, skip_broken: bool = False, drop_empty: bool = False, **places
) -> VideoDataset:
    """Open OVIS: `annotations_train.json` and train/<video>/*.jpg, or any layout that `load_youtube_vis` finds.

    As `load_youtube_vis`; besides, an annotation that has `occlusion` must grade exactly the frames where it has a
    segmentation, since the evaluator sorts objects by it.
    """
    dataset = load_youtube_vis(directory, split, skip_broken=skip_broken, drop_empty=drop_empty, **places)
    problems: list[Problem] = []
    videos: list[Video] = []
    for video in dataset.videos:
        assert isinstance(video, FileVideo)  # `load_youtube_vis` gives no others
        found = {o.id: problem for o in video.objects if (problem := _graded_wrongly(video, o.record))}
        problems += found.values()
        if found:
            video = FileVideo(video.record, video.root, tuple(o for o in video.objects if o.id not in found))
        videos.append(video)
    if not skip_broken:
        raise_if_fatal(problems, dataset.name)
    return replace(dataset, videos=videos, problems=dataset.problems + tuple(problems))


def _graded_wrongly(video: FileVideo, record: dict) -> Problem | None:
    grades = record.get("occlusion")
    if grades is None:
        return None
    where = f"annotation {record.get('id')} of video '{video.name}'"
    if not isinstance(grades, list) or len(grades) != video.length:
        return Problem("corrupt annotation", where, f"'occlusion' is no list of {video.length} grades")
    for t, (grade, segmentation) in enumerate(zip(grades, record["segmentations"], strict=True)):
        if (grade is None) != (not segmentation) or (grade is not None and grade not in GRADES):
            expected = f"one of {', '.join(GRADES)}" if segmentation else "null"
            return Problem("corrupt annotation", where, f"frame {t}: occlusion {grade!r} found, expected {expected}")
    return None
