"""What this machine cannot provide: a failure under CI=true, unless `tests/unavailable.toml` gives the reason."""

import os
import tomllib
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "unavailable.toml"


def excused(name: str) -> bool:
    """Whether tests may be left out for want of `name`, e.g. "engine 28.5-nft"."""
    if os.environ.get("CI", "").lower() not in ("1", "true"):
        return True
    with FILE.open("rb") as file:
        reasons: dict[str, str] = tomllib.load(file)["unavailable"]
    return bool(reasons.get(name))


def sentence(name: str, why: object) -> str:
    """Say what is missing and why, and under CI what to do about it."""
    said = f"{name} is not to be had: {why}"
    return said if excused(name) else f"{said}; name it with the reason in tests/{FILE.name} if that has to be"
