"""The pages say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from pynetdriver.__main__ import serve
from tests.engine.test_parity import BETTER

ROOT = Path(__file__).parents[2]


def test_the_options_page_is_what_the_declarations_give() -> None:
    """docs/options.md is generated: python docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert (ROOT / "docs" / "options.md").read_text() == generate.options_page()


def test_what_differs_from_the_built_in_bridge_is_in_the_docs() -> None:
    """Every difference that the comparison allows, in the same words, and no other."""
    page = (ROOT / "docs" / "moving-from-bridge.md").read_text()
    section = page[page.index("### With engine 28") : page.index("### In any case")]
    listed = {line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")}
    assert listed - {"difference", "---"} == {rule.reason for rule in BETTER}


def test_links_in_the_docs_lead_somewhere() -> None:
    """Every relative link of README and docs names a file that is there."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert len(links) >= 5
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_flag_has_its_environment_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYNET_STATE_DIR sets --state-dir, and so on: that is how a managed plugin is configured."""
    given = {"socket": "/s", "state-dir": "/d", "firewall": "nftables", "log-level": "error", "log-format": "json"}
    for flag, value in given.items():
        monkeypatch.setenv(f"PYNET_{flag.upper().replace('-', '_')}", value)
    found = serve.make_context("serve", []).params
    flags = {one.name: one.opts[0][2:] for one in serve.params if one.name in found}
    assert {flags[name]: str(value) for name, value in found.items()} == given
