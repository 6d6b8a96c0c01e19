"""Every command that a message or a docstring of the package advises exists, with its options."""

import ast
import re
from pathlib import Path

import pytest

import l2g
from l2g.cli.commands import BY_NAME, FAMILIES
from l2g.cli.entry import parser_of

PACKAGE = Path(l2g.__file__).parent
FIRST_WORDS = {name.split()[0] for name in BY_NAME} | {"--help", "--version", "COMMAND"}
# "l2g WORD", then words up to the end of the line or sentence, or a quote.
ADVICE = re.compile(r"(?<![\w./'-])(?<!-c )l2g (--?[\w-]+|[a-z][\w-]*)((?: [^\n`;]*)?)")
STREET = re.compile(r"(?<![\w/.])(?:python )?(?:export|runtime|calibration)/\w+\.py")


def texts(path):
    """Every string of a module, an f-string as one with X for what is put in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def advised(text):
    """(words of a command, options) of every advice in a text."""
    for match in ADVICE.finditer(text):
        first, rest = match.groups()
        options = re.findall(r"(?<=[ (])--[a-z][\w-]*", rest.split("l2g ")[0])
        quoted = text[match.start() - 1 : match.start()] == "`" or text[: match.start()].endswith("\n    ")
        if first in FIRST_WORDS or options or quoted or first.startswith("-"):
            second = rest.split()[0].strip(".,)`") if first in FAMILIES and rest.split() else ""
            yield f"{first} {second}".strip(), options


FOUND = [
    (f"{path.relative_to(PACKAGE.parent)}: l2g {words} {' '.join(options)}", words, options)
    for path in sorted(PACKAGE.rglob("*.py"))
    for text in texts(path)
    for words, options in advised(text)
]


def test_advice_is_found():
    assert advised_list("run `l2g exprot --ckpt X`") == [("exprot", ["--ckpt"])]
    assert advised_list("mend it: l2g export --target tensorrt --output X; or l2g doctor") == [
        ("export", ["--target", "--output"]),
        ("doctor", []),
    ]
    assert advised_list("this version of l2g knows") == []
    assert advised_list("see l2g data check X --split train") == [("data check", ["--split"])]
    assert len({words for _, words, _ in FOUND}) >= 10


def advised_list(text):
    return list(advised(text))


@pytest.mark.parametrize(("words", "options"), [entry[1:] for entry in FOUND], ids=[entry[0] for entry in FOUND])
def test_what_is_advised_exists(words, options):
    if words.split()[0] in ("--help", "--version", "COMMAND") or words in FAMILIES:
        return
    assert words in BY_NAME
    known = {name for action in parser_of(BY_NAME[words])._actions for name in action.option_strings}
    assert known.issuperset(options)


def test_nothing_advises_a_file_of_the_clone():
    found = [
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in PACKAGE.rglob("*.py")
        for text in texts(path)
        for match in STREET.finditer(text)
    ]
    assert found == []
