"""The store of one host: an embedded SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

from pynetdriver.errors import PynetError
from pynetdriver.store import Change

#: Grows with every change of the records' form; a file of a newer pynet is refused.
FORMAT = 1


class SqliteStore:
    """A `Store` in `<folder>/pynet.db`, readable by root only. Commits are inline: 0.2 to 1 ms, fleeting ones 0.05."""

    def __init__(self, folder: Path) -> None:
        """Open or make the file.

        Raises:
            PynetError: the file cannot be opened, is damaged, or comes from a newer pynet.
        """
        path = folder / "pynet.db"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            with ExitStack() as failed:
                self._connection = failed.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
                self._prepare(path)
                failed.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise PynetError(f"cannot open the state file {path}: {error}") from error

    def _prepare(self, path: Path) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise PynetError(f"{path} was written by a newer pynet (format {found}); upgrade pynet")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, data BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    def load(self, kind: str) -> dict[str, bytes]:
        """Read all records of a kind."""
        return dict(self._connection.execute("SELECT key, data FROM record WHERE kind = ?", (kind,)))

    def write(self, *changes: Change, fleeting: bool = False) -> None:
        """Carry out all changes in one transaction."""
        try:
            # In WAL mode FULL is one fsync a commit, NORMAL none: a later one takes earlier commits along.
            self._connection.execute(f"PRAGMA synchronous = {'NORMAL' if fleeting else 'FULL'}")
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                for change in changes:
                    if change.data is None:
                        self._connection.execute(
                            "DELETE FROM record WHERE kind = ? AND key = ?", (change.kind, change.key)
                        )
                    else:
                        self._connection.execute(
                            "INSERT OR REPLACE INTO record VALUES (?, ?, ?)",
                            (change.kind, change.key, change.data),
                        )
        except sqlite3.Error as error:
            raise PynetError(f"cannot write pynet's state: {error}; is its disk full?") from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
