"""The README's commands do what it says: every block marked `<!-- tested -->` is run; those of docs/ likewise.

What follows the colon in `<!-- tested: ... -->` is appended to the command, to make it small enough for a test. The
blocks of a page in docs/ follow each other in one folder, as a reader would run them.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"<!-- tested:?(?P<extra>[^>]*) -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)
PAGES = {path: [m.groupdict() for m in BLOCK.finditer(path.read_text())] for path in sorted(ROOT.glob("docs/*.md"))}
PAGES = {path: blocks for path, blocks in PAGES.items() if blocks}
BLOCKS = [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text())]
# Commands, as arguments of this interpreter.
COMMANDS = {"python": [], "polygraphy": ["-c", "import sys; from polygraphy.tools import main; sys.exit(main())"]}


def run(command, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "L2G_CACHE": str(tmp_path / "cache")}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def test_the_readme_has_tested_blocks():
    assert len(BLOCKS) >= 5
    assert {block["language"] for block in BLOCKS} == {"bash", "python"}


@pytest.mark.parametrize("block", BLOCKS, ids=[block["code"].split("\n")[0][:60] for block in BLOCKS])
def test_block(block, tmp_path):
    run_block(block, tmp_path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page(path, tmp_path):
    if "polygraphy" in path.read_text():
        pytest.importorskip("polygraphy")
    for block in PAGES[path]:
        run_block(block, tmp_path)


def test_the_pages_that_have_tested_blocks():
    assert "debugging.md" in {path.name for path in PAGES}


def run_block(block, tmp_path):
    if block["language"] == "python":
        run([sys.executable, "-c", block["code"]], tmp_path)
        return
    for line in block["code"].strip().splitlines():
        words = [*shlex.split(line, comments=True), *shlex.split(block["extra"])]
        words = [str(tmp_path / word) if word.startswith("outputs/") else word for word in words]
        assert words[0] in COMMANDS
        (tmp_path / "outputs").mkdir(exist_ok=True)
        run([sys.executable, *COMMANDS[words[0]], *words[1:]], tmp_path)
        written = [word for word in words if word.startswith(str(tmp_path))]
        assert all(Path(path).exists() for path in written)
