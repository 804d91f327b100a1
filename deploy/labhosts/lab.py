"""Hosts of the lab as a whole: slices, joining, starting, killing, removing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from deploy.labhosts import namespaces
from deploy.labhosts.join import HostFiles, Slice, join, joined, lend_certificate, note_code, write_libvirt
from deploy.labhosts.namespaces import LabHost
from deploy.steps.control import manage
from deploy.steps.files import write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError, run
from deploy.steps.supervisor import Program, Supervisor

LIBVIRT_SECONDS = 40
GUESTS_SECONDS = 20
URIS = ("qemu:///system", "lxc:///system")


def hosts(place: Place) -> list[LabHost]:
    """Return the hosts that the lab has, by number."""
    names = [entry.name for entry in (place.state / "lab").glob("host*") if entry.name[4:].isdecimal()]
    return [LabHost(place, number) for number in sorted(int(name[4:]) for name in names)]


def host_named(place: Place, name: str) -> LabHost:
    for host in hosts(place):
        if host.name == name:
            return host
    known = ", ".join(host.name for host in hosts(place)) or "none"
    raise SetupError(f"there is no lab host {name!r}; there are: {known}")


def share_of(place: Place, count: int) -> Slice:
    """Return the slice that each of `count` hosts declares: together half of the machine's memory and free disk.

    A host declares at least one processor; the pool's overcommit ratio multiplies it.
    """
    memory_mib = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20)
    disk_gib = int(shutil.disk_usage(place.state).free / 2**30)
    return Slice(
        vcpus=max(1, (os.cpu_count() or 1) // count),
        memory_mib=max(512, memory_mib // 2 // count),
        disk_gib=max(4, disk_gib // 2 // count),
    )


def programs(host: LabHost) -> list[Program]:
    """Return the host's processes: the log daemon and libvirtd, then its node worker."""
    return _programs(f"{host.name}-", " ".join(host.enter()) + " ")


def programs_of_machine() -> list[Program]:
    """Return the same for a real machine without systemd."""
    return _programs("", "")


def _programs(prefix: str, enter: str) -> list[Program]:
    path = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    root = Path("/")
    return [
        Program(f"{prefix}virtlogd", f"{enter}virtlogd", path, priority=30, directory=root),
        Program(f"{prefix}libvirtd", f"{enter}libvirtd --listen", path, priority=31, directory=root),
        Program(
            f"{prefix}node",
            f"{enter}{REPO}/deploy/labhosts/run-node",
            path,
            priority=32,
            directory=root,
            stop_seconds=15,
        ),
    ]


def bring_up(place: Place, supervisor: Supervisor, host: LabHost, *, count: int) -> bool:
    """Have a host exist, be joined, and run. What is so already is left alone. Return whether it was off before."""
    was_off = start_libvirt(place, supervisor, host, count=count)
    start_node(supervisor, host)
    return was_off


def start_libvirt(place: Place, supervisor: Supervisor, host: LabHost, *, count: int) -> bool:
    """The first half of `bring_up`. It does not wait for libvirt, so that several hosts' can look at QEMU at once."""
    namespaces.make_switch(place)
    rebooted = not host.exists()
    namespaces.make_host(host)
    if rebooted or not (host.dir / "run" / "cenote" / "boot_id").exists():
        namespaces.boot(host)
    files = HostFiles.below(host.dir)
    if not joined(files):
        token = manage(place, "host_join_token", "--pool", "lab", "--name", host.name).strip().splitlines()[-1]
        join(
            files=files,
            api=f"http+unix://{place.doors / 'web.sock'}",
            token=token,
            name=host.name,
            address=host.address,
            share=share_of(place, count),
            code=REPO,
            venv=place.venv,
            lab=True,
        )
    note_code(files, code=REPO, venv=place.venv)
    lend_certificate(files)
    write_libvirt(files, lab=True)
    changed = supervisor.configure(host.name, programs(host))
    if changed:
        supervisor.apply()
    supervisor.start(f"{host.name}-virtlogd", f"{host.name}-libvirtd")
    return rebooted


def start_node(supervisor: Supervisor, host: LabHost) -> None:
    """The second half of `bring_up`: the node worker, once libvirt answers."""
    _wait_for_libvirt(host)
    supervisor.start(f"{host.name}-node")


def _wait_for_libvirt(host: LabHost) -> None:
    deadline = time.monotonic() + LIBVIRT_SECONDS
    for uri in URIS:
        while True:
            done = subprocess.run(
                [*host.enter(), "virsh", "-c", uri, "version"], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                break
            if time.monotonic() > deadline:
                log = host.place.log / f"{host.name}-libvirtd.log"
                tail = log.read_text(errors="replace")[-1200:] if log.exists() else ""
                raise SetupError(f"libvirt of {host.name} does not answer for {uri}: {done.stderr.strip()}\n{tail}")
            time.sleep(0.2)


def write_fencing(place: Place, hosts_known: list[LabHost]) -> None:
    """Tell the control plane how the lab's hosts are switched off for sure; other hosts have their own file."""
    surroundings = (f"CENOTE_STATE_DIR={place.state}", f"CENOTE_VENV={place.venv}")
    text = "# Written by deploy/up for the lab's hosts. Name a file of your own in CENOTE_FENCING_FILE for others.\n"
    for host in hosts_known:
        argv = ["/usr/bin/env", *surroundings, str(REPO / "deploy" / "lab"), "fence", "{host}"]
        text += f'\n[hosts.{host.name}]\ndriver = "command"\nargv = {json.dumps(argv)}\nseconds = 60\n'
    write(place.state / "fencing.toml", text, mode=0o600)


def shut_down_guests(supervisor: Supervisor, hosts_on: list[LabHost]) -> int:
    """Ask every guest of these hosts to shut down, as a machine does before it goes off. Return how many did not.

    The node workers end first: they would take a guest that stops for one to be started again.
    """
    supervisor.stop(*(f"{host.name}-node" for host in hosts_on))
    for host in hosts_on:
        for uri, name in _guests(host):
            subprocess.run([*host.enter(), "virsh", "-c", uri, "shutdown", name], capture_output=True, check=False)
    deadline = time.monotonic() + GUESTS_SECONDS
    while (left := sum(len(_guests(host)) for host in hosts_on)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return left


def _guests(host: LabHost) -> list[tuple[str, str]]:
    """Return URI and name of each running guest; none where libvirt does not answer."""
    found = []
    for uri in URIS:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*host.enter(), "virsh", "-c", uri, "list", "--name"],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
            found += [(uri, name) for name in done.stdout.split()]
    return found


def power_off(supervisor: Supervisor, host: LabHost) -> int:
    """Pull the plug: no process of the host survives, guests included. Return how many there were."""
    if supervisor.running():
        supervisor.stop(*(program.name for program in programs(host)))
    ended = namespaces.end_processes(host)
    # Its namespaces go as well: what comes back is a machine that has booted.
    namespaces.unmake(host)
    return ended


def remove(place: Place, supervisor: Supervisor, host: LabHost) -> None:
    """Take a host out of the lab for good. The control plane must have let go of it before."""
    power_off(supervisor, host)
    supervisor.forget(host.name)
    run("rm", "-rf", "--one-file-system", host.dir)


def stop_all(place: Place, supervisor: Supervisor) -> None:
    """End every host and the underlay; directories and joins stay."""
    for host in hosts(place):
        power_off(supervisor, host)
    namespaces.unmake_switch(place)
