"""The Tab key: bash asks the script that `l2g completion bash` prints."""

import shutil
import subprocess

import pytest

from l2g.cli.commands import COMMANDS
from l2g.cli.completion import bash, fish, main
from l2g.cli.entry import parser_of


def completed(*words):
    """What bash offers for the last of `words`."""
    line = " ".join(f"'{word}'" for word in ("l2g", *words))
    code = f"{bash()}\nCOMP_WORDS=({line}); COMP_CWORD={len(words)}; _l2g; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_words_and_options():
    assert completed("ex") == ["export"]
    assert completed("data", "") == ["check", "convert", "draw", "--help"]
    assert completed("metrics", "v") == ["vis-ap", "vpq"]
    assert completed("data", "draw", "--f") == ["--frames", "--format"]
    assert completed("export", "--lowering", "g") == ["gather", "gridsample"]
    assert completed("export", "--ckpt", "x", "--lower") == ["--lowering"]
    assert completed("completion", "f") == ["fish"]
    assert completed("nothing", "--") == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_option_is_offered(command):
    options = {name for action in parser_of(command)._actions for name in action.option_strings if name[:2] == "--"}
    assert set(completed(*command.name.split(), "--")) == options
    lines = [
        line for line in fish().splitlines() if all(f"seen_subcommand_from {w}" in line for w in command.name.split())
    ]
    assert {f"--{line.split(' -l ')[1].split()[0]}" for line in lines if " -l " in line} == options


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_a_script_that_the_shell_takes(shell, capsys):
    assert main([shell]) == 0
    script = capsys.readouterr().out
    assert "export" in script
    # zsh and fish are not everywhere; bash reads zsh's script too, which is its own under a first line.
    reader = shell if shutil.which(shell) else "bash" if shell == "zsh" else None
    if reader:
        done = subprocess.run([reader, "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
