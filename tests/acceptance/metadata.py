"""A metadata service as EC2 has it: IMDSv2 alone (a request without its token is refused), on a port of loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "AQAEAtest=="


@contextmanager
def serving(user_data: str, public_key: str) -> Iterator[int]:
    """Serves one instance's metadata; yields the port."""
    tree = {
        "ami-id": "ami-0123456789abcdef0",
        "instance-id": "i-0123456789abcdef0",
        "instance-type": "t3.small",
        "local-hostname": "ip-169-254-169-15",
        "local-ipv4": "169.254.169.15",
        "placement/availability-zone": "xx-test-1a",
        "public-keys/": "0=test",
        "public-keys/0/openssh-key": public_key,
    }

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(TOKEN if self.path == "/latest/api/token" else None)

        def do_GET(self) -> None:
            if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
                self.send_error(401)
                return
            _, _, path = self.path.lstrip("/").partition("/")
            if path == "user-data":
                self.answer(user_data)
            elif path.startswith("meta-data"):
                self.answer(listing(tree, path.removeprefix("meta-data").lstrip("/")))
            else:
                self.answer(None)

        def answer(self, text: str | None) -> None:
            if text is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def listing(tree: dict[str, str], path: str) -> str | None:
    """A leaf's text, or the names in a folder, a line each; folders end in "/". None where there is neither."""
    if path in tree:
        return tree[path]
    folder = path.rstrip("/") + "/" if path else ""
    names = [name[len(folder) :] for name in tree if name.startswith(folder)]
    if not names:
        return None
    return "\n".join(dict.fromkeys(name.partition("/")[0] + ("/" if "/" in name else "") for name in names))
