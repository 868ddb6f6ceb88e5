"""Netlink messages are written and taken apart as netlink(7) says, and damaged ones end the reading."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynetdriver.nlmsg import DONE, DUMP, ERROR, INTERRUPTED, ask, attribute, attributes, dump, message, messages, order

KIND = 77
contents = st.binary(max_size=40)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), contents)), contents)
def test_attributes_are_read_as_written(written: list[tuple[int, bytes]], damage: bytes) -> None:
    data = b"".join(attribute(*one) for one in written)
    assert len(data) % 4 == 0
    assert list(attributes(data)) == written
    assert list(attributes(damage + data, len(damage))) == written
    list(attributes(damage))


@given(st.lists(contents), contents)
def test_messages_are_read_as_written(bodies: list[bytes], damage: bytes) -> None:
    data = b"".join(message(KIND, 0, body, 5) + bytes(-len(body) % 4) for body in bodies)
    assert [(kind, sequence, body) for kind, _, sequence, _, body in messages(data)] == [
        (KIND, 5, body) for body in bodies
    ]
    list(messages(damage))


@contextlib.contextmanager
def kernel(*answers: list[tuple[int, int, bytes]]) -> Iterator[socket.socket]:
    """A socket at whose other end each request is answered by the next of some lists of messages."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def answer() -> None:
        for one in answers:
            ((_, _, sequence, _, _),) = messages(there.recv(1 << 16))
            stale = message(DONE, 0, bytes(4), sequence - 1)
            for kind, flags, body in one:
                there.send(stale + message(kind, flags, body, sequence))

    with here, there, ThreadPoolExecutor() as pool:
        answered = pool.submit(answer)
        yield here
        answered.result()


def test_a_list_that_changed_is_read_again() -> None:
    end = (DONE, 0, bytes(4))
    with kernel([(KIND, INTERRUPTED, b"half"), end], [(KIND, 0, b"one1"), (KIND, 0, b"two2"), end]) as one:
        assert dump(one, KIND, b"") == [b"one1", b"two2"]


@pytest.mark.parametrize("last", [ERROR, DONE])
def test_a_refusal_is_raised(last: int) -> None:
    refusal = (last, 0, struct.pack("=i", -2))
    with kernel([(KIND, 0, b"one1"), refusal]) as one, pytest.raises(FileNotFoundError):
        list(ask(one, KIND, DUMP, b""))


def test_an_order_waits_for_its_acknowledgement() -> None:
    with kernel([(ERROR, 0, bytes(4))], [(ERROR, 0, struct.pack("=i", -2))]) as one:
        order(one, KIND, 0, b"")
        with pytest.raises(FileNotFoundError):
            order(one, KIND, 0, b"")
