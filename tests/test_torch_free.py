"""An edge device has no PyTorch: what runs there imports without it, and says so where a model needs it."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.no_torch import BLOCK

CHECKOUT = Path(__file__).parents[1]


# The backends that are PyTorch; the room of the second itself, without its modules, is imported by nobody else.
NEED_TORCH = ("l2g.runtime.backends.eager", "l2g.runtime.backends.compiled.")


def _modules(package, without=()):
    folder = CHECKOUT / package.replace(".", "/")
    names = [module.name for module in pkgutil.walk_packages([str(folder)], f"{package}.")]
    return [package, *(name for name in sorted(names) if not name.startswith(without))]


MODULES = [
    "l2g",
    "l2g.contract",
    "l2g.errors",
    "l2g.artifacts.sidecar",
    "l2g.tracker",
    "l2g.api",
    *_modules("l2g.runtime", without=NEED_TORCH),
    *_modules("l2g.metrics"),
    *_modules("l2g.serving", without=("l2g.serving.triton_model",)),
]


def _python(code):
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=120, cwd="/")


@pytest.mark.parametrize("group", ["l2g", "l2g.runtime", "l2g.metrics"])
def test_imports_without_torch(group):
    names = [name for name in MODULES if name == group or name.startswith(f"{group}.")]
    assert len(names) >= 2
    lines = "\n".join(f"importlib.import_module({name!r})" for name in names)
    done = _python(lines + "\nassert not any(name.split('.')[0] == 'torch' for name in sys.modules)\nprint('done')")
    assert (done.stdout.strip(), done.returncode) == ("done", 0), done.stderr


def test_the_block_works():
    """The test above means something: the eager backend does not import under it."""
    done = _python("import l2g.runtime.backends.eager")
    assert done.returncode != 0
    assert "No module named 'torch'" in done.stderr


def test_a_checkpoint_without_torch_is_one_clear_error(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"anything")
    done = _python(
        "from l2g.errors import L2GError\nfrom l2g.runtime.backends.open import open_backend\n"
        f"try:\n    open_backend({str(tmp_path / 'model.pth')!r})\nexcept L2GError as error:\n    print(error)"
    )
    assert "runs on PyTorch, but 'torch' is not installed" in done.stdout, done.stderr
    assert "pip install 'l2g[eager]'" in done.stdout


def test_no_module_of_the_runtime_hides_a_library():
    """`python runtime/run_video.py` puts that folder first on sys.path."""
    libraries = {"numpy", "cv2", "av", "pycocotools", "scipy", "tqdm", "torch", "onnx", "onnxruntime", "tensorrt"}
    names = {module.name for module in pkgutil.iter_modules([str(CHECKOUT / "runtime")])}
    assert not names & (set(sys.stdlib_module_names) | libraries)
