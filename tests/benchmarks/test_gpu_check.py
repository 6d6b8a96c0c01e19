"""The script for a machine without a network: wheels beside what is there, and this clone's l2g."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.sh"


def call(*words, cwd, **environment):
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"PYTHON": sys.executable, "TMPDIR": str(cwd), **environment}
    return subprocess.run([SCRIPT, *map(str, words)], cwd=cwd, env=variables, capture_output=True, text=True)


def test_wheels_lie_beside_what_is_there_and_are_gone_afterwards(tmp_path):
    """A wheel whose module says that it was found, in the place of the check."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "text = 'carried along'\n")
        wheel.writestr("carried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr("carried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("carried-1.0.dist-info/RECORD", "")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = pip ] && exec {sys.executable} "$@"\n'
        f'exec {sys.executable} -c "import carried, l2g; print(carried.text, l2g.__file__)"\n'
    )
    python.chmod(0o755)
    done = call("out", wheels, "--quick", cwd=tmp_path, PYTHON=str(python))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["carried", "along", str(SCRIPT.parents[1] / "l2g" / "__init__.py")]
    assert {path.name for path in tmp_path.iterdir()} == {"wheels", "python"}


def test_options_and_exit_code_are_those_of_the_command(tmp_path):
    done = call("out", "-", "--compare", "gone.json", "gone.json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: gone.json: cannot be read")


@pytest.mark.parametrize(("words", "text"), [(["out"], "OUTPUT WHEELS"), (["out", "gone"], "gone: no such folder")])
def test_what_is_missing_is_said(words, text, tmp_path):
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert text in done.stderr
