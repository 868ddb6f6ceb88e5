"""The lock that the daemon's loop and the relays share."""

import threading
import time

from pynetdriver.kernel.relay import _Turn


def test_who_waits_is_next() -> None:
    """One who has it nearly always does not keep another from it."""
    turn, turns, done = _Turn(), [0], threading.Event()

    def greedy() -> None:
        while not done.is_set():
            with turn:
                turns[0] += 1
                time.sleep(0.002)

    other = threading.Thread(target=greedy)
    other.start()
    waited = []
    for _ in range(50):
        before = turns[0]
        with turn:
            waited.append(turns[0] - before)
        time.sleep(0.001)
    done.set()
    other.join()
    assert sum(waited) < 3 * len(waited), waited
