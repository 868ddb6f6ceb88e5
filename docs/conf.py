"""What Sphinx makes of these pages: a site, and the man page pynet(8)."""

from __future__ import annotations

from pynetdriver import __version__

project = "pynet"
author = "the authors of pynet"
version = release = __version__
extensions = ["myst_parser"]
#: As on the pages of code hosts, where the same files are read.
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"pynet {release}"
html_copy_source = False
html_show_copyright = False
man_pages = [("command", "pynet", "networks for Docker", author, 8)]
