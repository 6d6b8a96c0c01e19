"""What a check does, in which order, and what it makes for that: steps, each a process of its own.

The order is that of worth, so that whatever ends the check early leaves what counts most: first whether each way to run
a model is right, then how fast it is, then what else the device can do. What a step needs is made just before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from l2g.errors import L2GError
from l2g.gpucheck.ways import BY_SLUG, LIBRARY_OF, WAYS, Way
from l2g.records import Record

# Instances that a runtime takes off the device; what latency is measured with.
TOP_K = 50
# Built for at least so many streams, so that a second check with others finds its files.
LEAST_STREAMS = 8


def label_of(model: str) -> str:
    """A model's name in files and tables."""
    return Path(model).stem


@dataclass(frozen=True)
class Options(Record):
    """What is checked.

    models: files in `models` of the folder (`l2g.gpucheck.run.carry`), or presets, which get random weights where none
    are shipped. size: (height, width) of the
    canvas that latency is measured on. streams: batches. frames: that count of each latency. videos: of `val`, for AP.
    """

    models: tuple[str, ...] = ("l2g_r50", "l2g_tiny")
    size: tuple[int, int] = (480, 864)
    streams: tuple[int, ...] = (1, 4, 8)
    frames: int = 60
    videos: int = 8

    def __post_init__(self) -> None:
        if not self.models:
            raise L2GError("no model given; give a checkpoint, or the name of a model such as l2g_tiny")
        if len({label_of(model) for model in self.models}) < len(self.models):
            raise L2GError(f"models of one name found ({', '.join(self.models)}); give each a name of its own")
        for name, values in (("streams", self.streams), ("frames", (self.frames,)), ("videos", (self.videos,))):
            if not values or min(values) < 1:
                raise L2GError(f"{name} {' '.join(map(str, values)) or 'none'} found, at least 1 expected")


# A first look: one model, the two batches that tell most, half of the frames.
QUICK = Options(models=("l2g_tiny",), streams=(1, 4), frames=30, videos=2)


@dataclass(frozen=True)
class Step:
    """One thing that is done.

    name: also of its file. limit: seconds that it may take. kind: what is measured, a function of `l2g.gpucheck.child`;
    "" where `command`, words for `l2g`, makes a file. model, way: what it is about. role: "parity" (the model's own
    canvas, raw outputs) or "latency". needs: names of steps that have to be done before. device: whether it wants the
    device that is checked.
    """

    name: str
    title: str
    limit: float
    kind: str = ""
    command: tuple[str, ...] = ()
    model: str = ""
    way: Way | None = None
    role: str = ""
    needs: tuple[str, ...] = ()
    device: bool = True

    @property
    def output(self) -> str | None:
        """What the step makes, seen from the folder of the check."""
        if self.kind == "weights":
            return f"models/{self.model}.safetensors"
        return self.command[self.command.index("--output") + 1] if "--output" in self.command else None

    @property
    def builds(self) -> str | None:
        """The library of the engine that the command builds."""
        return self.command[self.command.index("--library") + 1] if self.command[:1] == ("build",) else None

    @property
    def makes(self) -> bool:
        """Whether it only makes what others need."""
        return self.output is not None


def plan(options: Options, presets: frozenset[str]) -> tuple[Step, ...]:
    """All steps. presets: models that have no weights of their own, and so nothing to score."""
    return _Plan(options, presets).steps()


class _Plan:
    def __init__(self, options: Options, presets: frozenset[str]):
        self.options, self.presets = options, presets
        self._found: dict[str, Step] = {}

    def steps(self) -> tuple[Step, ...]:
        self._add(Step("machine", "what is here", 120, "machine", device=False))
        for way in WAYS:
            for model in self.options.models:
                if model not in self.presets:
                    self._parity(model, way)
        for model in self.options.models:
            # Its arithmetic is counted in the graph, where that is made for ONNX Runtime.
            self._artifacts(model, BY_SLUG["onnx-runtime-fp32"], "latency")
        self._add(Step("floors", "what the device could do at best", 120, "floors"))
        for way in WAYS:
            for model in self.options.models:
                self._latency(model, way)
        for model in self.options.models:
            self._capture(model)
        self._add(Step("video", "decoding and encoding of H.264", 90, "video"))
        return tuple(self._found.values())

    def _add(self, step: Step) -> str:
        """The step's name; the step is there once."""
        self._found.setdefault(step.name, step)
        return step.name

    def _parity(self, model: str, way: Way) -> None:
        needs = [*self._artifacts(model, way, "parity"), *self._videos()]
        name, title = f"parity-{label_of(model)}-{way.slug}", f"is {way.name} right? {label_of(model)}"
        self._add(Step(name, title, 240, "parity", (), model, way, "parity", tuple(needs)))

    def _latency(self, model: str, way: Way) -> None:
        needs = self._artifacts(model, way, "latency")
        if way.engine and model in self.presets:
            engine, graph = (str(file_of(model, way, "latency", kind)) for kind in ("engine", "onnx"))
            command = ("verify", "--engine", engine, "--onnx", graph)
            title = f"does the {way.name} engine give its graph's numbers? {label_of(model)}"
            name = f"verify-{label_of(model)}-{way.slug}"
            self._add(Step(name, title, 240, "", command, model, way, "latency", tuple(needs)))
        name, title = f"latency-{label_of(model)}-{way.slug}", f"how fast is {way.name}? {label_of(model)}"
        self._add(Step(name, title, 240, "latency", (), model, way, "latency", tuple(needs)))

    def _capture(self, model: str) -> None:
        name, title = f"capture-{label_of(model)}", f"a frame as one CUDA graph, the state swapped: {label_of(model)}"
        self._add(Step(name, title, 120, "capture", (), model, WAYS[0], "latency", self._weights(model)))

    def _weights(self, model: str) -> tuple[str, ...]:
        if model not in self.presets:
            return ()
        step = Step(f"weights-{model}", f"random weights of {model}", 120, "weights", model=model, device=False)
        return (self._add(step),)

    def _videos(self) -> list[str]:
        found = []
        for name, split, videos, frames in (("val", "val", self.options.videos, 36), ("long", "long", 1, 100)):
            words = ("--split", split, "--videos", str(videos), "--frames", str(frames), "--output", f"data/{name}")
            title = f"{videos} drawn videos of {frames} frames"
            found.append(self._add(Step(f"data-{name}", title, 120, "", ("data", "draw", *words), device=False)))
        return found

    def _artifacts(self, model: str, way: Way, role: str) -> list[str]:
        """The steps that make what `way` runs, in order."""
        needs = list(self._weights(model))
        if way.graph is None:
            return needs
        needs.append(self._graph(model, way, role))
        if way.engine:
            needs.append(self._engine(model, way, role, needs))
        return needs

    def _graph(self, model: str, way: Way, role: str) -> str:
        path = file_of(model, way, role, "onnx")
        checkpoint = checkpoint_of(model, self.presets)
        how = ["--output", str(path), "--quiet"]
        if role == "latency":
            height, width = map(str, self.options.size)
            how += ["--height", height, "--width", width, "--outputs", "detections", "--top-k", str(TOP_K)]
        needs = list(self._weights(model))
        if way.precision == "int8":
            # Calibrated on a few frames: enough for a small model's AP, and for the types and sizes of any.
            name = "calibration" if role == "parity" else "two-frames"
            needs.append(self._calibration(name, *(("8", "36") if role == "parity" else ("1", "2"))))
            words = ["quantize", "--ckpt", checkpoint, "--dataset", f"data/{name}", "--layout", "tensorrt"]
            words += ["--scales", "fp16", "--max-trials", "0", "--method", "max", "--ap-budget", "none"]
            words += ["--frames", "4" if role == "parity" else "2", "--probe-frames", "1", "--verdict-videos", "1"]
        else:
            words = ["export", "--ckpt", checkpoint, "--precision", str(way.graph), "--max-streams", str(self._most)]
            words += ["--target", "tensorrt" if way.engine else "onnxruntime"]
        title = f"{path.name}, a graph"
        step = Step(f"make-{path.name}", title, 600, "", (*words, *how), model, way, role, tuple(needs), False)
        return self._add(step)

    def _calibration(self, name: str, videos: str, frames: str) -> str:
        words = ("--split", "val", "--seed", "1", "--videos", videos, "--frames", frames, "--output", f"data/{name}")
        return self._add(Step(f"data-{name}", "drawn videos", 120, "", ("data", "draw", *words), device=False))

    def _engine(self, model: str, way: Way, role: str, needs: list[str]) -> str:
        path, library = file_of(model, way, role, "engine"), LIBRARY_OF[way.library]
        words = ["build", "--onnx", str(file_of(model, way, role, "onnx")), "--library", library]
        words += ["--max-streams", str(self._most), "--no-verify", "--no-cache", "--output", str(path), "--quiet"]
        # TensorRT builds on the GPU that will run the engine, TensorRT-RTX anywhere.
        on_device = library == "tensorrt"
        title = f"{path.name}, an engine"
        step = Step(f"make-{path.name}", title, 600, "", tuple(words), model, way, role, tuple(needs), on_device)
        return self._add(step)

    @property
    def _most(self) -> int:
        return max(*self.options.streams, LEAST_STREAMS)


def checkpoint_of(model: str, presets: frozenset[str]) -> str:
    """What `l2g export --ckpt` is given, seen from the folder of the check: random weights and files lie in it."""
    if model in presets:
        return f"models/{model}.safetensors"  # as the step `weights` makes it
    return f"models/{model}" if Path(model).suffix else model


def file_of(model: str, way: Way, role: str, kind: str) -> Path:
    """The file that a way runs ("onnx": or is built from), seen from the folder of the check."""
    if kind == "engine":
        return Path("models", f"{label_of(model)}.{role}.{LIBRARY_OF[way.library]}.{way.precision}.engine")
    target = "tensorrt" if way.engine else "onnxruntime"
    return Path("models", f"{label_of(model)}.{role}.{target}.{way.graph}.onnx")
