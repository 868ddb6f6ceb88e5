"""Build what is kept for tests before they begin, all at once, so that none of them waits for it.

usage: python -m tests.lab.prebuild
"""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from . import registry
from .command import Unavailable
from .image import busybox_image
from .plugin import built_plugin
from .roots import RECIPES, ensure_root


def main() -> None:
    """Build it; what cannot be had is named by the tests that want it."""
    works: list[Callable[[], object]] = [partial(ensure_root, version) for version in RECIPES]
    works += [built_plugin, registry.ensure_registry, busybox_image]
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            with contextlib.suppress(Unavailable):
                done.result()


if __name__ == "__main__":
    main()
