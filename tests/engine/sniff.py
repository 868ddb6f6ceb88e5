"""Tell whether a frame with a mark in it is on a link: python sniff.py LINK MARK SECONDS.

Says "up", then "seen" and the sender's MAC, or "nothing".
"""

import socket
import sys
import time


def main() -> None:
    """Look at every frame, whoever it is for."""
    link, mark, seconds = sys.argv[1], sys.argv[2].encode(), float(sys.argv[3])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as wire:
        wire.bind((link, 0))
        sys.stdout.write("up\n")
        sys.stdout.flush()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            wire.settimeout(left)
            try:
                frame = wire.recv(2048)
            except TimeoutError:
                break
            if mark in frame:
                sys.stdout.write(f"seen {frame[6:12].hex(':')}\n")
                return
    sys.stdout.write("nothing\n")


if __name__ == "__main__":
    main()
