"""How a model is to be served, and which of the sequence batcher's strategies that asks for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from l2g.errors import ConfigError

if TYPE_CHECKING:
    from l2g.runtime.video.cuts import Cuts

# What runs the graph: Triton's Python backend with l2g inside, or a backend of Triton's own.
BACKENDS = ("python", "onnxruntime", "tensorrt", "openvino")
STRATEGIES = ("auto", "direct", "oldest")
# Unless an engine was built for fewer: what a GPU takes together without a frame waiting for long.
MOST_TOGETHER = 8
# From this release on its Python backend reads the arrays of NumPy 2; older ones send no bytes of them, without a word.
NUMPY_2_SINCE = (24, 12)
# What `open_backend` takes for a library's device, and how that is said.
_DEVICES = {
    "onnxruntime": ("cpu|cuda", "cpu or cuda, or --library openvino"),
    "openvino": (
        r"(CPU|GPU|NPU)(\.\d+)?|AUTO",
        "CPU, GPU, NPU or AUTO, with a number as GPU.1 where there are several",
    ),
}
# Releases of the server that first had what a repository needs, from its notes and its pull requests.
_SINCE = {
    "python": ((23, 5), "metrics of a model's own (l2g_streams)"),
    "graph": ((23, 11), "one buffer for a state's input and output"),
}


@dataclass(frozen=True)
class ServingOptions:
    """A model's place in the server.

    backend: one of `BACKENDS`. strategy: one of `STRATEGIES`; "auto" is by the streams. streams: that are served at the
    same time. batch: the most frames that go through one instance together; None is the fewest of the streams, what an
    engine was built for, and `MOST_TOGETHER`. preferred: batch sizes that go at once (oldest). delay: seconds that a
    batch waits to become larger. instances: copies of the model. gpu: they are on GPUs, else on CPUs. idle: seconds
    without a frame after which a sequence ends. versions: "latest", "all", or a number of versions to keep loaded.
    version: the folder's number. warm_up: run frames before the first request; None is where the backend can.
    server: the release of the server as its containers are called ("25.08"); None is the newest.
    library, device, precision: what runs a graph in the Python backend; see `open_backend`.
    score_threshold, top_k, max_age, cuts: as in `Tracker`.
    """

    backend: str = "python"
    strategy: str = "auto"
    streams: int = 4
    batch: int | None = None
    preferred: tuple[int, ...] = ()
    delay: float = 0.0
    instances: int = 1
    gpu: bool = False
    idle: float = 30.0
    versions: str = "latest"
    version: int = 1
    warm_up: bool | None = None
    server: str | None = None
    library: str | None = None
    device: str | None = None
    precision: str | None = None
    score_threshold: float = 0.5
    top_k: int = 50
    max_age: int = 30
    cuts: Cuts = "auto"

    def __post_init__(self) -> None:
        self._expect(self.backend in BACKENDS, f"backend '{self.backend}'", f"one of {', '.join(BACKENDS)}")
        self._expect(self.strategy in STRATEGIES, f"strategy '{self.strategy}'", f"one of {', '.join(STRATEGIES)}")
        for name, count in (("streams", self.streams), ("batch", self.batch), ("instances", self.instances)):
            self._expect(count is None or 1 <= count <= 10_000, f"{name} {count}", "1 to 10000")
        self._expect(1 <= self.version < 2**31, f"version {self.version}", "1 or more")
        self._expect(1e-3 <= self.idle <= 1e6, f"an idle time of {self.idle:g} s", "0.001 to 1000000")
        self._expect(0 <= self.delay <= 60, f"a queue delay of {self.delay:g} s", "0 to 60")
        policy = re.fullmatch(r"latest|all|[1-9]\d{0,5}", self.versions)
        self._expect(bool(policy), f"versions '{self.versions}'", "latest, all, or how many are kept loaded")
        self._expect(self.top_k >= 1, f"top-k {self.top_k}", "at least 1")
        from l2g.runtime.identity.tracks import TrackParameters  # here: options are listed without NumPy

        TrackParameters(birth_score=self.score_threshold, max_age=self.max_age)
        from l2g.runtime.video.cuts import cut_finder  # here: the command's help needs no OpenCV

        cut_finder(self.cuts)
        given = [name for name in ("library", "device", "precision") if getattr(self, name) is not None]
        if given and not self.in_process:
            raise ConfigError(f"{', '.join(given)} given, which only the python backend takes; leave it away")
        openvino = self.library == "openvino"
        if self.precision and not openvino:
            raise ConfigError("precision given, which ONNX Runtime takes from the graph; add --library openvino")
        form, expected = _DEVICES["openvino" if openvino else "onnxruntime"]
        device = self.device is None or re.fullmatch(form, self.device, re.ASCII | re.IGNORECASE)
        self._expect(bool(device), f"device {self.device!r}", expected)
        if self.gpu and (openvino or (self.device or "").lower() == "cpu"):
            raise ConfigError(
                "--gpu found, which is of CUDA, for a model that does not run there; leave it away"
                + (", and name Intel's with --device GPU" if openvino else ", or --device cpu")
            )
        self._check_backend()

    @property
    def in_process(self) -> bool:
        """Whether l2g runs the graph itself, inside the Python backend."""
        return self.backend == "python"

    @property
    def loaded(self) -> int | None:
        """So many of a model's latest versions are; None is all."""
        return {"latest": 1, "all": None}[self.versions] if self.versions.isalpha() else int(self.versions)

    @property
    def warms_up(self) -> bool:
        return self.in_process if self.warm_up is None else self.warm_up

    def _check_backend(self) -> None:
        """What a server cannot do is refused here, by name."""
        if self.backend == "openvino":
            raise ConfigError(
                "Triton's OpenVINO backend has no implicit state, so that nothing would carry the tracks from frame to "
                "frame; run OpenVINO inside the Python backend: --backend python --library openvino"
            )
        if self.warm_up and not self.in_process:
            raise ConfigError(
                "a warm-up of a graph with implicit state found, which Triton refuses to load: its warm-up requests "
                "belong to no sequence; leave --warm-up away, or take --backend python"
            )
        since, what = _SINCE["python" if self.in_process else "graph"]
        if self.server is None:
            return
        found = re.fullmatch(r"(\d\d)\.(\d\d)", self.server)
        self._expect(bool(found), f"server '{self.server}'", "its release, such as 25.08")
        if found and (int(found[1]), int(found[2])) < since:
            raise ConfigError(
                f"server {self.server} found, which has not: {what}; that came with {since[0]:02}.{since[1]:02}"
            )

    @staticmethod
    def _expect(holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{found} found, {expected} expected")


@dataclass(frozen=True)
class Batching:
    """What the sequence batcher is told. candidates: sequences of one instance that batches are made of (oldest); the
    slots are `batch` an instance. why: of the strategy, a sentence for the user."""

    strategy: str
    batch: int
    candidates: int
    preferred: tuple[int, ...]
    why: str


def batching(options: ServingOptions, most: int | None = None) -> Batching:
    """The strategy for so many streams; ConfigError for what does not fit.

    most: frames that the engine was built for; None where there is no bound.
    """
    batch = min(options.streams, most or MOST_TOGETHER, MOST_TOGETHER) if options.batch is None else options.batch
    if most is not None and batch > most:
        raise ConfigError(
            f"batch {batch} found, but the engine was built for at most {most} streams; give --batch {most}, or build "
            f"it with: l2g build --max-streams {batch}"
        )
    slots = batch * options.instances
    strategy = options.strategy
    if strategy == "auto":
        strategy = "direct" if options.streams <= slots else "oldest"
    if strategy == "direct" and options.streams > slots:
        raise ConfigError(
            f"{options.streams} streams found for {slots} slots (a batch of {batch}, {options.instances} instances): "
            "under the direct strategy each stream keeps a slot, and the others would wait until one ends; take "
            "--strategy oldest, a larger --batch or more --instances"
        )
    if strategy == "direct":
        if options.preferred:
            raise ConfigError("preferred batch sizes are of the oldest strategy; leave them away, or take it")
        why = (
            f"direct: each of {options.streams} streams keeps one of {slots} slots for itself, so that none waits for "
            "another's; a slot without a frame goes along unused"
        )
        return Batching(strategy, batch, 0, (), why)
    if wrong := [size for size in options.preferred if not 1 <= size <= batch]:
        raise ConfigError(f"preferred batch size {wrong[0]} found, 1 to {batch} expected, the largest batch")
    candidates = max(batch, -(-options.streams // options.instances))
    why = (
        f"oldest: {options.streams} streams take turns in batches of at most {batch}, the frame that waited longest "
        "first"
    )
    preferred = options.preferred or ((batch,) if options.delay else ())
    return Batching(strategy, batch, candidates, preferred, why)


def with_device(options: ServingOptions) -> ServingOptions:
    """The options with the device that l2g opens the graph on, where the user left it open."""
    if options.in_process and options.device is None and not options.gpu and options.library != "openvino":
        return replace(options, device="cpu")
    return options


def gpu_of_instance(device: str, visible: str | None) -> str:
    """CUDA_VISIBLE_DEVICES for the process of an instance, that it sees its GPU alone.

    device: its number, as the server counts. visible: what the server sees, by CUDA_VISIBLE_DEVICES; None is all.
    """
    seen = [name.strip() for name in (visible or "").split(",") if name.strip()]
    return seen[int(device)] if int(device) < len(seen) else device


def check_numpy(version: str, release: str) -> None:
    """ConfigError where the server's release, "" where it does not say, cannot send the arrays of this NumPy."""
    found = re.match(r"(\d\d)\.(\d\d)", release)
    if found and int(version.split(".")[0]) >= 2 and (int(found[1]), int(found[2])) < NUMPY_2_SINCE:
        raise ConfigError(
            f"NumPy {version} found in the Python of a Triton {release}, whose Python backend sends empty tensors with "
            "it; pip install 'numpy<2' 'opencv-python-headless<4.12' there, or take 24.12 or later"
        )
