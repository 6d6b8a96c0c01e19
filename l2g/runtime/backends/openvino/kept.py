"""Compiled models, kept for the next opening of the same file.

OpenVINO's own cache knows a model by all of its nodes, so that a graph has to be read and rewritten to be found in it:
an R50 in INT8 takes 3.7 s of CPU time to open so and 760 MB at its peak, where a file that is known by its sum takes
1.6 s and 510 MB.
"""

from __future__ import annotations

import contextlib
import functools
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from l2g.artifacts.records import Audit
from l2g.records import Record
from l2g.runtime.arrays import Array
from l2g.runtime.backends.kept_files import is_whole, keep, kept_file, pending, used

# What follows the facts begins at a multiple of it: weights are read where they lie.
_PAGE = 4096


@dataclass(frozen=True)
class Facts(Record):
    """Of a compiled model. contract: its text. settings: the properties that it was compiled with. precision: what it
    runs in, such as "bf16" or "int8 + fp32". lacking: what the graph holds in its floating point tensors and the device
    cannot compute in, which is why they are float32. audit: None of a device that tells nothing of its layers."""

    contract: str
    settings: dict[str, Any]
    precision: str
    lacking: str | None
    audit: Audit | None


@dataclass(frozen=True)
class Compiled:
    """content: of one that was kept uint8, the file, in which it reads its weights for as long as it is used."""

    model: ov.CompiledModel
    facts: Facts
    content: Array | None = None


class KeptModel:
    """What is kept of the graph at `path`, which is there, compiled for `device`. asked: what else that depends on."""

    def __init__(self, path: Path, device: str, asked: tuple[str, ...]):
        self._device = device
        self._file = kept_file(path, "openvino", ".blob", (ov.__version__, device, *asked, _own_sum()))

    def open(self, core: ov.Core) -> Compiled | None:
        """None where nothing is kept that can be used."""
        if self._file is None or not is_whole(self._file):
            return None
        with contextlib.suppress(Exception):  # of another build under the same version, say
            # OpenVINO takes no array that may not be written to: what it would write stays in memory.
            content = np.memmap(self._file, np.uint8, "c")
            length = int.from_bytes(content[:8].tobytes(), "little")
            facts = Facts.from_json(json.loads(content[8 : 8 + length].tobytes()))
            blob = ov.Tensor(content[_padded(8 + length) :], shared_memory=True)
            compiled = core.import_model(blob, self._device, facts.settings)
            used(self._file)
            return Compiled(compiled, facts, content)
        return None

    def keep(self, compiled: Compiled) -> bool:
        """Whether it could be kept: what was found good."""
        made = None if self._file is None else pending(self._file)
        if made is None:
            return False
        try:
            facts = json.dumps(compiled.facts.to_json()).encode()
            with open(made.temporary, "wb") as file:
                file.write((len(facts).to_bytes(8, "little") + facts).ljust(_padded(8 + len(facts)), b"\0"))
                file.write(compiled.model.export_model().getbuffer())
        except Exception:  # no space, say, or a device that exports nothing
            made.discard()
            return False
        except BaseException:
            made.discard()
            raise
        return keep(made)


def _padded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


@functools.cache
def _own_sum() -> str:
    """Of the code that rewrites a graph before it is compiled."""
    return str(zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))))
