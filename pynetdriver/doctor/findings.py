"""Findings are made here, so that all have one form."""

from __future__ import annotations

from pynetdriver.admin.answers import Finding


def error(check: str, what: str, *, command: str) -> Finding:
    """Something breaks calls or traffic now."""
    return Finding(check=check, severity="error", what=what, command=command)


def warning(check: str, what: str, *, command: str) -> Finding:
    """Something will, or does for some."""
    return Finding(check=check, severity="warning", what=what, command=command)
