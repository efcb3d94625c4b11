"""The stub's tarball, in the layout of roboconf-karaf-dist-agent-VERSION.tar.gz.

`python -m tests.stub_roboconf.archive VERSION FOLDER` writes it and prints its path.
"""

from __future__ import annotations

import gzip
import io
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
_KARAF = """\
#!/bin/sh
# Karaf's start script, as far as an agent's unit uses it.
home=${KARAF_HOME:-$(cd "$(dirname "$0")/.." && pwd)}
PYTHONPATH=$home/lib/stub exec python3 -B -m tests.stub_roboconf.agent "$home" "$@"
"""
_START = '#!/bin/sh\nnohup "$(dirname "$0")/karaf" server >/dev/null 2>&1 &\n'
_LOGGING = """\
log4j.rootLogger=INFO, out, osgi:*
log4j.appender.out.file=${karaf.data}/log/karaf.log
log4j.logger.net.roboconf=TRACE, roboconf
log4j.appender.roboconf.file=${karaf.data}/log/roboconf.log
"""
_RABBITMQ = """\
net.roboconf.messaging.rabbitmq.server.ip = localhost
net.roboconf.messaging.rabbitmq.server.username = guest
net.roboconf.messaging.rabbitmq.server.password = guest
"""
_HTTP = "net.roboconf.messaging.http.server.ip = localhost\nnet.roboconf.messaging.http.server.port = 8181\n"


def configuration(version: str) -> str:
    """net.roboconf.agent.configuration.cfg as that version ships it."""
    number = tuple(map(int, version.split(".")))
    lines = [f"messaging-type = {'idle' if number >= (0, 9) else 'http'}"]
    lines += ["domain = default"] if number >= (0, 8) else []
    lines += ["parameters = " if number >= (0, 9) else "target-id = "]
    lines += ["application-name = ", "scoped-instance-path = ", "ip-address-of-the-agent = "]
    lines += ["network-interface = eth0"] if number >= (0, 8) else []
    return "".join(f"{line}\n" for line in lines)


def files(version: str) -> dict[str, tuple[str, int]]:
    """(content, mode) by the path in the archive."""
    etc = {
        "net.roboconf.agent.configuration.cfg": configuration(version),
        "net.roboconf.messaging.rabbitmq.cfg": _RABBITMQ,
        "net.roboconf.messaging.http.cfg": _HTTP,
        "org.ops4j.pax.logging.cfg": _LOGGING,
        "org.apache.karaf.shell.cfg": "sshPort = 8101\nsshHost = 0.0.0.0\nhostKey = ${karaf.etc}/host.key\n",
        "org.apache.karaf.management.cfg": (
            "rmiRegistryPort = 1099\nrmiRegistryHost = 0.0.0.0\nrmiServerPort = 44444\nrmiServerHost = 0.0.0.0\n"
        ),
        "users.properties": "karaf = karaf,_g_:admingroup\n_g_\\:admingroup = group,admin,manager,viewer\n",
        "keys.properties": "#karaf=AAAA,_g_:admingroup\n_g_\\:admingroup = group,admin,manager,viewer\n",
    }
    stub = {
        name: (HERE / name).read_text(encoding="utf-8") for name in ("__init__.py", "agent.py", "amqp.py", "java.py")
    }
    return {
        "bin/karaf": (_KARAF, 0o755),
        "bin/start": (_START, 0o755),
        "bin/stop": ('#!/bin/sh\nexec "$(dirname "$0")/karaf" stop\n', 0o755),
        "bin/client": ("#!/bin/sh\necho 'the stub has no console' >&2\nexit 1\n", 0o755),
        "bin/setenv": ("# Environment of Karaf.\n", 0o755),
        **{f"etc/{name}": (text, 0o644) for name, text in etc.items()},
        "lib/stub/tests/__init__.py": ("", 0o644),
        **{f"lib/stub/tests/stub_roboconf/{name}": (text, 0o644) for name, text in stub.items()},
        "lib/stub/version": (version, 0o644),
        "deploy/README": ("Bundles and features.\n", 0o644),
        "data/tmp/README": ("Karaf's.\n", 0o644),
    }


def make(version: str, target: Path) -> Path:
    """Writes the tarball; the same version gives the same bytes."""
    head = f"roboconf-karaf-dist-agent-{version}"
    with (
        target.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, (text, mode) in sorted(files(version).items()):
            member = tarfile.TarInfo(f"{head}/{name}")
            member.size, member.mode = len(text.encode()), mode
            archive.addfile(member, io.BytesIO(text.encode()))
    return target


if __name__ == "__main__":
    print(make(sys.argv[1], Path(sys.argv[2]) / f"roboconf-karaf-dist-agent-{sys.argv[1]}.tar.gz"))
