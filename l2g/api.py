"""What the commands do, as functions: paths or open objects in, typed results out.

Whatever is given open (a model, a source, a data set) stays open; what a function opens itself it closes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2g.errors import L2GError
from l2g.runtime.backends.base import Backend
from l2g.runtime.backends.open import ARTIFACT_SUFFIXES, open_backend

if TYPE_CHECKING:
    from l2g.calibration.job import Quantised
    from l2g.data.dataset import VideoDataset
    from l2g.engines.build import EngineBuild
    from l2g.evaluation.parity.report import ParityReport, Tolerances
    from l2g.evaluation.run import Evaluation
    from l2g.export.exporter import Exported
    from l2g.modeling.local2global import Local2Global
    from l2g.runtime.panoptic.options import PanopticOptions
    from l2g.runtime.video.cuts import Cuts
    from l2g.runtime.video.job import JobSummary
    from l2g.runtime.video.overlay import OverlayStyle
    from l2g.runtime.video.source import VideoSource

PathLike = str | os.PathLike[str]


def process_video(
    model: PathLike | Backend,
    source: PathLike | VideoSource,
    folder: PathLike,
    *,
    score_threshold: float = 0.5,
    top_k: int = 50,
    max_age: int = 30,
    start: float = 0.0,
    end: float | None = None,
    stride: int = 1,
    overlay: bool = True,
    style: OverlayStyle | None = None,
    canvas: tuple[int, int] | None = None,
    num_queries: int | None = None,
    num_heads: int | None = None,
    box_init: str | None = None,
    class_names: tuple[str, ...] | None = None,
    on_frame: Callable[[], None] | None = None,
    cuts: Cuts = "auto",
    task: str | None = None,
    panoptic: PanopticOptions | None = None,
    resume: bool = False,
) -> JobSummary:
    """Segment and track a whole video; the results go into `folder`, which is made if it is missing.

    Written are `frames.jsonl` (a line a frame), `results.json` (the YouTube-VIS results format) and with `overlay`
    `overlay.mp4`. Decoding, the model and writing overlap, and memory does not grow with the video.

    Args:
        model: a checkpoint, a graph, an engine, the name of a shipped model, or an open backend.
        source: a video file, a URL that FFmpeg reads, a folder of pictures, or what `open_source` gave.
        score_threshold, top_k, max_age: which instances are shown and how long a hidden one keeps its id; as in
            `Tracker`.
        start, end: seconds of the part that is used, `end` excluded. stride: use every n-th frame. Both of a path.
        style: what the overlay shows; None is its default.
        canvas: (height, width) of the network input; None is the model's, that of a checkpoint upright for a source
            that is. num_queries, num_heads, box_init, class_names: what a public checkpoint does not tell; see
            `load_checkpoint`.
        on_frame: called after each frame, for a progress bar.
        cuts: where a new scene begins, with new ids: "auto", "off", or times in seconds.
        task: "instances"; "panoptic" or "semantic", which write `panoptic.jsonl`, `pred.json` and maps instead; None is
            the model's own. panoptic: how slots become segments.
        resume: go on where a run into this folder that was killed, interrupted or failed has stopped; the files are
            then those of a run that was not disturbed.

    Raises VideoError for a source that gives no frame and a folder that cannot be written, L2GError for a model that
    cannot be opened. What a damaged source lacks is the summary's `damage`.
    """
    from l2g.runtime.identity.tracks import TrackParameters
    from l2g.runtime.video.job import process_video as process
    from l2g.runtime.video.lane import OutputOptions
    from l2g.runtime.video.overlay import DEFAULT_STYLE
    from l2g.runtime.video.source import Selection, VideoSource, open_source

    parameters = TrackParameters(birth_score=score_threshold, max_age=max_age)
    selection = Selection(start, end, stride)
    with ExitStack() as stack:
        if not isinstance(source, VideoSource):
            source = stack.enter_context(open_source(os.fspath(source), selection))
        elif selection != Selection():
            raise L2GError(
                "start, end or stride given with an open source, which has its own; give them to open_source"
            )
        facts: dict[str, Any] = {"num_queries": num_queries, "num_heads": num_heads, "box_init": box_init}
        facts |= {"canvas": canvas, "class_names": class_names}
        backend = _model(model, stack, portrait=source.is_open and source.is_portrait, **facts)
        return process(
            backend,
            source,
            os.fspath(folder),
            parameters=parameters,
            top_k=top_k,
            overlay=overlay,
            style=style or DEFAULT_STYLE,
            on_frame=on_frame,
            cuts=cuts,
            task=task,
            panoptic=panoptic,
            output=OutputOptions(resume=resume),
        )


def export_onnx(
    model: PathLike | Local2Global,
    output: PathLike,
    *,
    num_queries: int | None = None,
    num_heads: int | None = None,
    box_init: str | None = None,
    **options: Any,
) -> Exported:
    """Write one ONNX file that serves the first frame and every later one, with its contract inside.

    The graph takes uint8 frames [B, H, W, 3] and the state of B streams, H and W fixed here. The file gets its name
    only after ONNX Runtime has given the model's numbers with it.

    Args:
        model: a checkpoint, the name of a shipped model, or a model in evaluation mode on the CPU, in float32.
        output: the .onnx file to write.
        num_queries, num_heads, box_init: what the shapes in a public checkpoint do not tell; see `load_checkpoint`.
        options: fields of `l2g.export.exporter.ExportOptions`: height, width, top_k (detections in place of raw
            outputs), target ("onnxruntime", "tensorrt"), precision ("fp32", "fp16"), ...

    Raises ExportError, with nothing written, for options that do not fit and a graph that is not the model;
    CheckpointError for a checkpoint that cannot be loaded.
    """
    with _extra("export"):
        from l2g.artifacts.onnx_file import expect_onnx_name
        from l2g.checkpoint import find_checkpoint, load_checkpoint
        from l2g.export.exporter import ExportOptions, export

    expect_onnx_name(output)
    facts: dict[str, Any] = {"num_queries": num_queries, "num_heads": num_heads, "box_init": box_init}
    choices = ExportOptions(**_known(ExportOptions, options))
    if not isinstance(model, (str, os.PathLike)):
        _refuse(facts, "a loaded model")
        return export(model, output, choices)
    path = find_checkpoint(model)
    return export(load_checkpoint(path, **facts), output, choices, path)


def build_engine(
    onnx: PathLike,
    output: PathLike,
    *,
    library: str = "tensorrt",
    precision: str | None = None,
    min_share: float = 0.95,
    cached: bool = True,
    verified: bool = True,
    log_file: PathLike | None = None,
    progress: bool = False,
    **options: Any,
) -> EngineBuild:
    """Build an engine of an exported graph, with the sidecar `output`.json that says what it is.

    The graph is judged before, the engine's layers after: one that does not compute in its precision is not written.

    Args:
        onnx: a graph that `export_onnx` wrote. output: the engine to write.
        library: "tensorrt", for the GPU of this machine, or "tensorrt-rtx", which builds without one.
        precision: "fp32", "bf16", "fp16" or "int8", to be found in the engine; None is the graph's.
        min_share: of the matrix and convolution FLOPs, to be in that precision, 0..1.
        cached: use an engine that was built before of the same graph, library, GPU and options.
        verified: run the engine beside its graph where there is a GPU; one that does not agree is removed again.
        log_file: where the library's whole log goes.
        options: fields of `l2g.engines.builder.BuildOptions`: max_streams, workspace (bytes), tf32, ...

    Raises EngineError, with nothing written, for a graph or an engine that is refused and a library that fails.
    """
    with _extra("export"):
        from l2g.engines.build import build_engine as build
        from l2g.engines.builder import BuildOptions
        from l2g.engines.cache import engines_root
        from l2g.engines.verification import verify_engine

    return build(
        onnx,
        output,
        BuildOptions(library, **_known(BuildOptions, options)),
        precision=precision,
        min_share=min_share,
        cache=engines_root() if cached else None,
        log_file=None if log_file is None else Path(log_file),
        verify=verify_engine if verified else None,
        progress=progress,
    )


def quantize(
    checkpoint: PathLike,
    dataset: PathLike | VideoDataset,
    output: PathLike,
    *,
    split: str = "valid",
    calibrate_on: PathLike | VideoDataset | None = None,
    also_on: Sequence[PathLike | VideoDataset] = (),
    videos: int | None = None,
    height: int | None = None,
    width: int | None = None,
    top_k: int | None = None,
    num_queries: int | None = None,
    num_heads: int | None = None,
    box_init: str | None = None,
    work: PathLike | None = None,
    fresh: bool = False,
    classes: PathLike | Mapping[str, str] | None = None,
    progress: bool = False,
    **options: Any,
) -> Quantised:
    """Write an INT8 graph, calibrated on rollouts of the model's own state and held to an AP budget.

    Interrupted, the same call goes on where it was. What was measured is written beside the file as `.report.json` and
    `.report.md`, also where more AP is lost than allowed: then the result's `path` is None and no graph is written.

    Args:
        checkpoint: a checkpoint, the name of a shipped model, or an FP32 graph with raw outputs.
        dataset: AP is measured here; a folder, "FORMAT:DIR", "synthetic:val", or an open data set.
        output: the .onnx file to write, in a folder that exists.
        split: of a data set in a folder. calibrate_on: rollouts are recorded there; None is `dataset`. also_on: the
            budget is to hold on these too. videos: the verdict is on the first so many of each; None is all.
        height, width: the canvas of a checkpoint's graph. top_k: detections in place of raw outputs, for a runtime.
        num_queries, num_heads, box_init: what a public checkpoint does not tell; see `load_checkpoint`.
        work: the folder to go on from; None is `output`.work. fresh: forget what it holds. classes: as in `evaluate`.
        options: fields of `l2g.calibration.job.QuantizeOptions`: layout, ap_budget, method, max_trials, ...

    Raises ExportError for a graph that cannot be quantised, DataError for a data set that cannot be read.
    """
    with _extra("int8"):
        from l2g.calibration.job import QuantizeJob, QuantizeOptions, clear, export_base
        from l2g.files import write_json, write_text

    output, source = Path(output), os.fspath(checkpoint)
    choices = QuantizeOptions(**_known(QuantizeOptions, options))
    if output.suffix.lower() != ".onnx" or not output.parent.is_dir():
        raise L2GError(f"{output}: expected the path of an .onnx file in a folder that exists")
    graph = source.lower().endswith(".onnx")
    if graph and (height, width, top_k) != (None, None, None):
        raise L2GError(f"{source}: an .onnx has its outputs and its canvas; give the checkpoint to change them")
    told: dict[str, Any] = {"num_queries": num_queries, "num_heads": num_heads, "box_init": box_init}
    if graph:
        _refuse(told, "an exported graph")
    judged, *others = (_dataset(each, split, videos=videos, classes=classes) for each in (dataset, *also_on))
    calibration = judged if calibrate_on is None else _dataset(calibrate_on, split, endless=True)
    folder = output.with_name(f"{output.name}.work") if work is None else Path(work)
    if fresh:
        clear(folder)
    base = Path(source) if graph else export_base(source, folder, choices, height, width, **told)
    deployed = None if top_k is None else export_base(source, folder, choices, height, width, top_k, **told)
    job = QuantizeJob(base, judged, calibration, output, folder, choices, progress, deployed, tuple(others))
    quantised = job.run()
    stem = output.with_suffix("")
    write_json(f"{stem}.report.json", quantised.report.to_json())
    write_text(f"{stem}.report.md", quantised.report.table())
    return quantised


def evaluate(
    model: PathLike | Backend,
    dataset: PathLike | VideoDataset,
    *,
    split: str = "valid",
    seed: int = 0,
    videos: int | None = None,
    streams: int = 4,
    top_k: int = 100,
    handover: bool = True,
    classes: PathLike | Mapping[str, str] | None = None,
    skip_broken: bool = False,
    progress: bool = False,
) -> Evaluation:
    """AP and identity switches of a model on a data set, and its results in the YouTube-VIS format.

    Args:
        model: a checkpoint, a graph or an engine with raw outputs, the name of a shipped model, or an open backend.
        dataset: a folder, "FORMAT:DIR", "synthetic:val", or an open data set. split: of a folder. seed: of a synthetic
            one. videos: only the first so many; None is all.
        streams: videos that share a step. top_k: results per video. handover: identities may move from slot to slot;
            False takes the model's slots as they are, as the paper does.
        classes: where the two name classes differently, {class of the data set: class of the model}, a file of that, or
            the name of a shipped map such as "coco-ovis"; what is in it is scored.
        skip_broken: leave out what is broken, and videos with a frame that cannot be read; `left_out` names them.

    Raises DataError for a data set of other classes than the model's or without an end, L2GError for a model that
    cannot be opened.
    """
    from l2g.evaluation.run import ScoringOptions, evaluate_backend

    data = _dataset(dataset, split, seed=seed, videos=videos, classes=classes, skip_broken=skip_broken)
    with ExitStack() as stack:
        return evaluate_backend(
            _model(model, stack),
            data,
            streams=streams,
            options=ScoringOptions(top_k=top_k, handover=handover),
            progress=progress,
            skip_broken=skip_broken,
        )


def run_parity(
    reference: PathLike | Backend,
    candidate: PathLike | Backend,
    dataset: PathLike | VideoDataset,
    *,
    forced: Backend | None = None,
    split: str = "valid",
    seed: int = 0,
    videos: int | None = None,
    streams: int = 4,
    confidence: float = 0.5,
    ap: bool = True,
    tolerances: Tolerances | None = None,
    classes: PathLike | Mapping[str, str] | None = None,
    progress: bool = False,
) -> ParityReport:
    """Is `candidate` the model that `reference` is? Both over whole videos, with the state fed back.

    The report's `passed` is the verdict, `table()` the measured numbers with their limits.

    Args:
        reference, candidate: each a checkpoint, a graph or an engine with raw outputs, the name of a shipped model, or
            an open backend. A path of a checkpoint is opened on the canvas of the other side.
        forced: where `candidate` is an open backend, a second instance of it; it is given the reference's state.
        dataset, split, seed, videos, streams, classes: as in `evaluate`.
        confidence: slots whose best class reaches it count as objects, 0..1. ap: score both sides.
        tolerances: what may differ; None is what the candidate's precision allows.

    Raises ContractError where the two cannot be compared, DataError where AP is asked for on other classes.
    """
    from l2g.evaluation.parity.run import ParityOptions
    from l2g.evaluation.parity.run import run_parity as run

    if isinstance(candidate, (str, os.PathLike)):
        if forced is not None:
            raise L2GError("forced given with the path of a candidate, which is opened twice; leave it away")
        forced_model: PathLike | Backend = candidate
    elif forced is None or forced is candidate:
        raise L2GError("an open candidate needs a second instance of itself as `forced`; or give its path")
    else:
        forced_model = forced
    data = _dataset(dataset, split, seed=seed, videos=videos, classes=classes)
    with ExitStack() as stack:
        reference_model, free, teacher_forced = _on_one_canvas([reference, candidate, forced_model], stack)
        return run(
            reference_model,
            free,
            teacher_forced,
            data,
            options=ParityOptions(streams=streams, confidence=confidence, ap=ap),
            tolerances=tolerances,
            names=(_shown(reference), _shown(candidate)),
            progress=progress,
        )


def _model(model: PathLike | Backend, stack: ExitStack, **how: Any) -> Backend:
    """An open backend with raw outputs; one that is opened here is closed by `stack`."""
    if isinstance(model, (str, os.PathLike)):
        return stack.enter_context(closing(open_backend(os.fspath(model), top_k=None, **how)))
    _refuse({name: value for name, value in how.items() if name != "portrait"}, "an open backend")
    return model


def _on_one_canvas(models: Sequence[PathLike | Backend], stack: ExitStack) -> list[Backend]:
    """All of them open. What has its canvas comes first, since a checkpoint takes any."""

    def free(model: PathLike | Backend) -> bool:
        return isinstance(model, (str, os.PathLike)) and Path(model).suffix.lower() not in ARTIFACT_SUFFIXES

    opened: dict[int, Backend] = {}
    canvas = None
    for index in sorted(range(len(models)), key=lambda index: free(models[index])):
        how = {"canvas": canvas} if isinstance(models[index], (str, os.PathLike)) else {}
        backend = opened[index] = _model(models[index], stack, **how)
        canvas = (backend.contract.height, backend.contract.width)
    return [opened[index] for index in range(len(models))]


def _dataset(
    dataset: PathLike | VideoDataset,
    split: str,
    *,
    seed: int = 0,
    videos: int | None = None,
    classes: PathLike | Mapping[str, str] | None = None,
    skip_broken: bool = False,
    endless: bool = False,
) -> VideoDataset:
    """L2GError for a data set without an end of which all videos are meant, unless it may be `endless`."""
    from l2g.data.classes import read_mapping
    from l2g.data.registry import load_dataset

    if isinstance(dataset, (str, os.PathLike)):
        dataset = load_dataset(os.fspath(dataset), split, seed=seed, skip_broken=skip_broken)
    if classes is not None:
        mapping = classes if isinstance(classes, Mapping) else read_mapping(os.fspath(classes))
        dataset = replace(dataset, class_map=mapping)
    if videos is None and not endless:
        dataset.expect_end()
    return dataset.first(videos)


def _shown(model: PathLike | Backend) -> str:
    return os.fspath(model) if isinstance(model, (str, os.PathLike)) else type(model).__name__


def _refuse(facts: dict[str, Any], what: str) -> None:
    given = [name for name, value in facts.items() if value is not None]
    if given:
        raise L2GError(f"{', '.join(given)} given with {what}, which has its own; leave it away")


def _known(options: type, given: dict[str, Any]) -> dict[str, Any]:
    names = [item.name for item in fields(options)]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise L2GError(f"option '{unknown[0]}' found, one of {', '.join(names)} expected")
    return given


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """A library that is not installed is one clear error: which, and the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise L2GError(f"'{error.name}' is not installed; pip install 'l2g[{name}]'") from None
