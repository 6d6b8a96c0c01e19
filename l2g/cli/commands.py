"""The table of commands: a new one is a line here and a module with `add_arguments(parser)` and `run(options)`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command of `l2g`. Nothing of it is imported before it is asked for.

    name: its words, as in "data check". module: offers `add_arguments(parser)` and `run(options) -> exit code`; its
    docstring is the help. help: one line of the list. group: heading in the list. extra: of the package, whose
    libraries it needs. stopped: what Ctrl-C leaves behind, for the message.
    """

    name: str
    module: str
    help: str
    group: str
    extra: str = ""
    stopped: str = "stopped"


_MAKE, _RUN, _LEARN, _HELP = "Make and judge artifacts", "Run and compare", "Data, training and metrics", "Help"
_NOTHING = "stopped; nothing was written"

COMMANDS = (
    Command("export", "l2g.cli.making.export", "a checkpoint to a verified ONNX file", _MAKE, "export", _NOTHING),
    Command("quantize", "l2g.cli.making.quantize", "a checkpoint to an INT8 ONNX file within an AP budget", _MAKE,
            "int8", "interrupted; the same command goes on from here"),
    Command("build", "l2g.cli.making.build", "an ONNX file to an engine of TensorRT or TensorRT-RTX", _MAKE, "export",
            _NOTHING),
    Command("verify", "l2g.cli.making.verify", "is an engine the graph it was built from?", _MAKE, "export"),
    Command("inspect", "l2g.cli.making.inspect", "what is in an ONNX file", _MAKE, "export"),
    Command("doctor", "l2g.cli.making.doctor", "what this machine has, or whether an engine can be built from a file",
            _MAKE, "export"),
    Command("triton", "l2g.cli.making.triton", "graphs and engines to a model repository of Triton", _MAKE, "export",
            _NOTHING),
    Command("run", "l2g.cli.running.run", "masks and tracks of a video", _RUN, "eager",
            "interrupted before the first frame"),
    Command("batch", "l2g.cli.running.batch", "masks and tracks of many videos, on many cores or machines", _RUN,
            "batch", "interrupted before the first video"),
    Command("models", "l2g.cli.running.models", "public checkpoints that work, and what was published of them", _RUN),
    Command("demo", "l2g.cli.running.demo", "the shipped models on a clip each, and their scores", _RUN, "eager"),
    Command("evaluate", "l2g.cli.running.evaluate", "AP of a model on a data set", _RUN, "eager"),
    Command("parity", "l2g.cli.running.parity", "is an artifact the model it was made from? over whole videos", _RUN,
            "eager"),
    Command("bench", "l2g.cli.running.bench", "how fast models are on this machine, and what they are worth", _RUN,
            "eager"),
    Command("gpu-check", "l2g.cli.running.gpu_check", "everything on a GPU in one call: right? how fast?",
            _RUN, "export", "interrupted; the same command goes on from here"),
    Command("train", "l2g.cli.learning.train", "train a model from a config", _LEARN, "train",
            "stopped; the same command goes on"),
    Command("data check", "l2g.cli.learning.data_check", "what is wrong with a data set", _LEARN),
    Command("data convert", "l2g.cli.learning.data_convert", "a data set into another tool's format", _LEARN,
            stopped=_NOTHING),
    Command("data draw", "l2g.cli.learning.data_draw", "write synthetic video with exact annotation", _LEARN),
    Command("metrics vis-ap", "l2g.cli.learning.vis_ap", "AP and AR of YouTube-VIS and OVIS results", _LEARN),
    Command("metrics vpq", "l2g.cli.learning.vpq", "video panoptic quality of VIPSeg results", _LEARN),
    Command("metrics stq", "l2g.cli.learning.stq", "segmentation and tracking quality of VIPSeg results", _LEARN),
    Command("completion", "l2g.cli.completion", "words for the shell's Tab key", _HELP),
)  # fmt: skip

BY_NAME = {command.name: command for command in COMMANDS}
# The first words that need a second one: "data", "metrics".
FAMILIES = tuple(dict.fromkeys(name.split()[0] for name in BY_NAME if " " in name))
