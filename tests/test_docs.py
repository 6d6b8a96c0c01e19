"""The pages: every link leads somewhere, lines wrap, the site needs nothing from elsewhere, papers are valid."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import l2g

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("findings/**/*.md")])
LINK = re.compile(r"(?<!`)!?\[(?:[^\]]|\n)*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
EVERYWHERE = ("http://", "https://", "mailto:")


def prose(path):
    """A page's text without code."""
    return re.sub(r"`[^`\n]+`", "`code`", FENCE.sub("", path.read_text()))


def anchors(path):
    """The anchors of a page's headings, as the forge and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


def broken_links(path):
    for match in LINK.finditer(prose(path)):
        target, _, anchor = match["target"].partition("#")
        if match["target"].startswith(EVERYWHERE):
            continue
        file = (path.parent / target) if target else path
        there = file.exists() and file.resolve().is_relative_to(ROOT)
        if not there or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            yield match["target"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(path):
    assert list(broken_links(path)) == []


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# One `thing`, and more\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](#here) [b](other.md#one-thing-and-more) [c](other.md#two)\n"
        "[d\ne](gone.md) [f](https://x.y) `[g](h)`\n"
        "```\n[i](j)\n```\n"
    )
    assert list(broken_links(page)) == ["other.md#two", "gone.md"]


def test_there_are_links():
    assert sum(len(LINK.findall(prose(path))) for path in PAGES) > 80


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_wraps_at_100(path):
    text = re.sub(r"^( *\||    |::: ).*$", "", FENCE.sub("", path.read_text()), flags=re.MULTILINE)
    long = [line for line in text.splitlines() if len(line) > 100 and " " in line.strip()]
    assert long == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_clone_is_installed_as_make_does(path):
    """A copy would take the editable install's place, and whatever changes in the clone would have no effect."""
    assert re.findall(r"pip\s+install\s+'?\.[\[\s].*", path.read_text()) == []


def test_pages_that_the_code_names_exist():
    """In messages, help and docstrings: `docs/guides/export.md`."""
    sources = [*ROOT.glob("l2g/**/*.py"), *ROOT.glob("l2g/**/*.yaml"), *ROOT.glob("benchmarks/*.py")]
    sources += ROOT.glob("examples/*.py")
    named = {(source.name, page) for source in sources for page in re.findall(r"docs/[\w/]+\.md", source.read_text())}
    assert len(named) >= 4
    assert [pair for pair in sorted(named) if not (ROOT / pair[1]).exists()] == []


def first_column(text, heading):
    """What stands in backticks in the first column of the table with that first heading, in order."""
    rows = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_the_table_of_extras_is_pyproject_s():
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = first_column((ROOT / "README.md").read_text(), "extra")
    assert sorted(named) == sorted(extras)


def test_the_rooms_of_contributing_are_the_package_s_from_the_top_down():
    named = first_column((ROOT / "CONTRIBUTING.md").read_text(), "room")
    assert {path.parent.name for path in ROOT.glob("l2g/*/__init__.py")} <= set(named)
    arrows = pytest.importorskip("tests.test_arrows")
    assert named == list(reversed(arrows.ROOMS))


class Loaded(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.urls.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.urls.append(attributes.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("l2g.cli.commands")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.glob("**/*.html"))
    assert len(pages) >= 20
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text())
        assert parser.urls
        assert [url for url in parser.urls if url.startswith(("http", "//"))] == [], page.name
    for style in site.glob("**/*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style.name


def test_the_reference_has_every_public_name(site):
    text = (site / "reference" / "python.html").read_text()
    for name in l2g.__all__:
        if not name.startswith("__"):
            assert re.search(rf'id="l2g\.[\w.]*\b{name}"', text), name


def test_the_site_has_the_papers(site):
    for name in ("MODEL_CARD", "CONTRIBUTING", "SECURITY", "CHANGELOG"):
        assert (site / f"{name}.html").exists()


def test_pins_of_pre_commit_are_those_of_ci():
    pins = dict(line.split(";")[0].strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
                if "==" in line and not line.startswith("#"))  # fmt: skip
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "codespell", "mypy"}
    for hook in hooks:
        for pin in hook.get("additional_dependencies", ()):
            name, version = pin.split("==")
            assert pins[name] == version


def test_the_workflow_calls_the_script_and_every_part_is_there():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert all(command.split()[0] == ".ci/run" for command in commands)
    script = (ROOT / ".ci/run").read_text()
    for part in ["test", *workflow["jobs"]["parts"]["strategy"]["matrix"]["part"]]:
        assert re.search(rf"^  {part}\)", script, re.MULTILINE)
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    done = subprocess.run([ROOT / ".ci/run", "nonsense"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_citation_licence_and_version_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    tree = ast.parse((ROOT / "l2g/__init__.py").read_text())
    versions = [n.value.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__version__"]
    assert [citation["version"]] == versions
    assert citation["license"] == "Apache-2.0"
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert "Apache-2.0" in (ROOT / "MODEL_CARD.md").read_text()


def test_the_model_card_is_read_in_two_minutes():
    words = re.sub(r"\|.*", "", (ROOT / "MODEL_CARD.md").read_text()).split()
    assert len(words) < 2 * 250
