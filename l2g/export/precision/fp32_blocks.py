"""Which blocks FP16 or BF16 hurts, found by measuring: AP and drift over videos decide, bisection finds the guilty.

The search starts from everything in 16 bits but the islands. Where that does not hold the budget, halves of the model
are put into 16 bits alone, and the halves that fail are split until single blocks are left. Blocks that hold alone may
still fail together; then the costliest of the rest follow, as few as it takes. Every trial goes into a log, from which
an interrupted search goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import onnx_ir as ir
from tqdm import tqdm

from l2g.artifacts.onnx_file import with_contract
from l2g.contract import GraphContract
from l2g.data.dataset import VideoDataset
from l2g.errors import ExportError
from l2g.evaluation.panoptic import metric_of
from l2g.evaluation.precision import Measured, measure
from l2g.export.precision.convert import HALF, Reduced, all_blocks, reduce_precision
from l2g.export.precision.emulate import emulate
from l2g.files import write_text
from l2g.provenance import BuildFacts
from l2g.records import as_type
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend


@dataclass(frozen=True)
class Budget:
    """What FP16 may cost. ap: percent points. identity: the least percentage, mask_iou: the least mean IoU, that every
    quarter of the videos must keep of the float32 graph's objects: the drift curve's floor."""

    ap: float = 0.2
    identity: float = 95.0
    mask_iou: float = 0.9

    def holds(self, reference: Measured, found: Measured) -> bool:
        if not found.finite or (found.ap is None) != (reference.ap is None):
            return False
        lost = 0.0 if found.ap is None or reference.ap is None else reference.ap - found.ap
        steady = all(value is None or value >= self.identity for value in found.identity)
        return lost <= self.ap + 1e-9 and steady and all(v is None or v >= self.mask_iou for v in found.mask_iou)


@dataclass(frozen=True)
class BlockTrial:
    """One measured graph. fp16: the blocks that were in FP16."""

    fp16: tuple[str, ...]
    holds: bool
    loss: float | None
    measured: Measured


@dataclass(frozen=True)
class BlockSearch:
    """What a search found.

    kept: the blocks that stay float32, as `reduce_precision` takes them ("layer:encoder"). alone: blocks measured
    alone in 16 bits. metric: "AP", or "VPQ" of a data set of things and stuff.
    """

    kept: tuple[str, ...]
    blocks: tuple[str, ...]
    reference: Measured
    trials: tuple[BlockTrial, ...]
    metric: str = "AP"

    @property
    def alone(self) -> dict[str, BlockTrial]:
        return {trial.fp16[0]: trial for trial in self.trials if len(trial.fp16) == 1}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """One line a trial: what was in FP16, what it cost."""
        lines = [f"{'FP16':<44}{f'{self.metric} loss':>9}{'same objects':>14}{'mask IoU':>10}"]
        for trial in self.trials:
            lines.append(f"{_title(trial.fp16, self.blocks):<44}{_row(trial)}")
        kept = ", ".join(self.kept) or "none"
        return "\n".join([*lines, f"blocks that stay float32: {kept}"])


def find_kept(
    blocks: Sequence[str], holds: Callable[[frozenset[str]], bool], costs: Callable[[Iterable[str]], dict[str, float]]
) -> tuple[str, ...]:
    """The blocks to keep in float32. holds: whether the budget holds with these blocks in FP16. costs: what blocks cost
    one by one, asked for only where those that hold alone fail together."""
    everything = frozenset(blocks)
    if holds(everything):
        return ()
    guilty = _guilty(list(blocks), holds)
    if not holds(everything - set(guilty)):
        rest = [block for block in blocks if block not in guilty]
        cost = costs(rest)
        rest.sort(key=lambda block: -cost[block])
        # The fewest of the costliest: more in float32 is taken to cost less.
        low, high = 1, len(rest)
        while low < high:
            middle = (low + high) // 2
            if holds(everything - set(guilty) - set(rest[:middle])):
                high = middle
            else:
                low = middle + 1
        guilty += rest[:high]
    return tuple(block for block in blocks if block in guilty)


def _guilty(blocks: list[str], holds: Callable[[frozenset[str]], bool]) -> list[str]:
    """The single blocks among these that fail alone."""
    if holds(frozenset(blocks)):
        return []
    if len(blocks) == 1:
        return blocks
    middle = len(blocks) // 2
    return _guilty(blocks[:middle], holds) + _guilty(blocks[middle:], holds)


def search_fp32_blocks(
    graph: bytes,
    contract: GraphContract,
    dataset: VideoDataset,
    *,
    target: Reduced = HALF,
    budget: Budget | None = None,
    granularity: str = "layer",
    streams: int = 4,
    confidence: float = 0.5,
    log: str | Path | None = None,
    progress: bool = True,
) -> BlockSearch:
    """Search for the blocks of a serialised float32 graph, without plugins, that have to stay float32.

    dataset: what AP and drift are measured on. log: a JSON Lines file of all trials; one of the same search is gone on
    with. Raises ExportError for the log of another search.
    """
    budget = budget or Budget()
    blocks = tuple(all_blocks(ir.from_proto(onnx.load_from_string(graph)), granularity))
    header = {
        "graph": hashlib.sha256(graph).hexdigest(),
        "dataset": dataset.name,
        **({} if dataset.class_map is None else {"classes": dict(dataset.class_map)}),
        "videos": [video.name for video in dataset.videos],
        "streams": streams,
        "confidence": confidence,
        "granularity": granularity,
        # What logs of FP16 have always been without.
        **({} if target is HALF else {"precision": target.name}),
    }
    how = target, granularity, streams, confidence
    trials = _Trials(graph, contract, dataset, budget, blocks, _Log(log, header), how, progress)
    try:
        kept = find_kept(blocks, trials.holds, trials.costs)
    finally:
        trials.close()
    kept = tuple(f"{granularity}:{block}" for block in kept)
    return BlockSearch(kept, blocks, trials.reference, tuple(trials.done.values()), metric_of(dataset))


class _Trials:
    """Measures graphs, each once."""

    def __init__(self, graph, contract, dataset, budget, blocks, log, how, progress):
        self.graph, self.contract, self.dataset, self.budget = graph, contract, dataset, budget
        self.blocks, self.log = blocks, log
        self.target, self.granularity, self.streams, self.confidence = how
        self.done: dict[frozenset[str], BlockTrial] = {}
        self._reference: Measured | None = None
        self.folder = TemporaryDirectory(prefix="l2g-precision-")
        self.float32: OnnxRuntimeBackend | None = None
        self.bar = tqdm(desc="trials", unit="", disable=None if progress else True, position=0)

    def close(self) -> None:
        self.bar.close()
        if self.float32 is not None:
            self.float32.close()
        self.folder.cleanup()

    @property
    def reference(self) -> Measured:
        """The float32 graph, once anything has been tried."""
        assert self._reference is not None
        return self._reference

    def holds(self, fp16: frozenset[str]) -> bool:
        return self.trial(fp16).holds

    def costs(self, blocks: Iterable[str]) -> dict[str, float]:
        """The mean IoU that each block loses alone, which tells finer than AP."""
        return {block: _lost_iou(self.trial(frozenset([block])).measured) for block in blocks}

    def trial(self, fp16: frozenset[str]) -> BlockTrial:
        if fp16 in self.done:
            return self.done[fp16]
        names = tuple(block for block in self.blocks if block in fp16)
        recorded = self.log.find(names)
        if recorded is None:
            recorded = self._measure(fp16)
            self.log.add(names, *recorded)
        reference, measured = recorded
        self._reference = reference
        loss = None if measured.ap is None or reference.ap is None else reference.ap - measured.ap
        trial = BlockTrial(names, self.budget.holds(reference, measured), loss, measured)
        self.done[fp16] = trial
        self.bar.update()
        self.bar.write(
            f"{_title(names, self.blocks):<44}{_row(trial)}", file=self.bar.fp
        ) if not self.bar.disable else None
        return trial

    def _measure(self, fp16: frozenset[str]) -> tuple[Measured, Measured]:
        if self.float32 is None:
            self.float32 = self._open("float32", self.graph)
        model = ir.from_proto(onnx.load_from_string(self.graph))
        keep = [f"{self.granularity}:{block}" for block in self.blocks if block not in fp16]
        reduce_precision(model, self.target, keep)
        candidate = self._open("fp16", ir.to_proto(emulate(model)).SerializeToString())
        try:
            reference, found = measure(
                self.float32,
                {"fp16": candidate},
                self.dataset,
                streams=self.streams,
                confidence=self.confidence,
                progress=not self.bar.disable,
            )
        finally:
            candidate.close()
        return reference, found["fp16"]

    def _open(self, name: str, graph: bytes) -> OnnxRuntimeBackend:
        path = Path(self.folder.name) / f"{name}.onnx"
        path.write_bytes(with_contract(graph, replace(self.contract, build=BuildFacts())))
        return OnnxRuntimeBackend(path)


class _Log:
    """A JSON Lines file: what is searched, then a line for every trial. Without a path it only remembers."""

    def __init__(self, path: str | Path | None, header: dict[str, Any]):
        self.path = None if path is None else Path(path)
        self.entries: dict[tuple[str, ...], tuple[Measured, Measured]] = {}
        if self.path is not None and self.path.is_file() and self.path.stat().st_size:
            self._read(self.path, header)
        else:
            self._write(header)

    def find(self, fp16: tuple[str, ...]) -> tuple[Measured, Measured] | None:
        return self.entries.get(fp16)

    def add(self, fp16: tuple[str, ...], reference: Measured, measured: Measured) -> None:
        self.entries[fp16] = reference, measured
        self._write({"half": fp16, "reference": reference.to_json(), "measured": measured.to_json()})

    def _read(self, path: Path, header: dict[str, Any]) -> None:
        """A line that nobody finished, or that was damaged, ends it: what stands behind is tried again."""
        try:
            text = path.read_text(encoding="utf-8")
            first, *lines = text.splitlines()
            found = json.loads(first)
            differing = [key for key in dict.fromkeys((*header, *found)) if found.get(key) != header.get(key)]
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            differing = ["contents"]
        if differing:
            raise ExportError(
                f"{path}: the log of another search (another {differing[0]}); delete it or give another --log"
            )
        whole = [first]
        for line in lines:
            try:
                entry = json.loads(line)
                reference, measured = (Measured.from_json(entry[name]) for name in ("reference", "measured"))
                self.entries[as_type(tuple[str, ...], entry["half"], "half")] = reference, measured
            except (ValueError, TypeError, KeyError, RecursionError):
                break
            whole.append(line)
        if len(whole) <= len(lines) or not text.endswith("\n"):
            write_text(path, "\n".join([*whole, ""]), ExportError)

    def _write(self, entry: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise ExportError(f"{self.path}: cannot be written ({error.strerror}); give another --log") from None


def _lost_iou(measured: Measured) -> float:
    values = [value for value in measured.mask_iou if value is not None]
    return 1.0 if not measured.finite or not values else 1 - min(values)


def _title(fp16: tuple[str, ...], blocks: tuple[str, ...]) -> str:
    if fp16 == blocks:
        return "everything but the islands"
    if len(fp16) > len(blocks) / 2 and len(fp16) > 2:
        absent = [block for block in blocks if block not in fp16]
        text = f"all but {', '.join(absent)}"
    else:
        text = fp16[0] if len(fp16) == 1 else f"{fp16[0]} .. {fp16[-1]} ({len(fp16)})" if fp16 else "nothing"
    return text if len(text) <= 42 else f"{text[:38]} ..."


def _row(trial: BlockTrial) -> str:
    def least(values: tuple[float | None, ...], how: str) -> str:
        known = [value for value in values if value is not None]
        return format(min(known), how) if known else "n/a"

    loss = "n/a" if trial.loss is None else f"{trial.loss:+.2f}"
    verdict = "holds" if trial.holds else "FAILS" if trial.measured.finite else "FAILS: NaN or infinity"
    m = trial.measured
    return f"{loss:>9}{least(m.identity, '.1f'):>12} %{least(m.mask_iou, '.4f'):>10}  {verdict}"
