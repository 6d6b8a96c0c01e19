"""What commands share of their arguments: the parser, one form of defaults in the help, and groups of options."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

if TYPE_CHECKING:
    from l2g.data.dataset import VideoDataset
    from l2g.runtime.backends.base import Backend
    from l2g.runtime.panoptic.options import PanopticOptions

MODEL = "a checkpoint, an .onnx, an .engine, or the name of a model, shipped or in l2g models"
DATASET = "a directory, FORMAT:DIR, or synthetic[_panoptic]:{val,occluded,long,crossing}"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name what was probably meant."""

    def __init__(self, **how: Any):
        super().__init__(formatter_class=_Formatter, **how)

    def parse_args(  # type: ignore[override]  # one way to call it is enough
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        words = list(sys.argv[1:] if args is None else args)
        options = [text for action in self._actions for text in action.option_strings if text.startswith("--")]
        # Before anything else: a mistyped option would be told as a required one that is missing.
        for word in words[: words.index("--") if "--" in words else None]:
            name = word.split("=")[0]
            if name.startswith("--") and not any(option.startswith(name) for option in options):
                self.error(f"unknown option '{name}'{did_you_mean(name, options)}")
        found, unknown = self.parse_known_args(words, namespace)
        if unknown:
            self.error(f"unknown argument '{unknown[0]}'")
        return found

    def error(self, message: str) -> NoReturn:
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            message += did_you_mean(choice[1], re.findall(r"[\w.:-]+", choice[2]))
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Every option says "(default: X)" or "(required)". Where the default is made later its help says it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text is None or text is argparse.SUPPRESS or "(default:" in text or isinstance(action, argparse._HelpAction):
            return text
        if action.required and not (isinstance(action, argparse._StoreAction) and action.nargs == "?"):
            return f"{text} (required)"
        if isinstance(action, argparse._StoreTrueAction):
            return f"{text} (default: off)"
        if action.default is None:
            return text
        shown = action.default
        if isinstance(shown, (list, tuple)):
            shown = " ".join(map(str, shown)) or "none"
        return f"{text} (default: {str(shown).replace('%', '%%')})"


def did_you_mean(word: str, known: list[str]) -> str:
    """ "; did you mean 'X'?" for the known word that is nearest, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


# A parser, or a group of one.
Options: TypeAlias = argparse._ActionsContainer


def add_model(parser: Options, option: str = "--model", text: str = "", **how: Any) -> None:
    """The option that names what is to be run."""
    parser.add_argument(option, metavar="MODEL", help=f"{text}{MODEL}", **({"required": True} | how))


def add_checkpoint(parser: Options, also: str = "") -> None:
    """--ckpt, of a command that makes something of a checkpoint."""
    text = f"a .safetensors, a public .pth, a Hugging Face folder or id, or a model's name (l2g models){also}"
    parser.add_argument("--ckpt", required=True, metavar="CKPT", help=text)


# What a public checkpoint does not tell, as `load_checkpoint` takes it.
UNTOLD = ("num_queries", "num_heads", "box_init")


def add_untold(parser: Options) -> None:
    """--num-queries, --num-heads and --box-init of a checkpoint; `untold` gives what they say to `load_checkpoint`."""
    from l2g.config import BOX_INITS

    group = parser.add_argument_group("what the shapes in a public .pth do not tell")
    group.add_argument("--num-queries", type=int, help="slots (default: the checkpoint's own, or 300)")
    group.add_argument("--num-heads", type=int, help="attention heads (default: the checkpoint's own, or 8)")
    group.add_argument(
        "--box-init",
        choices=BOX_INITS,
        help="how a slot's box starts (default: the checkpoint's own, or what the public configs say)",
    )


def untold(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in UNTOLD}


def add_dataset(parser: Options, text: str = "", *, required: bool = True, seed: bool = False) -> None:
    """--dataset, --split and --videos, and with `seed` --seed; `open_dataset` opens what they say."""
    where = f"{text}{DATASET}" + ("" if required else " (default: none)")
    parser.add_argument("--dataset", required=required, metavar="DATASET", help=where)
    add_split(parser)
    add_reading(parser)
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="seed of a synthetic split")
    parser.add_argument("--videos", type=int, metavar="N", help="only the first N videos (default: all)")


def add_split(parser: Options, default: str = "valid") -> None:
    parser.add_argument("--split", default=default, help="split of a directory that has several")


def add_reading(parser: Options) -> None:
    """--classes, --skip-broken and --allow-outside: how a data set is read."""
    maps = "coco-youtube_vis_2019, coco-youtube_vis_2021, coco-ovis"
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="where model and data set name classes differently: lines 'class of the data set: class of the model' in "
        f"YAML or JSON, or one of {maps}; scored are these (default: the names are the same)",
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken videos and annotations out, and name them"
    )
    add_allow_outside(parser)


def add_allow_outside(parser: Options) -> None:
    parser.add_argument(
        "--allow-outside", action="store_true", help="frames may lie outside of the data set's folder, by name or link"
    )


def open_dataset(
    options: argparse.Namespace, name: str | None = None, *, decode: bool = True, endless: bool = False
) -> VideoDataset:
    """The data set that the options of `add_dataset` name, or `name` read as they say.

    What --skip-broken leaves out is named on stderr; with `decode` it is looked for in every frame, before the command
    begins. DataError where the data set is broken or not there, and unless `endless` where it has no end.
    """
    from dataclasses import replace

    from l2g.data.classes import read_mapping
    from l2g.data.dataset import ENDLESS
    from l2g.data.pictures import unreadable_frames
    from l2g.data.registry import load_dataset
    from l2g.errors import L2GError

    count = getattr(options, "videos", None) if name is None else None
    if count is not None and count < 1:
        raise L2GError(f"--videos {count} found, at least 1 expected")
    mapping = read_mapping(options.classes) if options.classes else None
    dataset = load_dataset(
        options.dataset if name is None else name,
        options.split,
        seed=getattr(options, "seed", 0),
        skip_broken=options.skip_broken,
        allow_outside=options.allow_outside,
    )
    if not endless:
        dataset.expect_end()
    dataset = replace(dataset, videos=dataset.videos[:count], class_map=mapping)
    if options.skip_broken and decode and len(dataset.videos) < ENDLESS:
        found = unreadable_frames(dataset, progress=not options.quiet)
        videos = (
            [video for place, video in enumerate(dataset.videos) if place not in found] if found else dataset.videos
        )
        dataset = replace(dataset, videos=videos, problems=dataset.problems + tuple(found.values()))
    for line in dataset.left_out():
        note(line)
    return dataset


def add_canvas(parser: Options) -> None:
    """--height and --width of an export."""
    for side in ("height", "width"):
        parser.add_argument(f"--{side}", type=int, help=f"canvas {side}, a multiple of 32 (default: the model's)")


def add_outputs(parser: Options, text: str = "") -> None:
    """--outputs and --top-k of an export."""
    parser.add_argument(
        "--outputs",
        choices=("raw", "detections"),
        default="raw",
        help=f"raw: all logits and masks, for parity and evaluation; detections: the best, for a runtime{text}",
    )
    parser.add_argument("--top-k", type=int, default=50, help="instances chosen for detections")


def add_library(parser: Options, also: Sequence[str] = ()) -> None:
    """--library, --precision and --min-share of an engine. also: libraries that run a graph as it is."""
    from l2g.runtime.backends.tensorrt.library import LIBRARIES

    text = "the engine's library" + (", or what runs the graph itself" if also else "")
    parser.add_argument("--library", choices=(*LIBRARIES, *also), default="tensorrt", help=text)
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16", "int8"), help="to be found in it (default: the graph's)"
    )
    parser.add_argument("--min-share", type=share, default=0.95, help="least part of the FLOPs in it, 0 to 1")


def add_running(parser: Options) -> None:
    """--library, --device and --precision of an exported graph, --compile and the two last of a checkpoint; `running`
    gives what they say to `open_backend`."""
    from l2g.artifacts import GRAPH_LIBRARIES

    group = parser.add_argument_group("what runs an .onnx, or a checkpoint with --compile")
    default = next(iter(GRAPH_LIBRARIES))
    group.add_argument("--library", choices=tuple(GRAPH_LIBRARIES), help=f"the inference library (default: {default})")
    group.add_argument(
        "--device",
        help="ONNX Runtime: cpu, cuda; OpenVINO: CPU, GPU, NPU, AUTO; --compile: cpu, cuda, cuda:1 (default: a GPU for "
        "ONNX Runtime and --compile where they have one, else the CPU)",
    )
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="OpenVINO: compute floating point in it (default: the graph's own types); --compile: compute all but the "
        "float32 islands in it (default: fp32)",
    )
    add_compile(group)


def add_threads(parser: Options) -> None:
    """--threads; `threads` gives what it says to `open_backend`."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the model on a CPU (default: the library's choice, one a core)"
    )


def threads(
    options: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None], model: str
) -> dict[str, Any]:
    from l2g.artifacts import ENGINE_SUFFIX

    if Path(model).suffix.lower() == ENGINE_SUFFIX:
        refuse_idle(options, add_arguments, ("threads",), "it is of a CPU, and an engine runs on a GPU")
    return {"threads": options.threads}


def refuse_idle(
    options: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    names: Sequence[str],
    why: str,
) -> None:
    """L2GError for the first of some options that is not at its default, where it would have no effect. why: what it
    is of. add_arguments: of the command, for the defaults."""
    from l2g.errors import L2GError

    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    for name in names:
        if getattr(options, name) != parser.get_default(name):
            raise L2GError(f"--{name.replace('_', '-')} given, which has no effect here; {why}")


def add_compile(group: Options) -> None:
    """--compile and --fp32-blocks."""
    group.add_argument(
        "--compile", action="store_true", help="run a checkpoint as one CUDA graph (docs/guides/compiled.md)"
    )
    group.add_argument(
        "--fp32-blocks",
        nargs="+",
        default=[],
        metavar="BLOCK",
        help="--compile: parts such as encoder.layers.0 that stay float32",
    )


def running(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("library", "device", "precision", "compile", "fp32_blocks")}


def warm_up(backend: Backend, streams: int, options: argparse.Namespace) -> None:
    """With --compile: for so many streams now, with its stages on stderr, and not at the first frame."""
    if options.compile:
        from l2g.cli.stages import Stages
        from l2g.runtime.backends.compiled.backend import CompiledBackend

        assert isinstance(backend, CompiledBackend)
        with Stages(options.quiet) as stages:
            backend.warm_up(streams, stages)


def add_task(parser: Options, *, semantic: bool = True, panoptic_where: str = "the model knows stuff") -> None:
    """--task and how slots become segments; `panoptic_options` gives what they say."""
    group = parser.add_argument_group("things and stuff (docs/guides/panoptic.md)")
    group.add_argument(
        "--task",
        choices=("instances", "panoptic", *(["semantic"] if semantic else [])),
        help="instances: objects, whose masks may overlap; panoptic: each pixel to one thing or to stuff"
        + ("; semantic: each pixel to a class" if semantic else "")
        + f" (default: panoptic where {panoptic_where}, else instances)",
    )
    group.add_argument(
        "--object-mask-threshold",
        type=float,
        metavar="SCORE",
        help="a slot counts above this class score (default: 0.25, of softmax models 0.8)",
    )
    group.add_argument(
        "--overlap-threshold",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="a slot is dropped where less than this share of its mask is left to it",
    )
    group.add_argument(
        "--temperature", type=float, default=0.06, help="sharpens scores before slots compete for pixels, 0 does not"
    )
    for kind in ("thing", "stuff"):
        group.add_argument(
            f"--min-{kind}-area", type=int, default=0, metavar="PIXELS", help=f"smallest segment of {kind} shown"
        )


# What `add_task` adds beside --task.
MERGING = ("object_mask_threshold", "overlap_threshold", "temperature", "min_thing_area", "min_stuff_area")


def panoptic_options(options: argparse.Namespace) -> PanopticOptions:
    from l2g.runtime.panoptic.options import PanopticOptions

    return PanopticOptions(**{name: getattr(options, name) for name in MERGING})


def add_streams(parser: Options) -> None:
    parser.add_argument("--streams", type=int, default=4, help="videos that share a step")


def add_quiet(parser: Options) -> None:
    parser.add_argument("--quiet", action="store_true", help="no stages and no progress bars on stderr")


def size(text: str) -> tuple[int, int]:
    """ "480x864" -> (480, 864)."""
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' found, HxW expected, for example 480x864") from None
    return height, width


def names(path: str) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: cannot be read as text ({error})") from None
    return tuple(line.strip() for line in lines if line.strip())


def cuts(text: str) -> str | tuple[float, ...]:
    """ "auto", "off", or "1.5,20" -> (1.5, 20.0), seconds."""
    if text in ("auto", "off"):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' found, auto, off or seconds such as 1.5,20 expected") from None


def duration(text: str) -> float:
    """ "30", "30s", "10m", "2h" -> seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"'{text}' found, a time such as 30s, 10m or 2h expected")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def rotation(text: str) -> tuple[str, float]:
    """ "10m" -> ("seconds", 600.0), "500MB" -> ("size", 5e8)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg])b", text.lower())
    if found and float(found[1]):
        return "size", float(found[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[found[2]]
    try:
        return "seconds", duration(text)
    except argparse.ArgumentTypeError:
        expected = "a time such as 30s, 10m or a size such as 500MB expected"
        raise argparse.ArgumentTypeError(f"'{text}' found, {expected}") from None


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} found, 0 to 1 expected")
    return value


def note(text: str) -> None:
    """A line on stderr, beside the results on stdout."""
    print(text, file=sys.stderr)
