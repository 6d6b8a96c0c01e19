"""Batches by number: iteration i of a phase is the same batch whenever and by whichever worker it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from l2g.data.clips import sample_clip
from l2g.data.dataset import VideoDataset
from l2g.errors import ConfigError, L2GError
from l2g.training.config import DataConfig, PhaseConfig
from l2g.training.loss.targets import Batch, collate


class Batches(Dataset):
    """Maps an iteration of one phase to its Batch; rank r of w draws its own share of it.

    key: (seed of the run, index of the phase); with the iteration and the place in the batch it decides what is drawn.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        data: DataConfig,
        phase: PhaseConfig,
        key: tuple[int, int],
        rank: int = 0,
        world: int = 1,
    ):
        if phase.batch_size % world:
            raise ConfigError(
                f"a batch of {phase.batch_size} found for {world} processes; choose one that they can share equally"
            )
        self.dataset = dataset
        self.augment = data.augment
        self.length = phase.clip_length
        self.window, self.windows = phase.frames_per_iteration, phase.windows
        self.stride = phase.stride or data.stride
        self.reverse = data.reverse
        self.skip_broken = data.skip_broken
        self.share = phase.batch_size // world
        self.key = key
        self.first = rank * self.share
        self._last: tuple[int, Batch] | None = None  # a clip in windows is drawn once

    def __getitem__(self, iteration: int) -> Batch:
        number, window = divmod(iteration, self.windows)
        if self._last is None or self._last[0] != number:
            self._last = number, self._draw(number)
        return self._last[1].window(window * self.window, self.window)

    def _draw(self, number: int) -> Batch:
        clips = []
        left_out: list[str] = []
        leave_out = left_out.append if self.skip_broken else None
        for index in range(self.first, self.first + self.share):
            rng = np.random.default_rng([*self.key, number, index])
            kind = self.length, self.stride, self.augment, self.reverse
            clips.append(sample_clip(self.dataset, rng, *kind, leave_out))
        return replace(collate(clips), left_out=tuple(left_out))


def iterate(batches: Batches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Batches start..stop-1 in order, prepared by worker processes where `workers` > 0."""
    loader = DataLoader(
        _Guarded(batches),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=False,
        worker_init_fn=_single_thread,
    )
    for found in loader:
        if isinstance(found, L2GError):
            raise found
        yield found


class _Guarded(Dataset):
    """Gives an error in place of a batch: raised in a worker process it would come with that process's traceback."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __getitem__(self, iteration: int) -> Batch | L2GError:
        try:
            return self.batches[iteration]
        except L2GError as error:
            return error


def _single_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def seed_of(*parts: int) -> int:
    """PyTorch's seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
