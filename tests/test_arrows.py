"""Who may import whom, read from the code: rooms stand in one order, and every import goes down."""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
# The rooms of l2g from the ground up. A room imports those that stand before it, so that there is no circle.
ROOMS = (
    *("errors", "progress", "records", "files", "provenance", "config", "untrusted"),
    *("contract", "artifacts", "metrics", "public"),
    *("modeling", "checkpoint", "runtime", "tracker"),
    *("batch", "serving", "data", "demo", "evaluation", "export", "engines"),
    *("calibration", "gpucheck", "training", "api", "cli"),
)
# What an edge device has, and what these rooms may not need there. That they need none of the rooms above, the order
# says: neither l2g.data nor what stands on it.
EDGE = {
    "errors",
    "records",
    "files",
    "provenance",
    "untrusted",
    "contract",
    "artifacts",
    "metrics",
    "public",
    "runtime",
    "tracker",
    "serving",
}
HEAVY = {"torch", "torchvision", "safetensors", "onnx_ir", "l2g.config", "l2g.modeling", "l2g.checkpoint"}
# The reference backend is the PyTorch model, and so is the compiled one; to open a checkpoint leads there.
EXCEPTIONS = {
    "l2g.runtime.backends.eager": {"torch", "l2g.modeling"},
    **{
        f"l2g.runtime.backends.compiled.{module}": {"torch", "l2g.modeling"}
        for module in ("attention", "audit", "backend", "kernel", "launch", "prepare", "program", "trace")
    },
    "l2g.runtime.backends.open": {"l2g.checkpoint"},
    "l2g.public.table": {"torch"},
}
MOST_LINES, MOST_FILES = 500, 12


def sources():
    """Source by module name, but for the package's own `__init__`: the public face leads everywhere."""
    root = CHECKOUT / "l2g"
    return {
        ".".join(file.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"): file.read_text("utf-8")
        for file in root.rglob("*.py")
        if file != root / "__init__.py"
    }


def imports(source, typing=True):
    """All that is imported, in functions too, and by name through importlib.

    What runs only where the module is called as a command is a door of the command line and may lead up; so is a module
    that holds nothing else. typing: also what only a type checker imports.
    """
    tree = ast.parse(source)
    rest = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
    called = len(rest) < len(tree.body)
    if called and all(isinstance(node, ast.Import | ast.ImportFrom | ast.Expr) for node in rest):
        return
    if not typing:
        rest = [node for node in rest if not isinstance(node, ast.If) or "TYPE_CHECKING" not in ast.unparse(node.test)]
    for node in (inner for statement in rest for inner in ast.walk(statement)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where they lead"
            package = (CHECKOUT / node.module.replace(".", "/") / "__init__.py").is_file()
            yield from (f"{node.module}.{alias.name}" if package else node.module for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def room(module):
    """None for another library, and for the version, which is anybody's."""
    parts = module.split(".")
    return None if parts[0] != "l2g" or parts[1:] in ([], ["__version__"]) else parts[1]


def upward(modules):
    """Imports that do not go down, as "module -> module"; a room that has no place in the order raises ValueError."""
    pairs = {(name, target) for name, source in modules.items() for target in imports(source) if room(target)}
    return sorted(
        f"{name} -> {target}"
        for name, target in pairs
        if room(name) != room(target) and ROOMS.index(room(target)) > ROOMS.index(room(name))
    )


def heavy(modules):
    """Imports of the edge's rooms that an edge device does not have, but for the exceptions."""
    return sorted(
        f"{name} -> {target}"
        for name, source in modules.items()
        for target in set(imports(source))
        if room(name) in EDGE
        and any(f"{target}.".startswith(f"{each}.") for each in HEAVY - EXCEPTIONS.get(name, set()))
    )


def test_every_import_goes_down():
    assert upward(sources()) == []


def test_the_edge_needs_neither_torch_nor_the_model():
    assert heavy(sources()) == []


def test_no_module_imports_itself_by_a_detour():
    modules = sources()
    pairs = ((name, target) for name, source in modules.items() for target in imports(source, typing=False))
    graph = {name: set() for name in modules}
    for name, target in pairs:
        if target in modules:
            graph[name].add(target)
    assert set(TopologicalSorter(graph).static_order()) == set(modules)  # CycleError names the circle


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("l2g.runtime.session", "from l2g.data.dataset import Video", "l2g.data.dataset"),
        ("l2g.metrics.rle", "def f():\n    import l2g.evaluation.run", "l2g.evaluation.run"),
        ("l2g.export.exporter", "from l2g import cli", "l2g.cli"),
        ("l2g.data.coco", "importlib.import_module('l2g.training.trainer')", "l2g.training.trainer"),
    ],
)
def test_an_import_that_is_turned_round_is_found(module, source, target):
    assert upward({module: source}) == [f"{module} -> {target}"]
    assert upward({target: source.replace(target, module).replace("import cli", "import export")}) == []


def test_only_what_a_command_runs_may_lead_up():
    door = "if __name__ == '__main__':\n    from l2g.cli.main import main\n    main()\n"
    assert upward({"l2g.metrics.rle": "x = 1\n" + door}) == []
    assert upward({"l2g.metrics.rle": "from l2g.cli.main import main\n" + door}) == []
    assert upward({"l2g.metrics.rle": "from l2g.cli.main import main\nx = main\n" + door}) != []


def test_torch_on_the_edge_is_found():
    modules = dict.fromkeys(
        ("l2g.runtime.session", "l2g.runtime.backends.eager"), "def f():\n    from torch.nn import Linear"
    )
    assert heavy(modules) == ["l2g.runtime.session -> torch.nn"]


def test_files_and_rooms_are_small():
    streets = ("l2g", "tests", "benchmarks", "examples", "export", "runtime", "calibration")
    files = [file for street in streets for file in (CHECKOUT / street).rglob("*.py")]
    assert [file for file in files if len(file.read_text("utf-8").splitlines()) > MOST_LINES] == []
    rooms = Counter(file.parent for file in files if CHECKOUT / "l2g" in file.parents and file.stem != "__init__")
    assert [folder for folder, count in rooms.items() if count > MOST_FILES] == []


def test_no_test_imports_another():
    """What two tests share lies in a module of its own beside them."""
    files = {str(file.relative_to(CHECKOUT)): file for file in (CHECKOUT / "tests").rglob("*.py")}
    pairs = {(name, target) for name, file in files.items() for target in imports(file.read_text("utf-8"))}
    assert [pair for pair in pairs if re.match(r"tests\..*\b(test_\w+|conftest)\b", pair[1])] == []
