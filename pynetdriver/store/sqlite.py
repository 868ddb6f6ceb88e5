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
        self._path = path = folder / "pynet.db"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise PynetError(f"{path} is not a file; put the state file itself in its place")
            path.touch(mode=0o600)
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            try:
                self._connection = self._open()
            except sqlite3.OperationalError:
                # On a full disk there is no room for what is shared with other processes that read the file. To read it
                # alone takes none, and it may be written once there is.
                self._connection = self._open("PRAGMA locking_mode = EXCLUSIVE")
        except (OSError, sqlite3.OperationalError) as error:
            raise PynetError(f"cannot open the state file {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise self._unreadable(str(error)) from error

    def _open(self, *first: str) -> sqlite3.Connection:
        with ExitStack() as failed:
            connection = failed.enter_context(closing(sqlite3.connect(self._path, isolation_level=None)))
            for command in (*first, "PRAGMA journal_mode = WAL"):
                connection.execute(command)
            (found,) = connection.execute("PRAGMA user_version").fetchone()
            if found > FORMAT:
                raise PynetError(f"{self._path} was written by a newer pynet (format {found}); upgrade pynet")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS record"
                " (kind TEXT, key TEXT, data BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
            )
            if found != FORMAT:
                connection.execute(f"PRAGMA user_version = {FORMAT}")
            failed.pop_all()
            return connection

    def _unreadable(self, why: str) -> PynetError:
        return PynetError(
            f"cannot read the state file {self._path}: {why}; put a backup in its place, or move it away and create the"
            " networks again"
        )

    def load(self, kind: str) -> dict[str, bytes]:
        """Read all records of a kind. Raises PynetError if the file is damaged."""
        try:
            found = dict(self._connection.execute("SELECT key, data FROM record WHERE kind = ?", (kind,)))
        except sqlite3.Error as error:
            raise self._unreadable(str(error)) from error
        for key, data in found.items():
            if not isinstance(data, bytes):
                raise self._unreadable(f"{kind} {key[:12]} has no content")
        return found

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
