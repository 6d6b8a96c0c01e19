"""A model repository: a folder a model, in it `config.pbtxt` and a folder a version; each appears whole or not."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l2g.artifacts import ENGINE_SUFFIX
from l2g.artifacts.sidecar import check_file, read_sidecar, sidecar_path
from l2g.contract import GraphContract
from l2g.errors import ConfigError
from l2g.files import folder_atomically, locked, write_bytes, write_text
from l2g.runtime.backends.contract_check import check_drivable
from l2g.runtime.backends.open import ARTIFACT_SUFFIXES, GRAPH_SUFFIX
from l2g.serving.config import FILE_NAMES, TRUE_FILE, differences, graph_config, tracks_config
from l2g.serving.options import ServingOptions, batching, with_device

CONFIG = "config.pbtxt"
CONTRACT_FILE = "contract.json"
# What Triton's Python backend looks for in a version's folder.
_PYTHON_FILE = "model.py"
_PYTHON_TEXT = "from l2g.serving.triton_model import TritonPythonModel\n\n__all__ = ['TritonPythonModel']\n"
GRAPH_ENDING = "_graph"


@dataclass(frozen=True)
class ServedModel:
    """What was written. name: of the model that returns tracks. folders: of it, and of its graph where the server runs
    that. why: the strategy, in a sentence. max_batch: frames that go through an instance together."""

    name: str
    folders: tuple[Path, ...]
    strategy: str
    max_batch: int
    why: str


@dataclass(frozen=True)
class _Artifact:
    """A graph or an engine that was checked. most: streams that an engine was built for."""

    path: Path
    contract: GraphContract
    most: int | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, sidecar_path(self.path)) if self.path.suffix == ENGINE_SUFFIX else (self.path,)


def write_repository(
    models: Sequence[str | os.PathLike[str]], repository: str | os.PathLike[str], options: ServingOptions | None = None
) -> list[ServedModel]:
    """Write a model that returns tracks for each graph or engine, named after its file.

    With a backend of the server's own a second model, NAME_graph, is the graph, and the first one calls it. The files
    are copied byte for byte, so that their contracts, sums and sidecars hold. Models and versions that are there stay.

    Raises L2GError, with nothing written, for a file that is not whole or not l2g's, for options that do not fit it and
    for a version that is there already.
    """
    options = with_device(options or ServingOptions())
    artifacts = [_opened(Path(model), options) for model in models]
    names = [_name(artifact.path) for artifact in artifacts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two models named '{twice[0]}' found; rename one of the files")
    folder = Path(repository)
    plans = [_planned(folder, name, artifact, options) for name, artifact in zip(names, artifacts, strict=True)]
    parts = [part for plan in plans for part in plan.parts]
    for part in parts:
        part.check()
    with locked(folder, ConfigError):
        _clear_leftovers(folder)
        for part in parts:
            part.check()
            part.write()
    return [plan.served for plan in plans]


@dataclass(frozen=True)
class _Part:
    """One model's folder: what goes into the version's, by name a file that is copied or a text. loaded: how many of
    the latest versions the server loads; None is all."""

    folder: Path
    version: int
    config: str
    files: dict[str, Path | str]
    loaded: int | None
    warm_up: bool = False

    def check(self) -> None:
        if (self.folder / str(self.version)).exists():
            raise ConfigError(
                f"{self.folder}: version {self.version} is there already; give --version {self.version + 1}, or "
                "another repository"
            )
        found = (path.name for path in self.folder.glob("[1-9]*") if path.is_dir())
        there = [int(name) for name in found if name.isascii() and name.isdecimal()]
        latest = sorted([*there, self.version], reverse=True)[: self.loaded]
        others = [version for version in latest if version != self.version]
        if others and (named := differences(_text_of(self.folder / CONFIG), self.config)):
            raise ConfigError(
                f"{self.folder}: version {others[0]} would be served too, by the {CONFIG} of version {self.version}, "
                f"but differs in {', '.join(named)}; give the latest --version with --versions latest, or "
                "rename the file, which names the model"
            )

    def write(self) -> None:
        if self.folder.exists():
            with folder_atomically(self.folder / str(self.version), ConfigError) as version:
                self._fill(version)
            self._warm(self.folder)
            write_text(self.folder / CONFIG, self.config, ConfigError)
            return
        with folder_atomically(self.folder, ConfigError) as model:
            (model / CONFIG).write_text(self.config, "utf-8")
            self._warm(model)
            version = model / str(self.version)
            version.mkdir()
            self._fill(version)

    def _warm(self, model: Path) -> None:
        if self.warm_up:
            (model / "warmup").mkdir(exist_ok=True)
            write_bytes(model / "warmup" / TRUE_FILE, b"\x01", ConfigError)

    def _fill(self, version: Path) -> None:
        for name, content in self.files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, version / name)
            else:
                (version / name).write_text(content, "utf-8")


@dataclass(frozen=True)
class _Plan:
    served: ServedModel
    parts: tuple[_Part, ...]


def _planned(repository: Path, name: str, artifact: _Artifact, options: ServingOptions) -> _Plan:
    contract = artifact.contract
    shares = batching(options, artifact.most)
    python = {_PYTHON_FILE: _PYTHON_TEXT}
    version, parts = options.version, []
    if options.in_process:
        copied: dict[str, Path | str] = {file.name: file for file in artifact.files}
        runs = {"model": artifact.path.name}
    else:
        graph = f"{name}{GRAPH_ENDING}"
        served_as = FILE_NAMES[options.backend]
        pairs = zip((served_as, f"{served_as}.json"), artifact.files, strict=False)
        config = graph_config(graph, contract, options, shares)
        parts.append(_Part(repository / graph, version, config, dict(pairs), options.loaded))
        copied = {CONTRACT_FILE: contract.to_json()}
        runs = {"graph": graph}
    config = tracks_config(name, runs, contract, options, shares)
    parts.append(_Part(repository / name, version, config, {**python, **copied}, options.loaded, options.warms_up))
    served = ServedModel(name, tuple(part.folder for part in parts[::-1]), shares.strategy, shares.batch, shares.why)
    return _Plan(served, tuple(parts))


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give another repository, or remove the model") from None


def _opened(path: Path, options: ServingOptions) -> _Artifact:
    """A file that was found whole, and fits the backend that is to run it."""
    suffix = path.suffix.lower()
    if suffix not in ARTIFACT_SUFFIXES:
        raise ConfigError(
            f"{path}: an .onnx or an .engine expected; make one of a checkpoint with: l2g export --ckpt {path} "
            f"--output {path.stem}.onnx"
        )
    if suffix == GRAPH_SUFFIX:
        if options.backend == "tensorrt":
            raise ConfigError(
                f"{path}: a graph found, and Triton's TensorRT backend runs engines; build one with: l2g build --onnx "
                f"{path} --output {path.with_suffix(ENGINE_SUFFIX)}"
            )
        return _Artifact(path, _graph_contract(path))
    if options.backend == "onnxruntime":
        raise ConfigError(f"{path}: an engine found, and ONNX Runtime runs an .onnx; take --backend tensorrt or python")
    sidecar = read_sidecar(path)
    check_file(path, sidecar)
    if options.backend == "tensorrt" and sidecar.engine.library != "tensorrt":
        raise ConfigError(
            f"{path}: built by {sidecar.engine.library}, which Triton's TensorRT backend does not run; take --backend "
            "python"
        )
    if not options.gpu:
        raise ConfigError(f"{path}: an engine runs on a GPU; add --gpu")
    if given := [name for name in ("library", "device", "precision") if getattr(options, name) is not None]:
        raise ConfigError(f"{path}: {', '.join(given)} given, which only an .onnx takes; leave it away")
    streams = sidecar.engine.options.streams if sidecar.engine.options else None
    return _Artifact(path, sidecar.contract, streams[2] if streams else None)


def _graph_contract(path: Path) -> GraphContract:
    from l2g.artifacts.graph_sum import check_graph
    from l2g.artifacts.onnx_file import read_contract, read_model

    contract = read_contract(read_model(path), path)
    command = f"l2g export --ckpt CKPT --output {path}"
    check_graph(path, contract, command)
    check_drivable(path, contract, command)
    return contract


def _name(path: Path) -> str:
    """The model's: it stands in addresses, so that only plain characters remain."""
    name = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII).strip("._-")
    if not name:
        raise ConfigError(f"{path}: no letter or digit in the file's name, which names the model; rename it")
    return name


def _clear_leftovers(repository: Path) -> None:
    """Remove what killed writers have left, which the server would take for models; nobody else writes now."""
    for pattern in (".*.part", "*/.*.part"):
        for left in repository.glob(pattern):
            if re.fullmatch(r"\..+\.[0-9a-f]{16}\.part", left.name) and left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
