"""Look through a built site for links that lead nowhere: python docs/check.py build/site.

Pages of other sites are not asked for; of links to them the form is checked. Nothing but links may point to
another site, so that reading asks nobody for fonts or scripts.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that name a file, by tag.
_REFERENCES = {"a": "href", "link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}
_HOST = re.compile(r"([a-z0-9-]+\.)+[a-z]{2,}")
_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?\s*((?:https?:)?//[^\"')\s]+)")


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.references: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {name for name in (found.get("id"), found.get("name")) if name}
        target = found.get(_REFERENCES.get(tag, ""))
        if target is not None:
            self.references.append((tag, target))


def dead_links(site: Path) -> list[str]:
    """List what leads nowhere, each as the page and the link."""
    site = site.resolve()
    pages = {path: _Page(path.read_text()) for path in site.rglob("*.html")}
    found = [
        f"{path.relative_to(site)}: {target}"
        for path, page in pages.items()
        for tag, target in page.references
        if not (_is_well_formed(tag, target) if urlsplit(target).netloc else _leads(pages, site, path, target))
    ]
    for path in site.rglob("*.css"):
        found += [f"{path.relative_to(site)}: {url}" for url in _STYLE.findall(path.read_text())]
    return sorted(found)


def _is_well_formed(tag: str, target: str) -> bool:
    parts = urlsplit(target)
    return tag == "a" and parts.scheme == "https" and _HOST.fullmatch(parts.netloc) is not None and " " not in target


def _leads(pages: dict[Path, _Page], site: Path, path: Path, target: str) -> bool:
    parts = urlsplit(target)
    if parts.scheme:
        return parts.scheme in ("data", "mailto")
    to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not to.is_relative_to(site) or not to.is_file():
        return False
    return not parts.fragment or to not in pages or unquote(parts.fragment) in pages[to].anchors


if __name__ == "__main__":
    sys.exit("\n".join(f"dead link in {one}" for one in dead_links(Path(sys.argv[1]))) or 0)
