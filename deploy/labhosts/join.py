"""Makes a machine a host: redeems a one-time token and writes what libvirt and the node worker need.

The same code serves a real machine (`deploy/join`, root "/") and the lab's hosts (root: a directory whose parts are
bound into the host's namespaces). The private key never leaves the machine.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import httpx

from compute.pki import make_request
from deploy.steps.files import env_text, read_env, write
from deploy.steps.progress import SetupError

QEMU_CONF = """# Written by the join. One line of reason each:
# files on the pool's storage are root's, whatever the host
user = "root"
group = "root"
# no AppArmor or SELinux in the lab; a real machine keeps its own default
security_driver = "none"
# /dev is the lab host's own already
namespaces = []
# several hosts open the same storage: ownership must not be remembered by one of them
remember_owner = 0
stdio_handler = "file"
migration_port_min = 49152
migration_port_max = 49215
"""
QEMU_CONF_REAL = """# Written by the join. Confinement (AppArmor, /dev of its own) stays as the distribution has it.
# guests' directories belong to the node worker (0700): another user could not write consoles and sockets there
user = "root"
group = "root"
# several hosts open the same storage: ownership must not be remembered by one of them
remember_owner = 0
stdio_handler = "file"
"""


@dataclass(frozen=True, slots=True)
class HostFiles:
    """Where a host's files are, as seen from where the join runs."""

    etc_libvirt: Path
    etc_pki: Path
    etc_cenote: Path

    @classmethod
    def real(cls) -> HostFiles:
        return cls(Path("/etc/libvirt"), Path("/etc/pki"), Path("/etc/cenote"))

    @classmethod
    def below(cls, folder: Path) -> HostFiles:
        return cls(folder / "etc" / "libvirt", folder / "etc" / "pki", folder / "etc" / "cenote")


@dataclass(frozen=True, slots=True)
class Slice:
    """What the machine offers to the cloud: vCPU, MiB, GiB."""

    vcpus: int
    memory_mib: int
    disk_gib: int


def joined(files: HostFiles) -> bool:
    """Return whether the machine has been joined already."""
    return "CENOTE_NODE_TOKEN" in read_env(files.etc_cenote / "node.env")


def note_code(files: HostFiles, *, code: Path, venv: Path) -> None:
    """Have a joined host run this checkout: after an upgrade or a restore it may lie elsewhere than at the join."""
    file = files.etc_cenote / "node.env"
    values = read_env(file) | {"CENOTE_CODE": str(code), "CENOTE_VENV": str(venv)}
    write(file, env_text(values), mode=0o600)


def write_libvirt(files: HostFiles, *, lab: bool) -> None:
    """Write libvirt's configuration: an identity of its own, TLS only, and only for names that the CA signed."""
    files.etc_libvirt.mkdir(parents=True, exist_ok=True)
    kept = files.etc_libvirt / "host_uuid"
    if not kept.exists():
        write(kept, f"{uuid.uuid4()}\n")
    write(files.etc_libvirt / "qemu.conf", QEMU_CONF if lab else QEMU_CONF_REAL)
    write(
        files.etc_libvirt / "libvirtd.conf",
        f"""# Written by the join.
# without an identity of its own two hosts of one machine take each other for the same
host_uuid = "{kept.read_text().strip()}"
listen_tls = 1
listen_tcp = 0
auth_tls = "none"
tls_no_verify_certificate = 0
unix_sock_group = "root"
auth_unix_rw = "none"
keepalive_interval = 5
keepalive_count = 5
""",
    )


def lend_certificate(files: HostFiles) -> None:
    """Let guests' memory travel under the certificate with which the host's daemon speaks: QEMU looks for it elsewhere."""
    daemon, guests = files.etc_pki / "libvirt", files.etc_pki / "qemu"
    guests.mkdir(parents=True, exist_ok=True)
    write(guests / "ca-cert.pem", (files.etc_pki / "CA" / "cacert.pem").read_text())
    for side in ("server", "client"):
        write(guests / f"{side}-cert.pem", (daemon / f"{side}cert.pem").read_text())
        write(guests / f"{side}-key.pem", (daemon / "private" / f"{side}key.pem").read_text(), mode=0o600)


def join(
    *,
    files: HostFiles,
    api: str,
    token: str,
    name: str,
    address: str,
    share: Slice,
    code: Path,
    venv: Path,
    ca_file: Path | None = None,
    lab: bool = False,
) -> str:
    """Join and return the host's id. Raises SetupError with what would help. May be run again with a fresh token."""
    key_pem, csr_pem = make_request(name)
    answer = _ask(api, {"token": token, "name": name, "address": address, "csr_pem": csr_pem}, ca_file)
    for folder in (files.etc_pki / "CA", files.etc_pki / "libvirt" / "private", files.etc_cenote):
        folder.mkdir(parents=True, exist_ok=True)
    write(files.etc_pki / "CA" / "cacert.pem", answer["ca_pem"])
    for side in ("server", "client"):
        write(files.etc_pki / "libvirt" / f"{side}cert.pem", answer["cert_pem"])
        write(files.etc_pki / "libvirt" / "private" / f"{side}key.pem", key_pem.decode(), mode=0o600)
    lend_certificate(files)
    write_libvirt(files, lab=lab)
    env = {
        "CENOTE_NODE_ID": answer["host_id"],
        "CENOTE_NODE_TOKEN": answer["node_token"],
        "CENOTE_NODE_API": api,
        "CENOTE_NODE_BROKER": _broker(api, answer["broker_url"]),
        "CENOTE_NODE_STATE_DIR": "/var/lib/cenote/node",
        "CENOTE_NODE_SHARED_DIR": "/var/lib/cenote/shared",
        "CENOTE_NODE_LOCAL_DIR": "/var/lib/cenote/local",
        "CENOTE_NODE_DRIVER": "libvirt",
        "CENOTE_NODE_VCPUS": str(share.vcpus),
        "CENOTE_NODE_MEMORY_MIB": str(share.memory_mib),
        "CENOTE_NODE_DISK_GIB": str(share.disk_gib),
        "CENOTE_NODE_UNDERLAY": address,
        "CENOTE_CODE": str(code),
        "CENOTE_VENV": str(venv),
    }
    if ca_file is not None:
        # A copy: what the join was given may lie in /tmp.
        kept = files.etc_cenote / "cloud-ca.pem"
        write(kept, ca_file.read_text())
        env["CENOTE_NODE_CA_FILE"] = "/etc/cenote/cloud-ca.pem"
    # Last, and whole: a join that was cut off before this is simply done again.
    write(files.etc_cenote / "node.env", env_text(env), mode=0o600)
    return str(answer["host_id"])


def _broker(api: str, broker_url: str) -> str:
    """A broker behind a socket of the cloud's own machine is out of a real machine's reach: its worker then asks by itself."""
    return "" if api.startswith("https://") and broker_url.startswith("redis+socket://") else broker_url


def _ask(api: str, body: dict[str, str], ca_file: Path | None) -> dict[str, str]:
    if api.startswith("http+unix://"):
        transport, base = httpx.HTTPTransport(uds=api.removeprefix("http+unix://")), "http://nodeapi"
    elif api.startswith("https://"):
        transport, base = httpx.HTTPTransport(verify=str(ca_file) if ca_file else True), api.rstrip("/")
    else:
        raise SetupError("the cloud's address has to begin with https:// (a token must not travel in clear)")
    try:
        with httpx.Client(transport=transport, timeout=20) as client:
            answer = client.post(f"{base}/nodeapi/v1/join", json=body)
            data: dict[str, str] = answer.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise SetupError(f"the cloud at {api} does not answer: {error}") from None
    if answer.status_code != 201:
        raise SetupError(f"the cloud refuses the join: {data.get('detail', answer.status_code)}")
    return data
