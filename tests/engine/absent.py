"""Say yes to every call on a Unix socket: what the engine does while pynet is away, without its waiting."""

import socketserver
import sys
from http.server import BaseHTTPRequestHandler


class Yes(BaseHTTPRequestHandler):
    """Answers `{}`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the base class's name
        """Read the request and agree."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def address_string(self) -> str:
        """A Unix socket's client has no address."""
        return "engine"


if __name__ == "__main__":
    with socketserver.ThreadingUnixStreamServer(sys.argv[1], Yes) as server:
        server.serve_forever()
