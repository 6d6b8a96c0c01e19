"""What becomes of every error: one line, one exit code, and a traceback only for who asks for it."""

import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from l2g.cli import entry, interruption
from l2g.cli.arguments import names
from l2g.cli.commands import BY_NAME, Command
from l2g.cli.entry import guarded, main_of, run_command
from l2g.cli.interruption import interruptible
from l2g.errors import DataError, L2GError

pytestmark = pytest.mark.alone

COMMAND = Command("tried", "nowhere", "a command of the tests", "Tests", "int8", "stopped half-way")


def test_a_warning_of_a_command_is_one_line(monkeypatch, capsys):
    def run(_):
        print(warnings.formatwarning("m.onnx: computed in FP32", UserWarning, "backend.py", 108), end="")
        return 0

    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(entry, "interruptible", nullcontext)
    monkeypatch.setattr(entry, "module_of", lambda _: SimpleNamespace(run=run, add_arguments=lambda _: None))
    assert run_command(COMMAND, [], own=True) == 0
    assert capsys.readouterr().out == "warning: m.onnx: computed in FP32\n"


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (L2GError("no such thing; make one"), 2, "error: no such thing; make one"),
        (DataError("broken"), 2, "error: broken"),
        (KeyboardInterrupt(), 130, "stopped half-way"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), 2,
         "error: 'onnx' is not installed; pip install 'l2g[int8]'"),
        (PermissionError(13, "Permission denied", "/a/b"), 2,
         "error: [Errno 13] Permission denied: '/a/b'; check the path, its permissions and the space on the disk"),
        (MemoryError(), 2, "error: this process got no more memory; end other programs, or take fewer streams"),
    ],
)  # fmt: skip
def test_errors_of_the_world_are_one_line(error, code, text, capsys, monkeypatch):
    monkeypatch.delenv("L2G_DEBUG", raising=False)
    assert guarded(failing(error), COMMAND) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"{text}\n")


@pytest.mark.parametrize("error", [KeyError("slots"), ModuleNotFoundError("l2g.gone", name="l2g.gone"), ImportError()])
def test_a_bug_is_said_to_be_one_and_its_traceback_comes_when_asked_for(error, capsys, monkeypatch):
    monkeypatch.delenv("L2G_DEBUG", raising=False)
    assert guarded(failing(error), COMMAND) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"failed with {type(error).__name__}" in told
    assert "please report it" in told
    monkeypatch.setenv("L2G_DEBUG", "1")
    assert guarded(failing(error), COMMAND) == 70
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert "test_entry.py" in told


def test_a_commands_own_code_is_returned():
    assert guarded(lambda: 1, COMMAND) == 1


def test_a_missing_extra_is_named_after_the_command(capsys, monkeypatch):
    """As where the libraries of the export are not installed."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in [name for name in sys.modules if name.startswith(("l2g.export", "l2g.calibration"))]:
        monkeypatch.delitem(sys.modules, name)
    files = ["--ckpt", "x", "--dataset", "y", "--output", "z.onnx"]
    assert main_of("quantize")(files) == 2
    assert capsys.readouterr().err == "error: 'onnx' is not installed; pip install 'l2g[int8]'\n"
    assert main_of("inspect")(["model.onnx"]) == 2
    assert capsys.readouterr().err == "error: 'onnx' is not installed; pip install 'l2g[export]'\n"


def test_sigterm_is_like_ctrl_c_for_every_command(monkeypatch, capsys):
    def run(_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    module = SimpleNamespace(__doc__="", add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(entry, "module_of", lambda command: module)
    for name, command in BY_NAME.items():
        assert run_command(command, []) == 130, name
        assert capsys.readouterr().err == f"{command.stopped}\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("library", 130, "stopped half-way"),
        ("told", 130, "stopped half-way"),
        ("full disk", 2, "error: no room"),
        ("results", 2, "error: no room"),
    ],
)
def test_what_libraries_make_of_an_interrupt_while_they_are_imported(capsys, error, code, said):
    """NumPy's compiled parts say "initialization failed" (ImportError), and a command that a library is missing."""

    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            if error == "results":
                raise L2GError("no room") from None
        try:
            raise OSError("full") if error == "full disk" else ImportError("initialization failed")
        except ImportError:
            if error == "library":
                raise
            raise L2GError("pip install it") from None
        except OSError:
            raise L2GError("no room") from None

    assert guarded(work, COMMAND) == code
    assert capsys.readouterr().err == f"{said}\n"


def test_a_reader_that_has_enough_is_no_error():
    code = "import sys; from l2g.cli.entry import guarded; from l2g.cli.commands import COMMANDS\n" + (
        "sys.exit(guarded(lambda: [print('x' * 1000) for _ in range(10000)] and 0, COMMANDS[0]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 2


# OpenSSL counts for minutes and lets other threads of Python work, as a library that compiles a graph does.
DEAF = """
import hashlib, sys
from l2g.cli import entry, interruption
from l2g.cli.arguments import names
from l2g.files import write_atomically

class module:
    __doc__ = ""
    add_arguments = staticmethod(lambda parser: None)

    @staticmethod
    def run(_):
        with write_atomically(sys.argv[1]) as temporary:
            temporary.write_text("half")
            print("begun", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

entry.module_of = lambda command: module
interruption.PATIENCE_SECONDS = 0.4
sys.argv[2:] = []
entry.run_command(entry.BY_NAME["export"], [], own=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_library_that_hears_no_signal_holds_nobody_up(number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", DEAF, str(tmp_path / "m.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        assert process.stdout.readline() == b"begun\n"
        assert len(list(tmp_path.iterdir())) == 1
        time.sleep(0.1)
        process.send_signal(number)
        started = time.monotonic()
        assert process.wait(timeout=60) == 130
        assert 0.3 < time.monotonic() - started < 5  # of 0.4, where others are at work
        assert process.stderr.read().decode() == f"{BY_NAME['export'].stopped}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_another_handler_hears_is_its_own_affair(capsys, monkeypatch):
    """The trainer ends its iteration, however long that takes; a worker that was forked has signals of its own."""
    called, patience = [], 0.05
    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", patience)
    with interruptible(lambda: called.append("unheard")):
        before = signal.signal(signal.SIGTERM, lambda number, frame: called.append("heard"))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(4 * patience)
        worker = os.fork()
        if not worker:
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
            time.sleep(60)
        signal.signal(signal.SIGTERM, before)
        time.sleep(patience)
        os.kill(worker, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 7
        time.sleep(4 * patience)
    assert called == ["heard"]


def test_a_list_of_names_that_starts_with_a_byte_order_mark(tmp_path):
    """Its first name was another one, in silence."""
    (tmp_path / "names.txt").write_bytes("\ufeffcat\n\n dog \n".encode())
    assert names(str(tmp_path / "names.txt")) == ("cat", "dog")
