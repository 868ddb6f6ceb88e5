"""The file of one host."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynetdriver.errors import PynetError
from pynetdriver.model import Lease, decode
from pynetdriver.store import Change
from pynetdriver.store.sqlite import FORMAT, SqliteStore


def test_store_keeps_what_was_put(tmp_path: Path) -> None:
    """What was put is there after the file is opened again; what was removed is not."""
    store = SqliteStore(tmp_path)
    store.write(Change("network", "a", b"1"), Change("network", "b", b"2"), Change("endpoint", "a", b"3"))
    store.write(Change("network", "b", None), Change("network", "a", b"4"), Change("network", "absent", None))
    store.close()
    store = SqliteStore(tmp_path)
    assert store.load("network") == {"a": b"4"}
    assert store.load("endpoint") == {"a": b"3"}
    assert store.load("pool") == {}
    store.close()


def test_store_writes_all_or_nothing(tmp_path: Path) -> None:
    """When one change of several fails, none is made."""
    store = SqliteStore(tmp_path)
    store.write(Change("network", "a", b"1"))
    unfit: bytes = object()  # type: ignore[assignment]
    with pytest.raises(PynetError, match="cannot write pynet's state"):
        store.write(Change("network", "a", b"2"), Change("network", "b", unfit))
    assert store.load("network") == {"a": b"1"}
    store.write(Change("network", "c", b"3"))
    assert store.load("network") == {"a": b"1", "c": b"3"}
    store.close()


def test_store_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """Folder and file are nobody else's business."""
    store = SqliteStore(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "pynet.db").stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    """No database, a page that was overwritten, a row without content or of no sense: which file, and what to do."""
    path = tmp_path / "pynet.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(PynetError, match=r"cannot read the state file .*pynet.db: .* backup"):
        SqliteStore(tmp_path)
    path.unlink()
    store = SqliteStore(tmp_path)
    store.write(*(Change("network", f"{number:064}", b"x" * 100) for number in range(1000)))
    store.close()
    with path.open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"\xff" * 4096 * 4)
    store = SqliteStore(tmp_path)
    with pytest.raises(PynetError, match=r"cannot read the state file .*pynet.db: .* backup"):
        store.load("network")
    store.close()
    path.unlink()
    SqliteStore(tmp_path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO record VALUES ('network', 'aaaa', NULL)")
    connection.close()
    store = SqliteStore(tmp_path)
    with pytest.raises(PynetError, match=r"cannot read the state file .*: network aaaa has no content"):
        store.load("network")
    assert store.load("endpoint") == {}
    store.close()
    for data in (b"{}", b'{"pool_id":"a","address":"nowhere"}', b'{"pool_id":"\xff"}', b"[" * 100_000):
        with pytest.raises(PynetError, match="a lease in pynet's state cannot be read"):
            decode(data, Lease)


def test_store_refuses_a_newer_format(tmp_path: Path) -> None:
    """A file of a newer pynet is refused, saying what to do, and stays as it is."""
    SqliteStore(tmp_path).close()
    path = tmp_path / "pynet.db"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    with pytest.raises(PynetError, match=r"newer pynet .* upgrade pynet"):
        SqliteStore(tmp_path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT + 1,)
    connection.close()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_store_refuses_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    """A damaged file is refused in one sentence that names it, and stays as it is."""
    path = tmp_path / "pynet.db"
    path.write_bytes(content)
    with pytest.raises(PynetError, match="cannot read the state file") as caught:
        SqliteStore(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_store_refuses_a_folder_that_is_a_file(tmp_path: Path) -> None:
    """A state folder that cannot be is refused in one sentence."""
    (tmp_path / "state").write_text("")
    with pytest.raises(PynetError, match="cannot open the state file"):
        SqliteStore(tmp_path / "state")


CHANGES = st.builds(
    Change,
    st.sampled_from(["network", "endpoint"]),
    st.sampled_from(["a", "b", "c", ""]),
    st.none() | st.binary(max_size=8),
)


@given(st.lists(st.lists(CHANGES, max_size=4), max_size=6))
def test_store_agrees_with_a_dictionary(tmp_path_factory: pytest.TempPathFactory, writes: list[list[Change]]) -> None:
    """A store is a dictionary by kind and key, whatever the order of changes."""
    store, model = SqliteStore(tmp_path_factory.mktemp("store")), dict[tuple[str, str], bytes]()
    for changes in writes:
        store.write(*changes)
        for one in changes:
            model.pop((one.kind, one.key), None)
            if one.data is not None:
                model[one.kind, one.key] = one.data
    for kind in ("network", "endpoint"):
        assert store.load(kind) == {key: data for (of, key), data in model.items() if of == kind}
    store.close()
