"""The pages say what the code says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from itertools import combinations, takewhile
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from netaddr import IPNetwork

from pynetdriver.__main__ import main, serve
from tests.engine import test_between as between
from tests.engine import test_parity as parity

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    """Load a script of `docs`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_what_the_code_declares() -> None:
    """Options, commands and answers: python docs/generate.py writes them."""
    assert [page.name for page, text in script("generate").pages().items() if page.read_text() != text] == []


def test_the_answers_of_all_commands_are_documented() -> None:
    """Each command that has --json, and no other."""
    with_json = {name for name, one in main.commands.items() if any("--json" in option.opts for option in one.params)}
    assert set(script("generate").ANSWERS) == with_json


@pytest.mark.parametrize(
    ("rules", "heading"), [(parity.BETTER, "With the engine as"), (between.BETTER, "Between the engine's networks")]
)
def test_what_differs_from_the_built_in_bridge_is_in_the_docs(
    rules: tuple[parity.Rule, ...] | tuple[between.Rule, ...], heading: str
) -> None:
    """Every difference that the comparison allows, in the same words and for the same engines, and no other."""
    page = (ROOT / "docs" / "moving-from-bridge.md").read_text()
    section = page[page.index(f"### {heading}") :].removeprefix("###").partition("\n###")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in section.splitlines() if line.startswith("|")]
    listed = {reason: tuple(is_so == "yes" for is_so in engines) for reason, *engines in rows[2:]}
    assert rows[0] == ["difference", "29", "28", "26"]
    assert listed == {rule.reason: tuple(one in rule.engines for one in ("29", "28.5", "26.1")) for rule in rules}


def test_the_site_has_no_dead_link(tmp_path: Path) -> None:
    """It is built without a warning; links, anchors and pictures are there, and nothing is loaded from elsewhere."""
    for form in ("html", "man"):
        # In a process of its own: warnings of theirs are no errors of ours.
        build = (sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-b", form, "-d", str(tmp_path / "doctrees"))
        done = subprocess.run((*build, "docs", str(tmp_path / form)), cwd=ROOT, text=True, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert script("check").dead_links(tmp_path / "html") == []
    assert "\n.SS pynet ports\n" in (tmp_path / "man" / "pynet.8").read_text()


@pytest.mark.parametrize(
    "body",
    [
        '<a href="absent.html">',
        '<a href="there.html#absent">',
        '<a href="#absent">',
        '<a href="../outside.html">',
        '<a href="http://docs.example.org/">',
        '<a href="https://docs example org/">',
        '<img src="absent.svg">',
        '<script src="https://cdn.example.org/code.js"></script>',
        '<link href="https://fonts.example.org/font.css" rel="stylesheet">',
    ],
)
def test_a_dead_link_is_found(tmp_path: Path, body: str) -> None:
    """The check itself: files, anchors, the form of links to other sites, and what would be loaded from one."""
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").touch()
    (site / "there.html").write_text('<h1 id="top">')
    fine = '<a href="there.html#top"><a href="#here"><p id="here"><a href="https://docs.example.org/page#part">'
    (site / "index.html").write_text(fine)
    assert script("check").dead_links(site) == []
    (site / "index.html").write_text(fine + body)
    assert len(script("check").dead_links(site)) == 1


def test_links_outside_the_site_lead_somewhere() -> None:
    """Every relative link of README, CHANGELOG and docs names a file that is there, as code hosts show them."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())]
    assert len(links) >= 20
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_every_example_is_run_and_shown() -> None:
    """A folder of examples has a test of its name and a place in the docs, says what it is for, and is on pynet."""
    page = (ROOT / "docs" / "examples.md").read_text()
    tests = (ROOT / "tests" / "engine" / "test_examples.py").read_text()
    examples = sorted((ROOT / "examples").iterdir())
    assert len(examples) >= 9
    for one in examples:
        text = (one / "compose.yaml").read_text()
        header = list(takewhile(lambda line: line.startswith("# "), text.splitlines()))
        assert 2 <= len(header) <= 4 and any(line.startswith("# Try: ") for line in header), one.name
        networks = yaml.safe_load(text)["networks"].values()
        assert {network["driver"] for network in networks} == {"pynet"}, one.name
        assert f"def test_{one.name.replace('-', '_')}(" in tests and f"../examples/{one.name}/" in page, one.name


def test_examples_run_beside_each_other() -> None:
    """No two have subnets that overlap, but for those that are on the user's LAN."""
    found = []
    for one in sorted((ROOT / "examples").iterdir()):
        networks = yaml.safe_load((one / "compose.yaml").read_text())["networks"].values()
        entries = [entry for network in networks for entry in network.get("ipam", {}).get("config", [])]
        found += [IPNetwork(entry["subnet"]) for entry in entries if "$" not in entry["subnet"]]
    assert len(found) >= 6
    assert [(one, other) for one, other in combinations(found, 2) if one in other or other in one] == []


def test_every_flag_has_its_environment_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYNET_STATE_DIR sets --state-dir, and so on: that is how a managed plugin is configured."""
    given = {
        "socket": "/s.sock:/t.sock",
        "state-dir": "/d",
        "firewall": "nftables",
        "log-level": "error",
        "log-format": "json",
    }
    given["metrics-address"] = "127.0.0.1:9478"
    for flag, value in given.items():
        monkeypatch.setenv(f"PYNET_{flag.upper().replace('-', '_')}", value)
    found = serve.make_context("serve", []).params
    flags = {one.name: one.opts[0][2:] for one in serve.params if one.name in found}
    said = {name: ":".join(map(str, value)) if isinstance(value, tuple) else value for name, value in found.items()}
    assert {flags[name]: str(value) for name, value in said.items()} == given
