"""What mkdocs does not do by itself: the repository's papers as pages, and reference pages that cannot fall behind.

`<!-- public names -->` becomes an mkdocstrings entry for each name of `l2g.__all__`, by room; `<!-- commands -->` the
help of every command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAPERS = ("MODEL_CARD.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
# Headings of the reference, and where the public names under each live; the last takes all others.
CHAPTERS = {
    "Frames in, tracks out": ("l2g.tracker", "l2g.runtime"),
    "A call for each step": ("l2g.api", "l2g.export", "l2g.engines", "l2g.calibration", "l2g.evaluation"),
    "Models": ("l2g.checkpoint", "l2g.config", "l2g.modeling"),
    "Errors": ("l2g",),
}
PLAIN = ("__version__",)


def on_files(files, config):
    for name in PAPERS:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    markdown = LINK.sub(lambda link: _inside_the_site(link, page.file.src_uri), markdown)
    if "<!-- public names -->" in markdown:
        markdown = markdown.replace("<!-- public names -->", _public_names())
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", _commands())
    return markdown


def _inside_the_site(link: re.Match, source: str) -> str:
    """Links are written as the repository's folders lie; the site has docs/ and the papers in one folder."""
    here = ROOT if source in PAPERS else ROOT / "docs"
    target = Path(os.path.normpath(here / Path(source).parent / link["path"]))
    if target.parent == ROOT and target.name in PAPERS:
        target = ROOT / "docs" / target.name
    relative = os.path.relpath(target, ROOT / "docs" / Path(source).parent)
    return f"]({relative}{link['anchor'] or ''})"


def public_homes() -> dict[str, str]:
    """Where each public name of `l2g` is defined: {"Tracker": "l2g.runtime.tracker", ...}."""
    sys.path.insert(0, str(ROOT))
    import l2g

    names = sorted(set(l2g.__all__) - set(PLAIN), key=[*l2g._LAZY, *l2g.__all__].index)
    return {name: l2g._LAZY.get(name) or getattr(l2g, name).__module__ for name in names}


def _public_names() -> str:
    homes = public_homes()
    lines = []
    for title, places in CHAPTERS.items():
        names = [name for name, home in homes.items() if home.startswith(places)]
        entries = [f"::: {homes.pop(name)}.{name}\n" for name in names]
        lines += [f"## {title}\n", *entries] if entries else []
    return "\n".join(lines)


def _commands() -> str:
    """The help of `l2g` and of every command in its table."""
    sys.path.insert(0, str(ROOT))
    from l2g.cli.commands import COMMANDS

    parts = [f"## l2g\n\n```text\n{_help()}```\n"]
    parts += [f"## l2g {command.name}\n\n```text\n{_help(*command.name.split())}```\n" for command in COMMANDS]
    return "\n".join(parts)


def _help(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "l2g", *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"docs/hooks.py: {' '.join(command)} failed:\n{done.stderr}")
    return done.stdout
