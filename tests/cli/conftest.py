import shutil
import subprocess
import sys

import pytest

from tests.cli.places import CHECKOUT, Place


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The folder that the wheel of this checkout is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(CHECKOUT / "l2g", source / "l2g", ignore=shutil.ignore_patterns("__pycache__"))
    for path in CHECKOUT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=300)
    (built,) = folder.glob("l2g-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(built)], check=True, timeout=300
    )
    return folder / "site"


@pytest.fixture(scope="session")
def clone():
    return Place("clone", CHECKOUT, CHECKOUT)


@pytest.fixture(scope="session", params=["clone", "wheel"])
def place(request, clone, tmp_path_factory):
    if request.param == "clone":
        return clone
    return Place("wheel", request.getfixturevalue("wheel"), tmp_path_factory.mktemp("elsewhere"))
