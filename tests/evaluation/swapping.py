"""Backends that segment blobs, and whose slots change places."""

import dataclasses

from l2g.runtime.outputs import RawOutputs
from tests.runtime.blobs import SLOTS, BlobBackend


class Swapping(BlobBackend):
    """From the fourth frame on its first two slots have changed places; `blank`: it sees nothing in that frame;
    `looks`: the queries, by which the runtime knows them again, change places too."""

    blank, looks, since, order = False, True, 4, (1, 0, 2, 3, 4, 5)

    def step(self, frames, reset):
        raw = super().step(frames, reset)
        order = self.order if self.steps >= self.since else range(SLOTS)
        queries = raw.queries
        raw = RawOutputs(**{name: array[:, list(order)] for name, array in vars(raw).items()})
        if not self.looks:
            raw = dataclasses.replace(raw, queries=queries)
        if self.blank and self.steps == 4:
            raw.logits[:] = -9
        return raw


class BlankAndSwapping(Swapping):
    blank = True


class BlankAndSwappingUnseen(BlankAndSwapping):
    looks = False


class Elsewhere(Swapping):
    """From the second frame on the blue block, which comes in later, has the slot of another nobody."""

    since, order = 2, (0, 1, 4, 3, 2, 5)
