"""mkdocs hooks: the pages that lie beside ``docs/``, and the links between files as the repository has them.

Every page is written for the repository: a link is a path from its file. Here a link to another page becomes the
site's; one to a file that is no page becomes its text. One to a file that does not exist is a warning, and fails
``make docs``.
"""

import logging
import os
import re
from pathlib import Path

from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.hooks.pages")

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {
    "index.md": "README.md",
    "security.md": "SECURITY.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Page of the site -> its file in the repository."""
LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
BLOCK = re.compile(r"^```.*?^```$", re.M | re.S)
NAMED_BLOCK = re.compile(r"^```(\w+) [\w-]+$", re.M)


def on_files(files, config):
    """The pages beside ``docs/`` are pages as well."""
    for uri, name in BESIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    """The page with the site's links; a block's second word, by which tests find it, is not shown."""
    here = Path(BESIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent
    pages = {name: uri for uri, name in BESIDE.items()}

    def linked(match):
        path = os.path.normpath(here / match["path"])
        if not (ROOT / path).exists():
            log.warning("%s: a link to %s, which does not exist", page.file.src_uri, match["path"])
        uri = pages.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        if not uri or files.get_file_from_path(uri) is None:
            return match["text"]
        target = os.path.relpath(uri, Path(page.file.src_uri).parent)
        return f"{match['mark']}[{match['text']}]({target}{match['anchor'] or ''})"

    blocks = BLOCK.findall(markdown)
    prose = [LINK.sub(linked, part) for part in BLOCK.split(markdown)]
    shown = [NAMED_BLOCK.sub(r"```\1", block) for block in blocks] + [""]
    return "".join(text + block for text, block in zip(prose, shown, strict=True))
