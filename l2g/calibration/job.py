"""From a checkpoint and a data set to an INT8 graph that is worth its AP: the whole run, resumable."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import l2g
from l2g.artifacts.graph_sum import check_graph
from l2g.artifacts.onnx_file import read_contract, read_model, with_contract, with_sum
from l2g.calibration.ledger import Ledger, name_of
from l2g.calibration.observation import Observed, observe
from l2g.calibration.placement import LAYOUTS, find_places, quantise
from l2g.calibration.ranges import AUTO, METHODS, PERCENTILE
from l2g.calibration.recording import STATES, Recording, RecordingOptions, record
from l2g.calibration.report import MethodError, Report
from l2g.calibration.scoring import (
    Verdict,
    average_precision,
    compare_on,
    interleaved_speed,
    judge_of,
    open_candidate,
)
from l2g.calibration.sensitivity import output_error, references
from l2g.calibration.unit_search import UnitSearch, ranked, search_units
from l2g.calibration.units import take_inventory
from l2g.contract import GraphContract
from l2g.data.classes import match_classes
from l2g.data.dataset import ENDLESS, VideoDataset
from l2g.errors import ExportError
from l2g.evaluation.panoptic import metric_of
from l2g.export.precision.emulate import emulate
from l2g.export.verification.verify import open_session
from l2g.files import LOCK, refuse_overwriting, sha256_of_file, write_atomically, write_bytes
from l2g.provenance import BuildFacts, Verification
from l2g.public.hub import weights_of
from l2g.runtime.backends.onnxruntime import OnnxRuntimeBackend

BEST = "best"
SCALES = ("fp32", "fp16", "bf16")
# Two graphs of one recipe differ by nothing; this leaves room for other fusions around the same integers.
SAME_STATE = 1e-3
# Q and DQ take FP16 scales from 19 on; BF16 is around them from 20 on.
SCALES_OPSETS = {"fp32": 17, "fp16": 19, "bf16": 20}


@dataclass(frozen=True)
class QuantizeOptions:
    """What to make, and how much to measure on the way.

    layout: "onnxruntime", "tensorrt" or "openvino". scales: "fp32", or "fp16" or "bf16" for a graph that is so
    around its integers. method:
    one of METHODS for all tensors, "auto" for the best of each, "best" for whichever of these four changes the outputs
    least. ap_budget: percent points of AP that may be lost on the whole data set; None lifts it. search_videos: sets
    are tried on these. probe_frames: recorded frames on which methods and units are compared. max_trials: sets tried;
    0 takes the default set as it is. state: what stands in the state's place in the calibration frames.
    """

    layout: str = "onnxruntime"
    scales: str = "fp32"
    method: str = BEST
    percentile: float = PERCENTILE
    ap_budget: float | None = 0.5
    recording: RecordingOptions = field(default_factory=RecordingOptions)
    search_videos: int = 32
    probe_frames: int = 8
    max_trials: int = 10
    streams: int = 4
    state: str = "rollout"

    def __post_init__(self):
        for name, known in (
            ("layout", tuple(LAYOUTS)),
            ("scales", SCALES),
            ("method", (BEST, AUTO, *METHODS)),
            ("state", STATES),
        ):
            if getattr(self, name) not in known:
                raise ExportError(f"{name} '{getattr(self, name)}' found, one of {', '.join(known)} expected")
        for name, least in (("search_videos", 1), ("probe_frames", 1), ("max_trials", 0), ("streams", 1)):
            if getattr(self, name) < least:
                raise ExportError(f"{name} {getattr(self, name)} found, at least {least} expected")
        if self.ap_budget is not None and not self.ap_budget >= 0:
            raise ExportError(f"AP budget {self.ap_budget} found, a number of percent points from 0 up expected")
        if not 50 < self.percentile <= 100:
            raise ExportError(f"percentile {self.percentile} found, a number above 50 and up to 100 expected")
        if self.scales == "fp16" and self.layout != "tensorrt":
            raise ExportError(
                f"FP16 scales are for TensorRT: {self.layout} on a CPU has no FP16; add --layout tensorrt"
            )
        if self.scales == "bf16" and self.layout != "openvino":
            raise ExportError(
                f"BF16 around the integers is for OpenVINO: {self.layout} takes none; add --layout openvino"
            )


@dataclass(frozen=True)
class Quantised:
    """What a run ended with. path: None where it was refused."""

    path: Path | None
    report: Report


class QuantizeJob:
    """One run. base: the FP32 graph, a file of this package with raw outputs. work: the folder it can be resumed from.
    deployed: the same model exported with other outputs (detections), to be written in its place. others: data sets on
    which the budget is to hold besides `dataset`.

    Raises ExportError for a graph that cannot be quantised and for a folder that belongs to another run, DataError for
    a data set whose classes have other names than the graph's (`match_classes`), L2GError where the library that judges
    is not installed. Warns where this CPU cannot compute in what is to be around the integers: FP32 is measured then.
    """

    def __init__(
        self,
        base: Path,
        dataset: VideoDataset,
        calibration: VideoDataset,
        output: Path,
        work: Path,
        options: QuantizeOptions,
        progress: bool = True,
        deployed: Path | None = None,
        others: tuple[VideoDataset, ...] = (),
    ):
        self.deployed, self.others = deployed, others
        self.base, self.dataset, self.output, self.work, self.options = base, dataset, output, work, options
        self.calibration, self.progress = calibration, progress
        sources = [file for each in (dataset, calibration, *others) for file in each.files]
        stem = output.with_suffix("")
        written: list[str | Path] = [output, f"{stem}.report.json", f"{stem}.report.md"]
        refuse_overwriting(written, [base, deployed, *sources], ExportError)
        self.model = read_model(base)
        self.contract = read_contract(self.model, base)
        _check_base(base, self.model, self.contract, options)
        matches = [match_classes(each, self.contract.class_names) for each in (dataset, *others)]
        self.notes = tuple(dict.fromkeys(match.note for match in matches if match.note))
        self.inventory = take_inventory(self.model)
        self.layout = LAYOUTS[options.layout]
        # What judges: the library that the graph is for, where that runs on a CPU.
        self.library, self.lacking = judge_of(str(base), options.layout, options.scales)
        if self.lacking:
            warnings.warn(
                f"{base}: this CPU has no {self.lacking.upper()} arithmetic: INT8 is measured with FP32 around it, its "
                "loss and its speed; a CPU that has it may lose more, and is faster",
                stacklevel=2,
            )
        work.mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(work / "measurements.json", self._facts())

    def run(self) -> Quantised:
        """Record, observe, compare, search, judge; write the graph, or nothing where it loses too much."""
        recording = self._record()
        observed = self._observe(recording)
        methods, method = self._choose_method(recording, observed)
        sensitivity = self._sensitivity(recording, observed, method)
        found = self._search(observed, method, sensitivity)
        chosen, judged = self._judge(observed, method, found, sensitivity)
        candidate = open_candidate(self._candidate, self.library)
        speed = interleaved_speed({"fp32": self.base, "int8": candidate}, next(iter(recording)))
        accepted = self._within(judged[-1][1])
        report = Report(
            model=self.contract.build.checkpoint or self.base.name,
            dataset=self.dataset.name,
            calibration=self.calibration.name,
            options=self.options,
            samples=len(recording),
            shares=recording.shares(),
            methods=methods,
            method=method,
            tensors_by_method=self._count_methods(observed, method, chosen),
            sensitivity=sensitivity,
            units=self.inventory.units,
            total_flops=self.inventory.flops,
            search=found,
            chosen=chosen,
            share=self.inventory.share(chosen),
            default_share=self.inventory.share(self.inventory.default),
            judged=judged,
            accepted=accepted,
            speed=speed,
            library=self.library,
            lacking=self.lacking,
            notes=self.notes,
            metric=metric_of(self.dataset),
        )
        if not accepted:
            return Quantised(None, report)
        self._write(report, self._final(observed, method, chosen, recording))
        return Quantised(self.output, report)

    @property
    def _candidate(self) -> Path:
        return self.work / "candidate.onnx"

    def _facts(self) -> dict:
        options = dataclasses.asdict(self.options)
        # What may change between two runs of one folder: it only says how long to go on, or what to accept.
        for free in ("max_trials", "ap_budget", "streams"):
            options.pop(free)
        if self.dataset.class_map is not None:
            options["classes"] = dict(self.dataset.class_map)
        if self.lacking:
            options["measured with"] = f"FP32 in place of {self.lacking.upper()}"
        return {
            "graph": sha256_of_file(self.base, ExportError),
            "data set": _identity(self.dataset),
            "calibration data": _identity(self.calibration),
            **options,
        }

    def _record(self) -> Recording:
        backend = OnnxRuntimeBackend(self.base)
        try:
            folder = self.work / "rollouts"
            return record(backend, self.calibration, folder, self.options.recording, self.progress)
        finally:
            backend.close()

    def _observe(self, recording: Recording) -> Observed:
        tensors = find_places(self.model, self.inventory.nodes(self.inventory.names), self.layout).tensors
        cache = self.work / "histograms.npz"
        histograms = observe(self.model, tensors, recording, cache, self.options.state, self.progress)
        return Observed(histograms, self.layout.symmetric, self.options.percentile)

    def _choose_method(self, recording: Recording, observed: Observed) -> tuple[tuple[MethodError, ...], str]:
        if self.options.method != BEST:
            return (), self.options.method
        nodes = self.inventory.nodes(self.inventory.default)
        errors = tuple(
            MethodError(method, self._error(f"method:{method}", recording, observed, nodes, method))
            for method in (AUTO, *METHODS)
        )
        return errors, min(errors, key=lambda item: item.error).method

    def _sensitivity(self, recording: Recording, observed: Observed, method: str) -> dict[str, float]:
        from tqdm import tqdm

        units = tqdm(self.inventory.units, desc="sensitivity", disable=not self.progress)
        return {
            unit.name: self._error(f"unit:{method}:{unit.name}", recording, observed, unit.nodes, method)
            for unit in units
        }

    def _error(self, name: str, recording: Recording, observed: Observed, nodes, method: str) -> float:
        def measure() -> float:
            graph = self._quantised(self.model, observed, method, nodes)
            return output_error(graph.SerializeToString(), self.contract, self._probes(recording))

        return self.ledger.measured(name, measure)

    def _probes(self, recording: Recording):
        if not hasattr(self, "_references"):
            samples = list(recording)
            count = min(self.options.probe_frames, len(samples))
            picked = [samples[i * len(samples) // count] for i in range(count)]
            self._references = references(self.model.SerializeToString(), self.contract, picked)
        return self._references

    def _search(self, observed: Observed, method: str, sensitivity: dict[str, float]) -> UnitSearch:
        if not self.options.max_trials:
            return UnitSearch(self.inventory.default, (), ())
        videos, streams = self.dataset.first(self.options.search_videos), self.options.streams

        def loss(units: frozenset[str]) -> float:
            def measure() -> float:
                self._write_candidate(observed, method, units)
                return average_precision(self._candidate, videos, streams, self.progress, self.library)

            whole = self.ledger.measured(
                "ap:fp32", lambda: average_precision(self.base, videos, streams, self.progress)
            )
            return whole - self.ledger.measured(f"ap:{method}:{name_of(units)}", measure)

        budget = float("inf") if self.options.ap_budget is None else self.options.ap_budget
        return search_units(self.inventory, sensitivity, loss, budget, self.options.max_trials)

    def _judge(
        self, observed: Observed, method: str, found: UnitSearch, sensitivity: dict[str, float]
    ) -> tuple[tuple[str, ...], tuple[tuple[int, tuple[Verdict, ...]], ...]]:
        """The verdict over whole data sets; while one is beyond the budget the most sensitive units are given up.

        Where no set was within the budget on the search videos the default set is judged: those are few.
        """
        start = found.chosen or self.inventory.default
        order = [name for name in ranked(self.inventory, sensitivity) if name in start]
        judged: list[tuple[int, tuple[Verdict, ...]]] = []
        dropped = 0
        while True:
            chosen = order[: len(order) - dropped]
            self._write_candidate(observed, method, chosen)
            verdicts: list[Verdict] = []
            for dataset in (self.dataset, *self.others):
                if self._within(verdicts):  # or it is lost already
                    verdicts.append(self._verdict(method, chosen, dataset))
            judged.append((len(chosen), tuple(verdicts)))
            dropped = 2 * dropped or 1
            if self._within(verdicts) or not self.options.max_trials or dropped >= len(order):
                return tuple(name for name in self.inventory.names if name in chosen), tuple(judged)

    def _within(self, verdicts: Sequence[Verdict]) -> bool:
        budget = self.options.ap_budget
        return budget is None or all(verdict.loss <= budget + 1e-9 for verdict in verdicts)

    def _verdict(self, method: str, units: list[str], dataset: VideoDataset) -> Verdict:
        """Remembered field by field, for a run that is resumed."""
        name = f"verdict:{_identity(dataset)}:{method}:{name_of(units)}"
        values = self.ledger.values
        if f"{name}:frames" not in values:
            streams, library = self.options.streams, self.library
            verdict = compare_on(self.base, self._candidate, dataset, streams, self.progress, library)
            numbers = {f"drift{i}": value for i, value in enumerate(verdict.drift)}
            numbers |= {"ap_reference": verdict.ap_reference, "ap": verdict.ap, "identity": verdict.identity}
            for key, value in (numbers | {"frames": verdict.frames}).items():
                if value is not None:
                    self.ledger.record(f"{name}:{key}", value)
        drift = tuple(values.get(f"{name}:drift{i}") for i in range(4))
        one, other = values[f"{name}:ap_reference"], values[f"{name}:ap"]
        return Verdict(dataset.name, int(values[f"{name}:frames"]), one, other, values.get(f"{name}:identity"), drift)

    def _quantised(self, model: onnx.ModelProto, observed: Observed, method: str, nodes) -> onnx.ModelProto:
        half = self.options.scales == "fp16"  # beside BF16 scales are float32
        return quantise(model, nodes, lambda tensor: observed.interval(tensor, method), self.layout, half)

    def _serialised(self, model: onnx.ModelProto, observed: Observed, method: str, units) -> bytes:
        """The graph as it will be in the file, checked, without a contract."""
        graph = self._quantised(model, observed, method, self.inventory.nodes(units))
        # The FP32 file's contract; another one is put at the end again.
        del graph.metadata_props[:]
        data = graph.SerializeToString(deterministic=True)
        if self.options.scales != "fp32":
            from l2g.export.exporter import reduced_graph

            data = reduced_graph(data, self.options.scales)
        onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
        return data

    def _write_candidate(self, observed: Observed, method: str, units) -> None:
        """The graph as it will be, with the contract, in the working folder."""
        data = self._serialised(self.model, observed, method, units)
        contract = dataclasses.replace(self.contract, build=with_sum(BuildFacts(precision="int8"), data))
        write_bytes(self._candidate, with_contract(data, contract), ExportError)

    def _final(self, observed: Observed, method: str, units, recording: Recording) -> tuple[bytes, GraphContract]:
        """The judged graph, or the one with other outputs made by the same recipe; and the contract it starts from.

        Raises ExportError where that one does not carry the judged graph's state through the recorded frames.
        """
        if self.deployed is None:
            length = read_contract(read_model(self._candidate), self._candidate).build.graph_bytes
            return self._candidate.read_bytes()[:length], self.contract
        model = read_model(self.deployed)
        graph = self._serialised(model, observed, method, units)
        sessions = [
            open_session(_runnable(data, self.options.scales)) for data in (self._candidate.read_bytes(), graph)
        ]
        for sample in itertools.islice(recording, self.options.probe_frames):
            one, other = (session.run(["queries"], sample.inputs)[0] for session in sessions)
            if not np.abs(one - other).max() <= SAME_STATE * np.abs(one).max():
                raise ExportError(
                    f"the graph with detections does not compute what the judged one does (queries differ by "
                    f"{np.abs(one - other).max():.3g} in video {sample.video}, frame {sample.time}); "
                    "write the raw outputs, and report this"
                )
        return graph, read_contract(model, self.deployed)

    def _write(self, report: Report, final: tuple[bytes, GraphContract]) -> None:
        """The graph under its final name, its contract complete."""
        graph, contract = final
        versions = {"l2g": l2g.__version__}
        versions |= {name: importlib.metadata.version(name) for name in ("onnx", "onnxruntime", self.library)}
        was = contract.build
        build = dataclasses.replace(
            was,
            precision="int8",
            versions={**was.versions, **versions},
            int8=report.facts(),
            float32_sha256=sha256_of_file(self.base, ExportError),
            float32_verification=was.verification if isinstance(was.verification, Verification) else None,
            verification=report.verification(),
        )
        build = with_sum(build, graph)
        contract = dataclasses.replace(contract, build=build)
        with write_atomically(self.output, ExportError) as temporary:
            temporary.write_bytes(with_contract(graph, contract))
            if read_contract(read_model(temporary), self.output).to_json() != contract.to_json():
                raise ExportError(f"{self.output}: the contract does not come back as written; is the disk full?")

    def _count_methods(self, observed: Observed, method: str, chosen) -> dict[str, int]:
        counts: dict[str, int] = {}
        for tensor in find_places(self.model, self.inventory.nodes(chosen), self.layout).tensors:
            name = observed.method_of(tensor, method)
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))


def export_base(
    checkpoint: str,
    work: Path,
    options: QuantizeOptions,
    height: int | None = None,
    width: int | None = None,
    top_k: int | None = None,
    **told: Any,
) -> Path:
    """The FP32 graph of a checkpoint in the working folder; one that is there is used if it is of this checkpoint and
    canvas and target, and ExportError says what else it is of. height, width: None is the model's own. L2GError where
    what would judge the quantised graph is not installed.

    top_k: detections in place of raw outputs, in a file of its own. told: what a public checkpoint does not tell, as
    `load_checkpoint` takes it.
    """
    from l2g.checkpoint import find_checkpoint, load_checkpoint
    from l2g.export.exporter import ExportOptions, export

    judge_of(checkpoint, options.layout, options.scales)  # a library that is missing at the end is missing now
    source = find_checkpoint(checkpoint)
    path = work / ("fp32.onnx" if top_k is None else f"fp32_detections_{top_k}.onnx")
    target = "tensorrt" if options.layout == "tensorrt" else "onnxruntime"
    if path.is_file():
        contract = read_contract(read_model(path), path)
        mend = "give another --work folder, or delete that one"
        if contract.build.checkpoint_sha256 != sha256_of_file(weights_of(source), ExportError):
            raise ExportError(f"'{work}' holds a run of another checkpoint ({contract.build.checkpoint}); {mend}")
        there = contract.height, contract.width
        own = contract.model.get("input_size", there)
        asked = tuple(side if given is None else given for given, side in zip((height, width), own, strict=True))
        found, expected = ("{}x{}".format(*canvas) for canvas in (there, asked))
        said = ((name, contract.model.get(name), value) for name, value in told.items() if value is not None)
        for name, one, other in (("canvas", found, expected), ("target", contract.build.target, target), *said):
            if one != other:
                raise ExportError(f"'{work}' holds a run with {name} {one}, this one has {other}; {mend}")
        return path
    model = load_checkpoint(source, **told)
    work.mkdir(parents=True, exist_ok=True)
    choices = ExportOptions(
        height=height,
        width=width,
        top_k=top_k,
        target=target,
        opset=SCALES_OPSETS[options.scales],
    )
    export(model, path, choices, source)
    return path


def _identity(dataset: VideoDataset) -> str:
    """What tells a data set from another of that name: its videos' number and its annotation files with their sums, of
    which another split has others; the names and lengths of its videos where it has no such files."""
    told = [f"{file.name} {sha256_of_file(file, ExportError)[:16]}" for file in dataset.files]
    if not told and len(dataset.videos) < ENDLESS:
        told = [name_of(f"{video.name} {video.length}" for video in dataset.videos)]
    return ", ".join((dataset.name, f"{len(dataset.videos)} videos", *told))


def _runnable(graph: bytes, scales: str) -> bytes:
    """What ONNX Runtime's CPU can run: in place of BF16, which it has not, float32 rounded to it."""
    if scales != "bf16":
        return graph
    return ir.to_proto(emulate(ir.from_proto(onnx.load_from_string(graph)))).SerializeToString()


def clear(work: Path) -> None:
    """Forget an earlier run."""
    for entry in work.iterdir() if work.is_dir() else ():
        if entry.name == LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_base(path: Path, model: onnx.ModelProto, contract: GraphContract, options: QuantizeOptions) -> None:
    check_graph(path, contract, f"l2g export --ckpt CKPT --output {path}")
    precision = contract.build.precision or "fp32"
    if precision != "fp32":
        raise ExportError(f"{path}: a graph in {precision} found, FP32 expected; quantise the FP32 export")
    if contract.output_kind != "raw":
        raise ExportError(f"{path}: chosen detections found, but AP needs all; export with --outputs raw")
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    needed = SCALES_OPSETS[options.scales]
    if opset < needed:
        raise ExportError(
            f"{path}: opset {opset} found, {needed} expected for {options.scales.upper()} scales; "
            f"export with --opset {needed}"
        )
