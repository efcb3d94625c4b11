"""A real web server of a test's own: nginx on loopback, with folders that take PUT in several ways."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults import free_port
from tests.servers import until_it_answers

PASSWORD = "not-to-be-seen-0815"
TOKENS = ("old-token-not-to-be-seen", "new-token-not-to-be-seen")
CONFIG = """
user root; daemon off; worker_processes 1; pid {root}/pid; error_log {root}/log crit;
events {{}}
http {{
  access_log off; client_body_temp_path {disk}/body; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; client_max_body_size 0; dav_methods PUT DELETE MKCOL;
  root {disk}/files;
  map $http_authorization $token {{ default ""; "Bearer {tokens[0]}" old; "Bearer {tokens[1]}" new; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ create_full_put_path on; }}
    location /strict/ {{ }}
    location /locked/ {{ create_full_put_path on; auth_basic "x"; auth_basic_user_file {root}/users; }}
    location /readable/ {{ limit_except GET HEAD {{ deny all; }} }}
    location /small/ {{ create_full_put_path on; client_max_body_size 20k; }}
    location /full/ {{ create_full_put_path on; if ($request_method = PUT) {{ return 507; }} }}
    location /plain/ {{ dav_methods off; }}
    location /token/ {{
      create_full_put_path on;
      set $over ""; if (-f {root}/over) {{ set $over -over; }} set $case $token$over;
      if ($case ~ ^(|-over|old-over)$) {{ return 401; }}
    }}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl; ssl_certificate {root}/server.pem; ssl_certificate_key {root}/server.key;
    location / {{ create_full_put_path on; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A server that answers; `disk` is where its files are seen."""

    root: Path
    disk: Path
    port: int
    tls: int

    @property
    def files(self) -> Path:
        return self.disk / "files"

    def listing(self, folder: str = "") -> list[str]:
        """Every file that lies there."""
        below = self.files / folder
        return sorted(str(path.relative_to(below)) for path in below.rglob("*") if path.is_file())

    def token_is_over(self, yes: bool = True) -> None:
        """Whether the first of TOKENS opens /token/ no more."""
        (self.root / "over").touch() if yes else (self.root / "over").unlink(missing_ok=True)


@contextmanager
def nginx(root: Path, certificate: tuple[Path, Path], under: Sequence[str] = ()) -> Iterator[Nginx]:
    """Runs a server until the block is done.

    Args:
        root: a folder for all that it writes.
        certificate: its certificate and key, which lie in `root`.
        under: a command that runs it, such as one for which `root`/disk is another file system.
    """
    ports = free_port(), free_port()
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True).stdout
    (root / "users").write_text(f"ci:{hashed}")
    disk = root / "disk"
    disk.mkdir(exist_ok=True)
    config = CONFIG.format(root=root, disk=disk, port=ports[0], tls=ports[1], tokens=TOKENS)
    (root / "nginx.conf").write_text(config)
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    with (root / "errors").open("wb") as errors:
        running = subprocess.Popen([*under, "nginx", "-c", root / "nginx.conf"], env=env, stderr=errors)
    try:
        until_it_answers(ports[0], "nginx")
        seen = Path(f"/proc/{running.pid}/root{disk}") if under else disk
        server = Nginx(root, seen, *ports)
        server.files.mkdir(exist_ok=True)
        yield server
    finally:
        running.terminate()
        running.wait(30)
