"""Print a script that completes l2g's commands and options at the shell's Tab key.

    bash:  source <(l2g completion bash)
    zsh:   source <(l2g completion zsh)
    fish:  l2g completion fish | source

Put that line into the shell's start-up file to have it always.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from l2g.cli.commands import COMMANDS, FAMILIES, Command
from l2g.cli.entry import main_of, parser_of

SHELLS = ("bash", "zsh", "fish")

# The words so far decide: the command is one word, or two after "data" and "metrics".
_BASH = """_l2g() {
  local words="${COMP_WORDS[1]}" current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" known=""
  case "$words" in %(families)s) [ "$COMP_CWORD" -gt 2 ] && words="$words ${COMP_WORDS[2]}" ;; esac
  [ "$COMP_CWORD" -eq 1 ] && words=""
  case "$words $previous" in
%(choices)s
    *) case "$words" in
%(options)s
    esac ;;
  esac
  COMPREPLY=( $(compgen -W "$known" -- "$current") )
}
complete -o default -F _l2g l2g"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def run(options: argparse.Namespace) -> int:
    print(fish() if options.shell == "fish" else bash(zsh=options.shell == "zsh"))
    return 0


def bash(zsh: bool = False) -> str:
    choices, options = [], [f'      "") known="{" ".join(_first_words())} --help --version" ;;']
    for family in FAMILIES:
        options.append(f'      "{family}") known="{" ".join(_second_words(family))} --help" ;;')
    for command, actions in _actions():
        names = [name for action in actions for name in action.option_strings if name.startswith("--")]
        words = names + [str(choice) for action in actions if not action.option_strings for choice in _choices(action)]
        options.append(f'      "{command.name}") known="{" ".join(words)}" ;;')
        for action in actions:
            if action.option_strings and _choices(action):
                pattern = f'"{command.name} {action.option_strings[-1]}"'
                choices.append(f'    {pattern}) known="{" ".join(map(str, _choices(action)))}" ;;')
    script = _BASH % {"families": "|".join(FAMILIES), "choices": "\n".join(choices), "options": "\n".join(options)}
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if zsh else script


def fish() -> str:
    lines = [f"complete -c l2g -f -n __fish_use_subcommand -l {option}" for option in ("help", "version")]
    help_of = {command.name: command.help for command in COMMANDS}
    for word in _first_words():
        lines.append(f"complete -c l2g -f -n __fish_use_subcommand -a {word} -d {_quoted(help_of.get(word, ''))}")
    for family in FAMILIES:
        words = _second_words(family)
        condition = f"__fish_seen_subcommand_from {family}; and not __fish_seen_subcommand_from {' '.join(words)}"
        lines += [f"complete -c l2g -f -n {_quoted(condition)} -a {word}" for word in words]
    for command, actions in _actions():
        condition = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.name.split())
        for action in actions:
            for name in action.option_strings:
                if not name.startswith("--"):
                    continue
                line = f"complete -c l2g -n {_quoted(condition)} -l {name.lstrip('-')}"
                if choices := _choices(action):
                    line += f" -x -a {_quoted(' '.join(map(str, choices)))}"
                lines.append(f"{line} -d {_quoted((action.help or '').split('; ')[0])}")
    return "\n".join(lines)


def _actions() -> Iterator[tuple[Command, list[argparse.Action]]]:
    """Every command with its arguments."""
    for command in COMMANDS:
        yield command, parser_of(command)._actions


def _choices(action: argparse.Action) -> list[Any]:
    return list(action.choices or ())


def _first_words() -> list[str]:
    return list(dict.fromkeys(command.name.split()[0] for command in COMMANDS))


def _second_words(family: str) -> list[str]:
    return [command.name.split()[1] for command in COMMANDS if command.name.startswith(f"{family} ")]


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


main = main_of("completion")
