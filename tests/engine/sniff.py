"""Wait for a frame with a mark in it on a link: python sniff.py LINK MARK.

Says "up", then "seen" and the sender's MAC.
"""

import socket
import sys


def main() -> None:
    """Look at every frame, whoever it is for."""
    link, mark = sys.argv[1], sys.argv[2].encode()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as wire:
        wire.bind((link, 0))
        sys.stdout.write("up\n")
        sys.stdout.flush()
        frame = b""
        while mark not in frame:
            frame = wire.recv(2048)
        sys.stdout.write(f"seen {frame[6:12].hex(':')}\n")


if __name__ == "__main__":
    main()
