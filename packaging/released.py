"""Refuse a tag that is not this version, or whose changelog has no date yet: released.py v1.2.3"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HEADING = re.compile(r"^## (?P<version>\S+) \((?P<date>[^)]+)\)$", re.MULTILINE)
VERSION = re.compile(r'^__version__ = "(?P<version>[^"]+)"$', re.MULTILINE)


def refusal(tag: str, project: Path) -> str | None:
    """Say why a tag cannot be released from a checkout; None if it can."""
    version = VERSION.search((project / "pynetdriver" / "__init__.py").read_text())
    newest = HEADING.search((project / "CHANGELOG.md").read_text())
    if version is None or newest is None:
        return "there is no __version__, or no release in CHANGELOG.md"
    if tag != f"v{version['version']}":
        return f"the tag is {tag}, but __version__ is {version['version']}: tag the commit that sets it"
    if newest["version"] != version["version"]:
        return f"CHANGELOG.md begins with {newest['version']}, but __version__ is {version['version']}"
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest["date"]):
        return f"CHANGELOG.md says that {newest['version']} is {newest['date']}: put the date there"
    return None


if __name__ == "__main__":
    sys.exit(refusal(sys.argv[1], Path(__file__).parents[1]))
