"""`l2g COMMAND ...`, also as `python -m l2g`: finds the command, and imports nothing for the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from l2g.cli.arguments import did_you_mean
from l2g.cli.commands import BY_NAME, COMMANDS, FAMILIES, Command


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        print(overview(), file=sys.stderr)
        return 2
    if words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        from l2g.cli.libraries import versions

        print(versions())
        return 0
    return _dispatch(words, own=argv is None)


def _dispatch(words: list[str], own: bool) -> int:
    length = 2 if words[0] in FAMILIES else 1
    command = BY_NAME.get(" ".join(words[:length]))
    if command is not None:
        from l2g.cli.entry import run_command

        return run_command(command, words[length:], own)
    if length == 2 and words[1:2] in (["-h"], ["--help"]):
        print(overview(words[0]))
        return 0
    print(f"error: {_unknown(words)}", file=sys.stderr)
    return 2


def _unknown(words: list[str]) -> str:
    family = words[0] if words[0] in FAMILIES else ""
    if not family:
        known = [*dict.fromkeys(name.split()[0] for name in BY_NAME), "--help", "--version"]
        return f"'{words[0]}' is no command of l2g{did_you_mean(words[0], known)}; see l2g --help"
    known = [name.split()[1] for name in BY_NAME if name.startswith(f"{family} ")]
    if len(words) == 1:
        return f"l2g {family} needs one more word: {', '.join(known)}; see l2g {family} --help"
    return f"'{words[1]}' is no command of l2g {family}{did_you_mean(words[1], known)}; see l2g {family} --help"


def overview(family: str = "") -> str:
    """The list of commands by group; with `family` only those that begin with this word."""
    shown = [command for command in COMMANDS if not family or command.name.startswith(f"{family} ")]
    width = max(len(command.name) for command in shown) + 2
    lines = [
        f"usage: l2g {family or 'COMMAND'} ...",
        "",
        "Local2Global video instance segmentation, from a PyTorch checkpoint to a verified engine on a video stream.",
    ]
    for group in dict.fromkeys(command.group for command in shown):
        lines += ["", f"{group}:", *(_line(command, width) for command in shown if command.group == group)]
    first = shown[0].name
    lines += ["", f"l2g COMMAND --help, such as l2g {first} --help, lists a command's options; l2g --version the",
              "versions of the libraries; l2g doctor says what this machine has.", "",
              "Exit codes: 0 done; 1 what the command's help says; 2 bad input or a missing library; 70 a bug in l2g",
              "(L2G_DEBUG=1 shows where); 130 Ctrl-C or SIGTERM."]  # fmt: skip
    return "\n".join(lines)


def _line(command: Command, width: int) -> str:
    return f"  {command.name:<{width}}{command.help}"


if __name__ == "__main__":
    sys.exit(main())
