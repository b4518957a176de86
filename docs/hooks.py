"""Hooks of mkdocs: files of the repository outside `docs` that pages show or link to are part of the site.

Links in `docs` and in the pages below are those that hold in the repository.
"""

import re
from pathlib import Path
from posixpath import join, normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that stand at the root of the repository, and where they are in the site."""

LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
MARK = re.compile(r"<!-- (?:table .*|end) -->")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the decisions in the navigation, in order."""
    decisions = sorted(path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/decisions/*.md"))
    config.nav = [{"Decisions": decisions} if "Decisions" in entry else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root, and what any page links to outside `docs`."""
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    linked = {
        site
        for page in files.documentation_pages()
        for _, link in LINK.findall(page.content_string)
        if (site := _in_site(page.src_uri, link)) not in files.src_uris and (ROOT / site).is_file()
    }
    for uri in linked:
        source = str(ROOT / uri)
        files.append(File.generated(config, uri, abs_src_path=source, inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn the links of the repository into those of the site, and take out the marks of generated tables."""
    uri = page.file.src_uri
    folder = uri.rpartition("/")[0] or "."
    return MARK.sub("", LINK.sub(lambda link: link[1] + relpath(_in_site(uri, link[2]), folder), markdown))


def _in_site(uri: str, link: str) -> str:
    """Return where the site has the file that a page's link means in the repository."""
    source = next((name for name, page in PAGES.items() if page == uri), f"docs/{uri}")
    target = normpath(join(source.rpartition("/")[0], link))
    if not (ROOT / target).is_file():
        return f"missing/{target}"  # where there is nothing, so that mkdocs says so
    return PAGES.get(target, target.removeprefix("docs/"))
