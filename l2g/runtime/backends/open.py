"""Opening a model for the runtime: the file's suffix, or a shipped name, says which inference library drives it."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from l2g.artifacts import ENGINE_SUFFIX, GRAPH_LIBRARIES
from l2g.errors import CheckpointError, L2GError
from l2g.runtime.backends.base import Backend

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl")
GRAPH_SUFFIX = ".onnx"
# What brings them.
_MODULES = {"onnxruntime": "l2g.runtime.backends.onnxruntime", "openvino": "l2g.runtime.backends.openvino.backend"}
_INSTALL = {"onnxruntime": "'l2g[cpu]' (or 'l2g[gpu]' for CUDA)", "openvino": "'l2g[openvino]'"}
# What has its canvas and its outputs inside, and opens without PyTorch.
ARTIFACT_SUFFIXES = (GRAPH_SUFFIX, ENGINE_SUFFIX)


def open_backend(
    model: str | Path,
    *,
    top_k: int | None = 50,
    canvas: tuple[int, int] | None = None,
    portrait: bool = False,
    library: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    fp32_blocks: Sequence[str] = (),
    threads: int | None = None,
    **checkpoint_options: Any,
) -> Backend:
    """Open a checkpoint, an exported graph (.onnx) or an engine (.engine) by path, or a shipped checkpoint by name
    ("l2g_tiny"). A checkpoint or a graph runs on the GPU where its library sees one (CUDA_VISIBLE_DEVICES= hides it),
    else on the CPU; an engine on a GPU.

    top_k: the backend chooses that many slots of each frame (output kind "detections"); None gives raw outputs.
    canvas: (height, width) of the network input that the model can take; None is the model's own, turned upright for
    `portrait` sources. checkpoint_options: what the public formats do not tell (num_queries, class_names, ...), see
    `load_checkpoint`, whose defaults hold where an option is None. Raises L2GError for a file that no backend opens,
    a library that is not installed, and whatever is wrong with the file.

    library: what runs a graph, "onnxruntime" (the default) or "openvino". device: "cpu" or "cuda" of ONNX Runtime;
    "CPU", "GPU", "NPU" or "AUTO" of OpenVINO. precision: what OpenVINO computes the floating point tensors in, "fp32",
    "bf16" or "fp16", where not in the types that the graph gives them. threads: of a CPU; None is the library's choice.

    compile: run a checkpoint as the compiled backend does, in `precision` ("fp32" unless given) but for the islands and
    `fp32_blocks`, on `device` ("cpu", "cuda" or "cuda:1").

    A graph's canvas and outputs were fixed when it was exported: `top_k` and `portrait` change nothing, and another
    canvas or a checkpoint option is refused.
    """
    suffix = Path(model).suffix.lower()
    given = {name: value for name, value in checkpoint_options.items() if value is not None}
    running = {"library": library, "device": device, "precision": precision}
    if fp32_blocks and not compile:
        raise L2GError(f"{model}: fp32 blocks given, which only a compiled checkpoint takes; add --compile")
    if suffix in ARTIFACT_SUFFIXES:
        if compile:
            raise L2GError(f"{model}: --compile given, which only a checkpoint takes; leave it away")
        return _open_artifact(str(model), suffix, canvas, given, running, threads)
    from l2g.public.hub import is_hub_checkpoint  # here: a graph on a device needs none of it

    _refuse_running(str(model), {"library": library} if compile else running)
    if suffix in CHECKPOINT_SUFFIXES:
        if not Path(model).is_file():
            raise CheckpointError(f"{model}: no such file; check the path of the checkpoint")
    elif not is_hub_checkpoint(model) and (suffix or Path(model).exists()):
        raise L2GError(
            f"{model}: no backend opens this; expected a checkpoint ({', '.join(CHECKPOINT_SUFFIXES)}), "
            f"an exported graph ({GRAPH_SUFFIX}), an engine ({ENGINE_SUFFIX}), a Hugging Face folder with its "
            "config.json, an id of its hub (owner/name), or the name of a shipped model such as l2g_tiny or of one in "
            "`l2g models`"
        )
    loaded = _load(str(model), given)
    if threads is not None:
        importlib.import_module("l2g.runtime.backends.eager").set_threads(threads)
    if canvas is None:
        short, long = sorted(loaded.config.input_size)
        canvas = (long, short) if portrait else tuple(loaded.config.input_size)
    if compile:
        return _compiled(str(model), loaded, top_k, canvas, device, precision or "fp32", fp32_blocks)
    eager = importlib.import_module("l2g.runtime.backends.eager")
    backend: Backend = eager.EagerBackend(loaded.to(eager.default_device()), top_k=top_k, canvas=canvas)
    return backend


def _load(model: str, checkpoint_options: dict[str, Any]) -> Any:
    # Before PyTorch loads its OpenMP: on cores that others use too, threads that spin for each other take the time from
    # those they wait for (the demo beside two busy processes, two cores: 205 s, with this 11 s). On an idle machine it
    # costs some percent; threads that sleep at once would take half as long again.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        return importlib.import_module("l2g.checkpoint").load_checkpoint(model, **checkpoint_options)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise L2GError(
            f"{model}: a checkpoint runs on PyTorch, but '{error.name}' is not installed; "
            "install it with: pip install 'l2g[eager]'"
        ) from None


def _compiled(
    model: str,
    loaded: Any,
    top_k: int | None,
    canvas: tuple[int, int],
    device: str | None,
    precision: str,
    fp32_blocks: Sequence[str],
) -> Backend:
    module = importlib.import_module("l2g.runtime.backends.compiled.backend")
    where = module.device_of(model, device)
    if where.type == "cpu":
        warnings.warn(
            f"{model}: --compile is for GPUs; on this CPU the same operators run one after another, for checks. Export "
            "it to run on a CPU: l2g export",
            stacklevel=3,
        )
    backend: Backend = module.CompiledBackend(loaded.to(where), precision, top_k, canvas, keep=fp32_blocks)
    return backend


def _open_artifact(
    model: str,
    suffix: str,
    canvas: tuple[int, int] | None,
    checkpoint_options: dict[str, Any],
    running: dict[str, str | None],
    threads: int | None,
) -> Backend:
    if checkpoint_options:
        raise L2GError(
            f"{model}: {', '.join(sorted(checkpoint_options)).replace('_', ' ')} given, which only a checkpoint takes; "
            "a graph's contract says all of it, so leave it away"
        )
    if suffix == ENGINE_SUFFIX:
        _refuse_running(model, running)
        library = importlib.import_module("l2g.runtime.backends.tensorrt.backend")
        backend: Backend = library.TensorRTBackend(model)
    else:
        backend = _open_graph(model, threads=threads, **running)
    fixed = (backend.contract.height, backend.contract.width)
    if canvas is not None and tuple(canvas) != fixed:
        backend.close()
        raise L2GError(
            f"{model}: canvas {canvas[0]}x{canvas[1]} asked for, but the graph's is fixed at {fixed[0]}x{fixed[1]}; "
            f"export another with: l2g export --height {canvas[0]} --width {canvas[1]}"
        )
    return backend


def backend_module(model: str, library: str) -> Any:
    """What drives graphs in an inference library; L2GError where there is none of that name, or it is not installed."""
    if library not in GRAPH_LIBRARIES:
        raise L2GError(f"library '{library}' found, one of {', '.join(GRAPH_LIBRARIES)} expected")
    try:
        return importlib.import_module(_MODULES[library])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "l2g":
            raise
        raise L2GError(
            f"{model}: a graph runs on {GRAPH_LIBRARIES[library]}, but '{error.name}' is not installed; "
            f"install it with: pip install {_INSTALL[library]}"
        ) from None


def _open_graph(
    model: str, library: str | None, device: str | None, precision: str | None, threads: int | None
) -> Backend:
    library = library or next(iter(GRAPH_LIBRARIES))
    module = backend_module(model, library)
    if library == "openvino":
        backend: Backend = module.OpenVinoBackend(model, device or "CPU", precision, threads=threads)
        return backend
    if precision is not None:
        raise L2GError(f"{model}: precision given, which ONNX Runtime takes from the graph; add --library openvino")
    providers = {None: None, "cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    name = device.lower() if device else None
    if name not in providers:
        raise L2GError(
            f"{model}: device '{device}' asked for, ONNX Runtime has cpu and cuda; or add --library openvino"
        )
    backend = module.OnnxRuntimeBackend(model, providers[name], threads=threads, keep=True)
    return backend


def _refuse_running(model: str, running: dict[str, str | None]) -> None:
    given = [name for name, value in running.items() if value is not None]
    if given:
        more = "" if "library" in given or model.endswith(ENGINE_SUFFIX) else ", or add --compile"
        raise L2GError(f"{model}: {', '.join(given)} given, which only an exported graph takes; leave it away{more}")
