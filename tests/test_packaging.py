"""The sdist is the repository, the wheel is the package: both are built, from nothing but the files that are kept."""

import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

pytest.importorskip("build")

ROOT = Path(__file__).parents[1]
# Beside what is in the repository: what the build itself writes.
GENERATED = {"PKG-INFO", "setup.cfg"}


def kept_files() -> list[PurePosixPath]:
    """The files of the repository, those not yet committed included; of an unpacked sdist all that are there."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
        found = [PurePosixPath(name) for name in names if name and (ROOT / name).is_file()]
    else:
        found = [PurePosixPath(path.relative_to(ROOT).as_posix()) for path in ROOT.rglob("*") if path.is_file()]
    return [
        path
        for path in found
        if not any(part.startswith(".") or part in ("__pycache__", "build", "dist") for part in path.parts)
        and not any(part.endswith(".egg-info") for part in path.parts)
        and path.name not in GENERATED
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[set[str], set[str], Path]:
    """(names in the sdist, names in the wheel, the wheel); the wheel is made from the unpacked sdist."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for path in kept_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=output)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in (m.name for m in archive.getmembers() if m.isfile())}
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    return inside, packed, wheel


def test_the_sdist_is_the_repository(built):
    sdist, _, _ = built
    kept = {str(path) for path in kept_files()}
    assert {"README.md", "Makefile", "constraints.txt", "tests/test_packaging.py", "examples/demo.py"} <= kept
    assert sorted(kept - sdist) == []
    extra = {name for name in sdist - kept if not name.startswith("l2g.egg-info/")}
    assert extra <= GENERATED


def test_the_wheel_is_the_package_and_nothing_else(built):
    _, wheel, _ = built
    package = {str(path) for path in kept_files() if path.parts[0] == "l2g"}
    configs = {f"l2g/training/configs/{name}.yaml" for name in ("synthetic_tiny", "synthetic_tiny_panoptic")}
    weights = {f"l2g/weights/{name}.safetensors" for name in ("l2g_tiny", "l2g_tiny_panoptic")}
    weights.add("l2g/weights/SHA256SUMS")
    assert {"l2g/py.typed", *configs, *weights} <= package
    assert {name for name in wheel if ".dist-info/" not in name} == package


def test_the_wheel_says_what_it_is(built):
    _, names, path = built
    with zipfile.ZipFile(path) as archive:
        (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        licences = {name.rpartition("/")[2] for name in names if name.startswith(f"{folder}/licenses/")}
        scripts = configparser.ConfigParser()
        if f"{folder}/entry_points.txt" in names:
            scripts.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    assert "License-Expression: Apache-2.0" in metadata
    assert (ROOT / "README.md").read_text(encoding="utf-8").strip() in metadata
    assert {file.name for file in ROOT.glob("LICENSE*")} <= licences
    for target in (target for section in scripts.values() for target in section.values()):
        module = target.partition(":")[0].replace(".", "/")
        assert {f"{module}.py", f"{module}/__init__.py"} & names


def test_a_program_that_uses_the_wheel_is_type_checked(built, tmp_path):
    """PEP 561: the marker lies in the wheel, and a checker that sees nothing else finds the types."""
    pytest.importorskip("mypy")
    _, _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "use.py").write_text(
        "from l2g.contract import TensorSpec\nspec = TensorSpec('frames', 'uint8', ('B', 3))\nreveal_type(spec.name)\n"
        "TensorSpec(3, 'uint8', ())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", "--cache-dir", str(tmp_path / "cache"), "use.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert 'Revealed type is "str"' in done.stdout or 'Revealed type is "builtins.str"' in done.stdout, done.stdout
    assert 'Argument 1 to "TensorSpec" has incompatible type "int"; expected "str"' in done.stdout
    assert "Found 1 error" in done.stdout
