"""The front door: what it lists, how quickly, what it makes of mistakes, and that every option explains itself."""

import argparse
import inspect
import re
import resource
import subprocess
import sys

import pytest

import l2g
from l2g.cli.commands import COMMANDS
from l2g.cli.entry import parser_of
from l2g.cli.learning import data_draw, vpq
from l2g.cli.libraries import LIBRARIES, version_of
from l2g.cli.main import main
from l2g.cli.running import evaluate

HEAVY = ("torch", "numpy", "cv2", "onnx", "onnxruntime", "av", "scipy", "tqdm", "yaml")


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_command_in_its_group(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        group = text.split(f"\n{command.group}:\n")[1].split("\n\n")[0]
        assert re.search(rf"^  {command.name} +{re.escape(command.help)}$", group, re.MULTILINE)
    assert main([]) == 2
    assert "usage: l2g" in capsys.readouterr().err


def test_help_is_quick():
    def seconds():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = seconds()
    subprocess.run([sys.executable, "-m", "l2g", "--help"], capture_output=True, check=True, timeout=60)
    assert seconds() - before < 0.3


def test_no_help_imports_a_library():
    """Neither the list nor the options of any command."""
    code = (
        "import sys\nfrom l2g.cli.main import main\nfrom l2g.cli.commands import COMMANDS\n"
        "from l2g.cli.entry import parser_of\n"
        "main(['--help'])\n"
        "for command in COMMANDS: parser_of(command).format_help()\n"
        f"print('imported', [name for name in {HEAVY} if name in sys.modules])"
    )
    assert python(code).endswith("imported []\n")


def test_a_run_of_a_file_starts_without_what_it_does_not_need(tmp_path):
    """Neither cameras nor pictures are loaded, and the threads of NumPy's OpenBLAS are told not to spin."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    code = (
        "import os, sys\n"
        "class Look:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numpy': print('limit', os.environ.get('OPENBLAS_THREAD_TIMEOUT'))\n"
        "sys.meta_path.insert(0, Look())\n"
        "from l2g.cli.main import main\n"
        f"code = main(['run', '--model', 'l2g_tiny', '--input', {str(broken)!r}, '--output', {str(tmp_path)!r}])\n"
        "prefix = 'l2g.runtime.video.'\n"
        "rooms = ('live.source', 'live.address', 'live.cameras', 'sources.pictures', 'sources.picture_file')\n"
        "print(code, prefix + 'job' in sys.modules, [name for name in rooms if prefix + name in sys.modules])\n"
    )
    assert python(code) == "limit 10\n2 True []\n"


def test_version(capsys):
    assert main(["--version"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["l2g"] == l2g.__version__
    assert list(rows) == ["l2g", *LIBRARIES]
    import numpy as np

    assert rows["numpy"] == np.__version__
    for name, distributions in LIBRARIES.items():
        if version_of(*distributions) is None:
            assert rows[name] == "not installed"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["exprot"], "'exprot' is no command of l2g; did you mean 'export'?"),
        (["--verison"], "did you mean '--version'?"),
        (["xyzzy"], "'xyzzy' is no command of l2g; see l2g --help"),
        (["data", "chek"], "'chek' is no command of l2g data; did you mean 'check'?"),
        (["metrics"], "l2g metrics needs one more word: vis-ap, vpq, stq"),
    ],
)
def test_unknown_words(words, text, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {text}" if text[0] in "'l" else "error: ")
    assert text in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["export", "--ckpt", "x", "--ouput=y"], "unknown option '--ouput'; did you mean '--output'?"),
        (["export", "--ckpt", "x", "--output", "y", "--lowering", "gathr"], "did you mean 'gather'?"),
        (["inspect", "a.onnx", "b.onnx"], "unknown argument 'b.onnx'; see l2g inspect --help"),
        (["run", "--model", "m"], "the following arguments are required: --input, --output; see l2g run --help"),
        (["build", "--onnx", "x", "--output", "y", "--min-share", "2"], "2 found, 0 to 1 expected"),
        (["run", "--model", "m", "--input", "v", "--output", "o", "--size", "640"], "'640' found, HxW expected"),
    ],
)
def test_wrong_options_are_one_line(words, text, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1


def test_abbreviations_that_argparse_takes_still_work():
    export = next(command for command in COMMANDS if command.name == "export")
    assert parser_of(export).parse_args(["--ck", "x", "--output", "y"]).ckpt == "x"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_has_help_and_a_default_or_is_required(command):
    parser = parser_of(command)
    assert parser.prog == f"l2g {command.name}"
    assert "Exit code" in parser.description or command.name == "completion"
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        name = (action.option_strings or [action.dest])[-1]
        text = parser._get_formatter()._expand_help(action)
        assert len(text) > 5, name
        needed = action.required and action.nargs != "*"
        assert text.endswith("(required)") == needed, f"{name}: {text}"
        assert ("(default: " in text) != needed, f"{name}: {text}"
        # One form: no "default 5" or "(default None)".
        assert not re.search(r"\(default (?!:)|default: None|default: \[|default: False", text), f"{name}: {text}"
        if action.default not in (None, [], False) and not needed:
            shown = action.default if not isinstance(action.default, tuple) else " ".join(map(str, action.default))
            assert f"(default: {shown})" in text, f"{name}: {text}"


def test_defaults_are_those_of_the_library():
    """They are written out in the commands, which must not import numpy for a list of options."""
    from l2g.artifacts.records import MIN_SHARE
    from l2g.calibration.job import QuantizeOptions
    from l2g.calibration.recording import RecordingOptions
    from l2g.data.synthetic.video import DEFAULT_SIZE, SPLITS
    from l2g.evaluation.run import ScoringOptions
    from l2g.export.exporter import ExportOptions
    from l2g.export.precision.fp32_blocks import Budget
    from l2g.metrics.vpq import WINDOWS
    from l2g.runtime.video.overlay import OverlayStyle

    def default(name, option):
        command = next(command for command in COMMANDS if command.name == name)
        return next(action.default for action in parser_of(command)._actions if option in action.option_strings)

    assert sorted(SPLITS) == list(data_draw.SPLITS)
    assert tuple(DEFAULT_SIZE) == data_draw.SIZE
    assert tuple(WINDOWS) == default("metrics vpq", "--windows")
    assert default("build", "--min-share") == default("doctor", "--min-share") == MIN_SHARE
    assert default("evaluate", "--top-k") == ScoringOptions.top_k
    assert (default("run", "--opacity"), default("run", "--trails")) == (OverlayStyle.opacity, OverlayStyle.trails)
    budget = Budget()
    found = [default("export", name) for name in ("--ap-budget", "--min-identity", "--min-iou")]
    assert found == [budget.ap, budget.identity, budget.mask_iou]
    options = ExportOptions()
    for name in ("max_streams", "lowering", "target", "opset", "plugin_version", "precision"):
        assert default("export", f"--{name.replace('_', '-')}") == getattr(options, name)
    options = QuantizeOptions()
    for name in ("layout", "scales", "method", "percentile", "search_videos", "max_trials", "probe_frames", "streams"):
        assert default("quantize", f"--{name.replace('_', '-')}") == getattr(options, name)
    recording = RecordingOptions()
    found = tuple(default("quantize", f"--{name}") for name in ("videos", "frames", "span"))
    assert found == (recording.videos, recording.frames, recording.span)


def test_commands_are_modules_of_one_shape():
    for module in (evaluate, vpq, data_draw):
        assert list(inspect.signature(module.add_arguments).parameters) == ["parser"]
        assert list(inspect.signature(module.run).parameters) == ["options"]
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
