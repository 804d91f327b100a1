"""`deploy/join`, after the packages: a real machine becomes a host, by the same join as the lab's hosts."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

from deploy.labhosts.join import HostFiles, Slice, join, joined, note_code
from deploy.labhosts.lab import programs_of_machine
from deploy.steps import service
from deploy.steps.files import write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import Progress, SetupError, run
from deploy.steps.supervisor import Supervisor

HOME = Path("/var/lib/cenote")
LIBVIRT_SECONDS = 40
GUESTS_CONF = Path("/etc/default/libvirt-guests")
GUESTS_TEXT = """# Written by the join. When the machine goes down, its guests are asked to shut down instead of losing power;
# when it is back, the cloud starts those that are to run.
URIS="qemu:///system lxc:///system"
ON_BOOT=ignore
ON_SHUTDOWN=shutdown
PARALLEL_SHUTDOWN=100
SHUTDOWN_TIMEOUT=60
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/join", description="Make this machine a host of a cloud.")
    parser.add_argument("--cloud", required=True, help="https://NAME:PORT of the cloud's door")
    parser.add_argument("--token", help="the one-time token (or CENOTE_JOIN_TOKEN, which `ps` does not show)")
    parser.add_argument("--ca", type=Path, help="the cloud's ca.pem, where no public authority signed its certificate")
    parser.add_argument("--name", default=socket.gethostname().split(".")[0])
    parser.add_argument("--address", help="this machine's address towards the other hosts (default: towards the cloud)")
    parser.add_argument("--vcpus", type=int, help="processors offered (default: all)")
    parser.add_argument("--memory-mib", type=int, help="memory offered (default: four fifths)")
    parser.add_argument("--disk-gib", type=int, help="disk offered (default: four fifths of what is free)")
    parser.add_argument("--again", action="store_true", help="join anew with a fresh token; guests stay")
    options = parser.parse_args()
    os.umask(0o022)
    progress = Progress(3)
    try:
        with progress.step("Join"):
            _join(options)
        with progress.step("libvirt"):
            supervisor = _start_libvirt()
        with progress.step("Node worker"):
            if supervisor is None:
                service.enable(*service.node_unit(), now=True)
            else:
                supervisor.start("node")
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"{options.name} has joined and proves itself now: cenote host list shows when it is in service.")
    return 0


def _join(options: argparse.Namespace) -> None:
    files = HostFiles.real()
    if joined(files) and not options.again:
        note_code(files, code=REPO, venv=Place.here().venv)
        return
    token = options.token or os.environ.get("CENOTE_JOIN_TOKEN", "")
    if not token:
        raise SetupError("A token is needed: --token, or CENOTE_JOIN_TOKEN in the environment.")
    marker = HOME / "shared" / ".cenote-storage"
    if not marker.exists():
        raise SetupError(
            f"The pool's storage is not there: mount it at {marker.parent} (the cloud has it at <state>/shared; "
            "on other machines it is an NFS or other shared mount), then join again."
        )
    for folder in ("local", "node"):
        (HOME / folder).mkdir(mode=0o711, parents=True, exist_ok=True)
    for file in ("libvirtd.conf", "qemu.conf"):
        _keep(files.etc_libvirt / file)
    join(
        files=files,
        api=options.cloud,
        token=token,
        name=options.name,
        address=options.address or _address_towards(options.cloud),
        share=_share(options),
        code=REPO,
        venv=Place.here().venv,
        ca_file=options.ca,
    )


def _keep(file: Path) -> None:
    """Keep what was configured before, once: leaving the cloud means putting it back."""
    before = file.with_name(file.name + ".before-cenote")
    if file.exists() and not before.exists():
        shutil.copy2(file, before)


def _address_towards(cloud: str) -> str:
    parts = urllib.parse.urlsplit(cloud)
    if parts.scheme != "https" or not parts.hostname:
        raise SetupError("--address is needed: it cannot be told from the cloud's address.")
    try:
        # Nothing is sent: connecting a datagram socket only asks the routing table.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname, parts.port or 443))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise SetupError(f"There is no way to {parts.hostname} ({error}): see --cloud.") from None


def _share(options: argparse.Namespace) -> Slice:
    memory_mib = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)
    disk_gib = int(shutil.disk_usage(HOME / "shared").free / 2**30)
    share = Slice(
        vcpus=options.vcpus or os.cpu_count() or 1,
        memory_mib=options.memory_mib or memory_mib * 4 // 5,
        disk_gib=options.disk_gib or disk_gib * 4 // 5,
    )
    if min(share.vcpus, share.memory_mib, share.disk_gib) < 1:
        raise SetupError(f"There is nothing to offer: {share}.")
    return share


def _start_libvirt() -> Supervisor | None:
    """Start libvirt with the join's configuration. Return the supervisor that runs it, None where systemd does."""
    supervisor = None
    if service.has_systemd():
        run("systemctl", "enable", "--now", "virtlogd.socket")
        # With socket activation libvirtd listens where sockets say, not where its configuration does.
        run("systemctl", "stop", "libvirtd.service")
        run("systemctl", "enable", "--now", "libvirtd.socket", "libvirtd-tls.socket")
        run("systemctl", "enable", "--now", "libvirtd.service")
        _keep(GUESTS_CONF)
        write(GUESTS_CONF, GUESTS_TEXT, mode=0o644)
        run("systemctl", "enable", "--now", "libvirt-guests.service")
    else:
        place = Place(state=HOME / "supervisor", venv=Place.here().venv, port=0)
        for folder in (place.private, place.log):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        supervisor = Supervisor(place)
        changed = supervisor.configure("node", programs_of_machine())
        supervisor.ensure()
        if changed:
            supervisor.apply()
        supervisor.start("virtlogd", "libvirtd")
    for uri in ("qemu:///system", "lxc:///system"):
        deadline = time.monotonic() + LIBVIRT_SECONDS
        while subprocess.run(["virsh", "-c", uri, "version"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SetupError(f"libvirt does not answer for {uri}: virsh -c {uri} version tells why")
            time.sleep(0.3)
    return supervisor


if __name__ == "__main__":
    sys.exit(main())
