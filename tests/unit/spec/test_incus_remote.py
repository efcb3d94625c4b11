"""The incus client's remotes, as the client itself finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovfbuild.errors import UsageError
from ovfbuild.spec import incus_remote

CONFIG = """
default-remote: lab
remotes:
  lab: {addr: "https://incus.example.org:8443/", auth_type: tls, project: web, protocol: incus, public: false}
  images: {addr: "https://images.example.org", protocol: simplestreams, public: true}
  login: {addr: "https://incus.example.org:8443", auth_type: oidc, protocol: incus}
  socket: {addr: "unix:///srv/incus.socket"}
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """That of somebody who has a client's configuration, with a certificate."""
    folder = tmp_path / "own" / "incus"
    (folder / "servercerts").mkdir(parents=True)
    (folder / "config.yml").write_text(CONFIG)
    for name in ("client.crt", "client.key", "servercerts/lab.crt"):
        (folder / name).write_text("pem")
    return {"XDG_CONFIG_HOME": str(tmp_path / "own"), "INCUS_GLOBAL_CONF": str(tmp_path / "everybody")}


def test_a_remote_with_its_certificates(environ: dict[str, str], tmp_path: Path) -> None:
    found, folder = incus_remote.find("lab", environ), tmp_path / "own" / "incus"
    assert (found.url, found.socket, found.project) == ("https://incus.example.org:8443", None, "web")
    assert found.certificate == folder / "servercerts" / "lab.crt"
    assert found.login == (folder / "client.crt", folder / "client.key")


def test_which_one_by_default(environ: dict[str, str]) -> None:
    assert incus_remote.find(None, environ).name == "lab"
    assert incus_remote.find(None, environ | {"INCUS_REMOTE": "socket"}).socket == Path("/srv/incus.socket")
    assert incus_remote.find(None, environ | {"XDG_CONFIG_HOME": "/nowhere"}).name == "local"
    assert incus_remote.find(None, environ | {"INCUS_PROJECT": "other"}).project == "other"


def test_the_local_socket(environ: dict[str, str], tmp_path: Path) -> None:
    assert incus_remote.find("local", environ).socket == Path("/var/lib/incus/unix.socket")
    assert incus_remote.find("local", environ | {"INCUS_SOCKET": "/a"}).socket == Path("/a")
    (tmp_path / "unix.socket.user").touch()
    own = incus_remote.find("local", environ | {"INCUS_DIR": str(tmp_path)})
    assert own.socket == tmp_path / "unix.socket.user", "incus-user's, where the daemon's is not for us"


def test_everybody_s_remotes(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "everybody"
    (folder / "servercerts").mkdir(parents=True)
    (folder / "config.yml").write_text("remotes: {site: {addr: 'https://site.example.org'}, lab: {addr: 'https://x'}}")
    (folder / "servercerts" / "site.crt").touch()
    site = incus_remote.find("site", environ)
    assert (site.url, site.certificate) == ("https://site.example.org", folder / "servercerts" / "site.crt")
    assert incus_remote.find("lab", environ).url == "https://incus.example.org:8443", "one's own come first"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lap", "knows no remote 'lap'; did you mean 'lab'?"),
        ("images", "only hands out images"),
        ("login", "logs in by oidc, in a browser"),
    ],
)
def test_what_is_refused(environ: dict[str, str], name: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        incus_remote.find(name, environ)
    assert said in caught.value.message


def test_mistakes_in_the_configuration(environ: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "own" / "incus"
    (folder / "client.key").unlink()
    with pytest.raises(UsageError, match=r"has no .*client\.key"):
        incus_remote.find("lab", environ)
    (folder / "config.yml").write_text("a: [")
    with pytest.raises(UsageError, match="it is not YAML"):
        incus_remote.find("lab", environ)
    (folder / "config.yml").write_text("- a\n")
    with pytest.raises(UsageError, match="no remote"):
        incus_remote.find("lab", environ)
