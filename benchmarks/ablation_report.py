"""The ablation's results as Markdown tables with intervals, and as a picture of the variants side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from l2g import load_checkpoint
from l2g.data.synthetic.shapes import CLASS_NAMES
from l2g.data.synthetic.video import synthetic_video
from l2g.errors import DataError, L2GError
from l2g.evaluation.run import ScoringOptions
from l2g.runtime.frame_result import FrameResult, TrackedInstance
from l2g.runtime.picture.letterbox import Letterbox
from l2g.runtime.picture.masks import InstanceMask
from l2g.runtime.video.overlay import OverlayStyle, draw_overlay
from l2g.runtime.video.picture_writer import PictureWriter

RESAMPLES = 4000
HOW = {"slots": "a slot is an identity", "handover": "with the handover of identities"}


def tables(
    runs: Mapping[str, list[dict]],
    named: Mapping[str, Sequence[tuple[str, str]]],
    absences: Sequence[tuple[int, int]],
) -> str:
    """Everything that is there. runs: variant -> its results. named: tables -> pairs of variants to compare. absences:
    the bins of `returns`."""
    if not runs:
        raise L2GError("no results found; run `ablation.py run` with this --output first")
    parts = [_scores(runs, how) for how in HOW]
    for name, pairs in named.items():
        if there := [pair for pair in pairs if set(pair) <= runs.keys()]:
            parts.append(_differences(name, there, runs))
    parts += [_identities(runs, how, absences) for how in HOW]
    parts.append(_insight(runs))
    return "\n\n".join(parts)


def _scores(runs: Mapping[str, list[dict]], how: str) -> str:
    splits = list(next(iter(runs.values()))[0]["scores"])
    lines = [f"AP, {HOW[how]} (mean of the seeds, each of them)", "", row("variant", "seeds", *splits)]
    lines.append(rule(len(splits) + 2))
    for variant, found in runs.items():
        cells = []
        for split in splits:
            values = [run["scores"][split][how]["AP"] for run in found]
            cells.append(f"**{np.mean(values):.1f}** ({', '.join(f'{value:.1f}' for value in values)})")
        lines.append(row(variant, len(found), *cells))
    return "\n".join(lines)


def _differences(table: str, pairs: Sequence[tuple[str, str]], runs: Mapping[str, list[dict]]) -> str:
    """AP of a variant less that of another, by seeds and videos that both have."""
    splits = list(next(iter(runs.values()))[0]["scores"])
    lines = [f"**{table}**, AP gained, 95 % interval over seeds and videos", ""]
    lines += [row("", "identities", "seeds", *splits), rule(len(splits) + 3)]
    for after, before in pairs:
        for how in HOW:
            cells, seeds = [], 0
            for split in splits:
                mean, low, high, seeds = _difference(runs[before], runs[after], split, how)
                cells.append(f"**{mean:+.1f}** [{low:+.1f}, {high:+.1f}]")
            lines.append(row(f"{after} less {before}", how, seeds, *cells))
    return "\n".join(lines)


def _difference(before: list[dict], after: list[dict], split: str, how: str) -> tuple[float, float, float, int]:
    """Mean, 2.5 and 97.5 % of the difference's bootstrap over seeds and videos, drawn for both sides alike."""
    one = {run["seed"]: run["scores"][split][how] for run in before}
    other = {run["seed"]: run["scores"][split][how] for run in after}
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise L2GError("two variants of a table share no seed; run them with the same --seeds")
    gained = np.array([np.subtract(other[seed]["draws"], one[seed]["draws"]) for seed in seeds])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(seeds), size=(RESAMPLES, len(seeds)))
    means = gained[drawn, rng.integers(gained.shape[1], size=(RESAMPLES, 1))].mean(axis=1)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return float(np.mean([other[seed]["AP"] - one[seed]["AP"] for seed in seeds])), float(low), float(high), len(seeds)


def _identities(runs: Mapping[str, list[dict]], how: str, absences: Sequence[tuple[int, int]]) -> str:
    """Switches and coverage per split, and of all objects that were away for so long which share came back the same."""
    splits = list(next(iter(runs.values()))[0]["scores"])
    lengths = [f"{low}-{high}" if high < 1000 else f"from {low}" for low, high in absences]
    lines = [
        f"Switches an object and 100 frames / object-frames covered, and the share of objects that are found again "
        f"under the same identity by the frames of their absence, {HOW[how]} (means of the seeds)",
        "",
        row("variant", *splits, *lengths),
        rule(1 + len(splits) + len(lengths)),
    ]
    for variant, found in runs.items():
        cells = []
        for split in splits:
            parts = [run["scores"][split][how] for run in found]
            switches, covered = (np.mean([part[key] for part in parts]) for key in ("switches", "covered"))
            cells.append(f"{switches:.2f} / {covered:.0f} %")
        for place in range(len(absences)):
            kinds = [run["scores"][split][how]["returns"][place] for run in found for split in splits]
            total = sum(sum(kind.values()) for kind in kinds)
            same = sum(kind["same"] for kind in kinds)
            cells.append(f"{100 * same / total:.0f} % of {total}" if total else "none")
        lines.append(row(variant, *cells))
    return "\n".join(lines)


def _insight(runs: Mapping[str, list[dict]]) -> str:
    names = list(dict.fromkeys(name for found in runs.values() for run in found for name in run["insight"]))
    lines = [
        "Queries from frame to frame on `crossing` (means of the seeds)",
        "",
        row("", *runs),
        rule(1 + len(runs)),
    ]
    for name in names:
        cells = []
        for found in runs.values():
            values = [run["insight"][name] for run in found if name in run["insight"]]
            cells.append(f"{np.mean(values):.3f}" if values else "")
        lines.append(row(name, *cells))
    return "\n".join(lines)


def row(*cells) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def rule(columns: int) -> str:
    return "|" + "---|" * columns


def draw_picture(
    options: argparse.Namespace, variants: Sequence[str], folder_of: Callable[[Path, str, int], Path]
) -> int:
    """The annotation and the variants below each other, frames beside each other, a colour a slot."""
    split, _, number = options.video.partition(":")
    try:
        video = synthetic_video(split, int(number), frames=max(options.frames) + 1)
    except (ValueError, DataError) as error:
        raise L2GError(f"--video {options.video}: SPLIT:NUMBER expected, such as crossing:0 ({error})") from None
    rows = [[_annotated(video, time) for time in options.frames]]
    for variant in variants:
        weights = folder_of(options.output, variant, options.seed) / "model.safetensors"
        if not weights.is_file():
            raise L2GError(f"{weights}: no such file; run this variant and seed first")
        rows.append(_rollout(load_checkpoint(weights).eval(), video.frames, options.frames))
    titles = ["annotated", *variants]
    strips = [_titled(title, np.concatenate(row, axis=1)) for title, row in zip(titles, rows, strict=True)]
    with PictureWriter(options.picture) as picture:
        picture.write(np.concatenate(strips), 0.0)
    print(options.picture)
    return 0


def _annotated(video, time: int) -> np.ndarray:
    masks = video.masks()[:, time]
    tracks = [
        _track(index, int(video.labels[index]), 1.0, mask)
        for index, mask in enumerate(masks)
        if video.present[time, index]
    ]
    return _drawn(video.frames[time], tracks)


def _rollout(model, frames: np.ndarray, shown: Sequence[int]) -> list[np.ndarray]:
    """The frames that are shown, with what the model has in its slots there."""
    pictures, state = {}, None
    letterbox = Letterbox(*frames.shape[1:3], *frames.shape[1:3])
    with torch.inference_mode():
        for time in range(max(shown) + 1):
            output, state = model.step(torch.from_numpy(frames[time][None]), state)
            if time not in shown:
                continue
            scores, labels = (part.numpy() for part in output.logits[0].sigmoid().max(-1))
            tracks = [
                _track(slot, int(labels[slot]), float(scores[slot]), mask.full())
                for slot in np.flatnonzero(scores >= ScoringOptions.identity_score)
                if (mask := letterbox.mask_to_source(output.mask_logits[0, slot].numpy())).patch.size
            ]
            pictures[time] = _drawn(frames[time], tracks)
    return [pictures[time] for time in shown]


def _track(slot: int, label: int, score: float, mask: np.ndarray) -> TrackedInstance:
    height, width = mask.shape
    return TrackedInstance(slot + 1, slot, label, score, label, InstanceMask.from_patch(mask, 0, 0, height, width))


def _drawn(frame: np.ndarray, tracks: Sequence[TrackedInstance], scale: int = 2) -> np.ndarray:
    height, width = frame.shape[:2]
    result = FrameResult(0, 0.0, tuple(sorted(tracks, key=lambda t: -t.score)), height, width, CLASS_NAMES)
    drawn = draw_overlay(frame, result, CLASS_NAMES, OverlayStyle(labels=False, opacity=0.6))
    return cv2.copyMakeBorder(cv2.resize(drawn, None, fx=scale, fy=scale), 2, 2, 2, 2, cv2.BORDER_CONSTANT)


def _titled(title: str, strip: np.ndarray) -> np.ndarray:
    bar = np.full((24, strip.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([bar, strip])
