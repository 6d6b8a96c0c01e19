"""README and pages do what they say: blocks marked `<!-- tested -->` are run, every `l2g` line parses.

What follows the colon in `<!-- tested: ... -->` is appended to the command, to make it small enough for a test. The
blocks of a page in docs/ follow each other in one folder, as a reader would run them; a block marked
`<!-- file: outputs/NAME -->` is put there as a file.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"<!-- (?P<kind>tested|file):?(?P<extra>[^>]*) -->\n```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL
)
PAPERS = [ROOT / name for name in ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md")]
DOCS = sorted(ROOT.glob("docs/**/*.md"))
PAGES = {path: [m.groupdict() for m in BLOCK.finditer(path.read_text())] for path in DOCS}
PAGES = {path: blocks for path, blocks in PAGES.items() if blocks}
BLOCKS = [match.groupdict() for match in BLOCK.finditer((ROOT / "README.md").read_text())]
# Commands, as arguments of this interpreter.
COMMANDS = {
    "python": [],
    "l2g": ["-m", "l2g"],
    "polygraphy": ["-c", "import sys; from polygraphy.tools import main; sys.exit(main())"],
}


def run(command, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "L2G_CACHE": str(tmp_path / "cache")}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def test_the_readme_has_tested_blocks():
    assert len(BLOCKS) >= 4
    assert {block["language"] for block in BLOCKS} == {"bash", "python"}


@pytest.mark.parametrize("block", BLOCKS, ids=[block["code"].split("\n")[0][:60] for block in BLOCKS])
def test_block(block, tmp_path):
    run_block(block, tmp_path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page(path, tmp_path):
    if any("polygraphy" in block["code"] for block in PAGES[path]):
        pytest.importorskip("polygraphy")
    for block in PAGES[path]:
        run_block(block, tmp_path)


def test_the_pages_that_have_tested_blocks():
    assert {"index.md", "data.md", "train.md", "debug.md", "python.md"} <= {path.name for path in PAGES}


def run_block(block, tmp_path):
    (tmp_path / "outputs").mkdir(exist_ok=True)
    if block["kind"] == "file":
        name = block["extra"].strip()
        assert name.startswith("outputs/")
        (tmp_path / name).write_text(block["code"].replace("outputs/", f"{tmp_path}/outputs/"))
        return
    if block["language"] == "python":
        run([sys.executable, "-c", block["code"]], tmp_path)
        return
    for words in commands(block["code"]):
        words = [*words, *shlex.split(block["extra"])]
        words = [re.sub(r"^(\w+:)?outputs/", rf"\1{tmp_path}/outputs/", word) for word in words]
        run([sys.executable, *COMMANDS[words[0]], *words[1:]], tmp_path)
        written = [word for word in words if word.startswith(str(tmp_path))]
        assert all(Path(path).exists() for path in written)


def commands(code):
    """The command lines of a block, as words; a backslash at a line's end continues it."""
    lines = code.replace("\\\n", " ").strip().splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def spoken_of():
    """(page, words) of every `l2g ...` that README, papers and pages name, in blocks and in sentences.

    In a sentence `l2g run` is enough of a command; one that goes on has to parse as it stands.
    """
    found = []
    for path in PAPERS + DOCS:
        text = path.read_text()
        for fence in re.findall(r"```(?:bash|text)\n(.*?)```", text, re.DOTALL):
            found += [(path, words, True) for words in commands(fence) if words[0] == "l2g"]
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        indented = "\n".join(line[4:] for line in prose.splitlines() if line.startswith("    "))
        found += [(path, words, True) for words in commands(quoted(indented)) if words[0] == "l2g"]
        for code in re.findall(r"`(l2g [^`]+)`", re.sub(r"^    .*$", "", prose, flags=re.MULTILINE)):
            found.append((path, shlex.split(code.replace("\n", " ")), False))
    return found


def quoted(text):
    """Without the lines that are no commands: a formula, a listing."""
    return "\n".join(line for line in text.splitlines() if line.startswith(("l2g", " ")))


def test_every_command_that_is_named_exists_and_takes_these_options(capsys):
    from l2g.cli.commands import BY_NAME, FAMILIES
    from l2g.cli.entry import parser_of

    found = spoken_of()
    assert len(found) > 60
    for path, words, whole in found:
        words = [word for word in words[1:] if word not in ("...", "…")]
        if words[0].isupper() or words[0].startswith("--"):
            assert words[0] in ("COMMAND", "--version", "--help"), (path, words)
            continue
        length = 2 if words[0] in FAMILIES else 1
        name = " ".join(words[:length])
        if words[0] in FAMILIES and len(words) == 1:
            continue
        assert name in BY_NAME, f"{path.name}: l2g {' '.join(words)}"
        rest = words[length:]
        if rest == ["--help"] or (not rest and not whole):
            continue
        known = {option for action in parser_of(BY_NAME[name])._actions for option in action.option_strings}
        named = {word.split("=")[0] for word in rest if re.match(r"--[a-z]", word)}
        assert named <= known, f"{path.name}: l2g {name} has no {sorted(named - known)}"
        if whole:
            try:
                parser_of(BY_NAME[name]).parse_args(rest)
            except SystemExit:
                pytest.fail(f"{path.name}: l2g {' '.join(words)}\n{capsys.readouterr().err}")


def test_every_option_that_a_page_of_a_command_names_exists():
    """Options in tables and sentences of a command's own guide, such as `--min-share`."""
    from l2g.cli.commands import COMMANDS as TABLE
    from l2g.cli.entry import parser_of

    # Of programs that are not ours.
    others = {
        "--nproc-per-node",
        "--index-url",
        "--extra-index-url",
        "--no-deps",
        "--fp16",
        "--int8",
        "--help",
        "--build-arg",
        "--max-restarts",
        "--shutdown-timeout",
        "--system-site-packages",
    }
    known = {
        option for command in TABLE for action in parser_of(command)._actions for option in action.option_strings
    } | others
    benchmarks = {"--part", "--only", "--threads", "--repeats", "--models", "--sizes", "--confusion", "--sweep"}
    for path in PAPERS + DOCS:
        named = set(re.findall(r"`(--[a-z][a-z0-9-]*)", path.read_text()))
        assert named <= known | benchmarks, f"{path.name} names {sorted(named - known - benchmarks)}"
