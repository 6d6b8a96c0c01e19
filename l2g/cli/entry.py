"""How a command starts and ends: its parser, and in one place what becomes of every error.

Exit codes: 0 done; 1 what the command's help says; 2 bad input or a missing library; 70 a bug in l2g; 130 Ctrl-C or
SIGTERM.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Protocol

from l2g.cli.arguments import Parser
from l2g.cli.commands import BY_NAME, Command
from l2g.cli.interruption import end, interruptible, leave
from l2g.errors import L2GError

BAD_INPUT, BUG, INTERRUPTED = 2, 70, 130


class Main(Protocol):
    """What a door calls: the exit code of a command; without arguments it reads the process's."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def main_of(name: str) -> Main:
    """The `main(argv=None)` of a command, for doors and tests; without `argv` it reads the process's arguments."""

    def main(argv: Sequence[str] | None = None) -> int:
        return run_command(BY_NAME[name], sys.argv[1:] if argv is None else argv, own=argv is None)

    return main


def run_command(command: Command, argv: Sequence[str], own: bool = False) -> int:
    """Parse `argv`, run the command, return the exit code. SystemExit for --help and for arguments that do not fit.

    own: the process is there for this command alone, and ends with it where it is interrupted.
    """
    # A start makes many objects and no garbage: at the usual threshold they are looked through again and again, 4 % of
    # the CPU time to a first frame.
    gc.set_threshold(50_000, 20, 20)
    # NumPy's OpenBLAS starts its threads as it is imported, and those spin for 2^26 cycles before they sleep: a third
    # of the CPU time to a first frame. 2^10 cycles are enough between two products.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "10")
    if own:
        warnings.formatwarning = in_one_line

    def work() -> int:
        code: int = module_of(command).run(parser_of(command).parse_args(list(argv)))
        return code

    code = guarded(work, command, own)
    if own and code == INTERRUPTED:
        end(code)
    return code


def parser_of(command: Command) -> Parser:
    """The command's own parser."""
    module = module_of(command)
    parser = Parser(prog=f"l2g {command.name}", description=module.__doc__)
    module.add_arguments(parser)
    return parser


def module_of(command: Command) -> ModuleType:
    return importlib.import_module(command.module)


def guarded(work: Callable[[], int], command: Command, own: bool = False) -> int:
    """What `work` returns, or the exit code of the error that ended it, told in one line on stderr.

    L2G_DEBUG=1 in the environment adds the traceback of whatever it was.
    """
    try:
        with interruptible(partial(leave, command.stopped, INTERRUPTED) if own else None):
            return work()
    except L2GError as error:
        return _told(f"error: {error}", BAD_INPUT)
    except KeyboardInterrupt:
        return _told(command.stopped, INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except ModuleNotFoundError as error:
        if (error.name or "l2g").split(".")[0] == "l2g":
            return _told(_bug(error), BUG)
        package = f"l2g[{command.extra}]" if command.extra else "l2g"
        return _told(f"error: '{error.name}' is not installed; pip install '{package}'", BAD_INPUT)
    except MemoryError:
        return _told("error: this process got no more memory; end other programs, or take fewer streams", BAD_INPUT)
    except OSError as error:
        return _told(f"error: {error}; check the path, its permissions and the space on the disk", BAD_INPUT)
    except Exception as error:
        return _told(_bug(error), BUG)


def in_one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as a user reads it: what it says, without the line of source that said it."""
    return f"warning: {message}\n"


def _bug(error: Exception) -> str:
    import l2g

    return (
        f"error: l2g {l2g.__version__} failed with {type(error).__name__}: {error}; this is a bug: please report it to "
        "the project, with what the same command prints when L2G_DEBUG=1 is set"
    )


def _told(text: str, code: int) -> int:
    if os.environ.get("L2G_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    print(text, file=sys.stderr)
    return code
