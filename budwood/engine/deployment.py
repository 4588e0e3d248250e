"""A model as a folder from which a server is installed: for Docker, or for systemd.

The folder holds the model, this Budwood as a wheel and the exact versions of what it needs. All that is put into a file
that a tool executes is checked to be a plain word first, and instructions have the JSON form, so there is no shell.
"""

import json
import re
import sys
from pathlib import Path

from budwood.core.bundle import Bundle
from budwood.core.commit import staged
from budwood.core.errors import UsageError
from budwood.engine.installation import requirements, write_wheel
from budwood.engine.predictor import task_of

__all__ = ["BASE_IMAGE", "write_docker", "write_systemd"]

BASE_IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
"""The official image of the Python version with which the versions were tried."""
PORT = 8000
MODELS = "/srv/models"
USER = 10001
EXTRAS = {"molecule_property": ("chem",)}
"""By task: the extras of Budwood that serving needs."""
PATTERNS = {
    "name": r"[a-z0-9][a-z0-9._-]{0,62}",
    "image": r"[a-z0-9][a-z0-9._/:-]{0,200}(@sha256:[0-9a-f]{64})?",
    "license": r"[A-Za-z0-9][A-Za-z0-9 .,_+:/()-]{0,99}",
    "id": r"[0-9a-f]{64}",
    "prefix": r"(/[A-Za-z0-9_][A-Za-z0-9._-]{0,63}){1,8}",
}
PROBE = (
    "import http.client, sys; "
    f"connection = http.client.HTTPConnection('127.0.0.1', {PORT}, timeout=4); "
    "connection.request('GET', '/readyz'); "
    "sys.exit(connection.getresponse().status != 200)"
)


def plain(field: str, value: str) -> str:
    """The value, of which no tool can read anything but a word. Raises UsageError."""
    if re.fullmatch(PATTERNS[field], value, re.ASCII) is None:
        fix = f"the {field} has to match {PATTERNS[field]}"
        raise UsageError(f"{value[:80]!a} cannot be the {field} there", where="budwood export", fix=fix)
    return value


def license_label(license: str) -> str:
    """The license, or the word of SPDX for one that is not stated where it says more than a label may hold."""
    return license if re.fullmatch(PATTERNS["license"], license, re.ASCII) else "NOASSERTION"


def write_docker(bundle: Bundle, out: Path, name: str, image: str = BASE_IMAGE) -> Path:
    """Write a folder from which `docker build` makes an image that serves the model, as a user without rights.

    Args:
        image: what it is built on: a Debian with Python, of the version that runs here.

    Raises:
        UsageError: `out` exists, or a name in it is no plain word.
    """
    plain("name", name)
    plain("image", image)
    labels = {
        "title": name,
        "revision": plain("id", bundle.id),
        "licenses": license_label(bundle.manifest.license),
    }
    with staged(out) as stage:
        wheel = fill(bundle, stage, name)
        (stage / "Dockerfile").write_text(dockerfile(name, image, wheel, labels), encoding="utf-8")
        (stage / ".dockerignore").write_text(f"*\n!models\n!requirements.txt\n!{wheel}\n", encoding="utf-8")
        (stage / "compose.yaml").write_text(compose(name, memory_mb(bundle)), encoding="utf-8")
        (stage / "README.md").write_text(docker_read_me(name), encoding="utf-8")
    return out


def fill(bundle: Bundle, stage: Path, name: str) -> str:
    """Put the model, the wheel and the versions into a folder; the wheel's name."""
    bundle.copy(stage / "models" / name)
    wheel = write_wheel(stage).name
    lines = requirements(EXTRAS.get(task_of(bundle).name, ()))
    (stage / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return wheel


def dockerfile(name: str, image: str, wheel: str, labels: dict[str, str]) -> str:
    """Two stages: one installs, and one is served from, which has no installer and no write access."""
    home = "/srv/venv"
    python = f"{home}/bin/python"
    install = [python, "-m", "pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--no-deps"]
    serve = [f"{home}/bin/budwood", "serve", f"{MODELS}/{name}", "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104
    steps = [
        ("FROM", f"{image} AS build"),
        ("COPY", ["requirements.txt", wheel, "/build/"]),
        ("RUN", ["python", "-m", "venv", home]),
        ("RUN", [*install, "--only-binary=:all:", "-r", "/build/requirements.txt"]),
        ("RUN", [*install, f"/build/{wheel}"]),
        ("RUN", [python, "-m", "pip", "uninstall", "--yes", "pip"]),
        ("FROM", image),
        ("LABEL", " ".join(f"org.opencontainers.image.{key}={json.dumps(value)}" for key, value in labels.items())),
        ("ENV", 'PYTHONDONTWRITEBYTECODE="1" PYTHONUNBUFFERED="1" HF_HUB_OFFLINE="1" HOME="/tmp"'),
        ("COPY --from=build", [home, home]),
        ("COPY", ["models", MODELS]),
        ("USER", f"{USER}:{USER}"),
        ("WORKDIR", "/srv"),
        ("EXPOSE", str(PORT)),
        ("STOPSIGNAL", "SIGTERM"),
        ("HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD", [python, "-c", PROBE]),
        ("ENTRYPOINT", [*serve, "--runtime", "onnxruntime"]),
        ("CMD", ["--keys", "/run/budwood/keys"]),
    ]
    return "".join(f"{word} {what if isinstance(what, str) else json.dumps(what)}\n" for word, what in steps)


def compose(name: str, memory: int) -> str:
    """The same, run without write access, capabilities or more memory than it may take."""
    service = {
        "build": ".",
        "ports": [f"127.0.0.1:{PORT}:{PORT}"],
        "volumes": ["./keys:/run/budwood:ro"],
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108  # of the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 512,
        "mem_limit": f"{memory}m",
        "stop_grace_period": "40s",
        "restart": "on-failure",
    }
    # JSON is YAML, and leaves no doubt where a value ends.
    return json.dumps({"services": {name: service}}, indent=2) + "\n"


def docker_read_me(name: str) -> str:
    return f"""# {name} in a container

    mkdir keys && budwood keys make keys/keys me && chmod a+r keys/keys
    docker compose up --build

Then `curl localhost:{PORT}/predict -H "authorization: Bearer KEY" -H 'content-type: application/json' -d …`.

- `keys/keys` holds hashes of random keys of 256 bits, so all may read it, as the user in the container has to.
  The folder is mounted, not the file, so that keys that are made or revoked later are seen.
- The image is built from the exact versions in `requirements.txt` and the wheel beside it. To pin the base image too,
  write its digest after `FROM`, or export with `--image NAME@sha256:…`.
- `docker stop` lets accepted requests finish; give it 40 seconds (`--time 40`).
"""


def write_systemd(bundle: Bundle, out: Path, name: str, prefix: str = "/srv/budwood") -> Path:
    """Write a folder with a unit that serves the model as a user of its own, without rights, behind a proxy.

    Args:
        prefix: the folder of the machine under which it is installed.

    Raises:
        UsageError: `out` exists, or a name in it is no plain word.
    """
    plain("name", name)
    plain("prefix", prefix)
    with staged(out) as stage:
        wheel = fill(bundle, stage, name)
        unit = UNIT.format(name=name, prefix=prefix, memory=memory_mb(bundle))
        (stage / f"budwood-{name}.service").write_text(unit, encoding="utf-8")
        (stage / "README.md").write_text(systemd_read_me(name, prefix, wheel), encoding="utf-8")
    return out


def memory_mb(bundle: Bundle) -> int:
    """A limit that no sound server of this model reaches: 2 GB, or eight times the model beside 1 GB."""
    size = sum(record.bytes for record in bundle.manifest.files.values())
    return max(2048, 1024 + 8 * size // 1_000_000)


UNIT = """\
# Installed by README.md. Check changes with: systemd-analyze verify FILE; systemd-analyze security --offline=yes FILE
[Unit]
Description=Budwood serves {name}
After=network.target
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=exec
ExecStart={prefix}/venv/bin/budwood serve {prefix}/models/{name} --host 127.0.0.1 --port 8000 --runtime onnxruntime
Environment=PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
Restart=on-failure
RestartSec=1
# SIGTERM lets accepted requests finish; the main process tells its workers.
KillMode=mixed
TimeoutStopSec=40

DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
RemoveIPC=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
CapabilityBoundingSet=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0077

MemoryMax={memory}M
TasksMax=512
LimitNOFILE=65536
LimitCORE=0

[Install]
WantedBy=multi-user.target
"""


def systemd_read_me(name: str, prefix: str, wheel: str) -> str:
    return f"""# {name} under systemd

    sudo mkdir -p {prefix} && sudo cp -r models {prefix}/
    sudo python{sys.version_info.major}.{sys.version_info.minor} -m venv {prefix}/venv
    sudo {prefix}/venv/bin/pip install --no-deps --only-binary=:all: -r requirements.txt
    sudo {prefix}/venv/bin/pip install --no-deps {wheel}
    sudo cp budwood-{name}.service /etc/systemd/system/
    sudo systemctl enable --now budwood-{name}

It listens on 127.0.0.1:{PORT} for a proxy on the same machine that ends TLS. A proxy that hands on the `Host` of its
visitors needs `--allow-host NAME` after `serve`. Where others can reach the port, `--host 0.0.0.0 --keys {prefix}/keys`
belongs there; make the file with `budwood keys make`, and let all read it (`chmod a+r`): it holds hashes only.
"""
