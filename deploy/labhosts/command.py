"""`deploy/lab`: look at the lab's hosts, enter them, pull their plug."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from compute.node.network.records import find_port
from deploy.labhosts import lab, namespaces
from deploy.labhosts.namespaces import LabHost
from deploy.steps.place import Place
from deploy.steps.progress import SetupError
from deploy.steps.supervisor import Supervisor


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/lab", description="The lab's hosts.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="hosts, their processes and guests")
    execute = verbs.add_parser("exec", help="run a command inside a host's namespaces")
    execute.add_argument("host")
    execute.add_argument("command", nargs=argparse.REMAINDER)
    for verb, text in (
        ("kill", "pull a host's plug"),
        ("fence", "pull it and say so as a proof"),
        ("start", "switch it on again"),
        ("remove", "take it out for good"),
    ):
        verbs.add_parser(verb, help=text).add_argument("host")
    verbs.add_parser("add", help="one more host")
    proxy = verbs.add_parser("proxy", help="connect standard input and output to a guest (for ssh's ProxyCommand)")
    proxy.add_argument("address")
    proxy.add_argument("port")
    options = parser.parse_args()
    place = Place.here()
    try:
        return _do(place, options)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1


def _do(place: Place, options: argparse.Namespace) -> int:
    supervisor = Supervisor(place)
    if options.verb == "proxy":
        return _proxy(place, options.address, options.port)
    if options.verb == "status":
        return _status(place, supervisor)
    if options.verb == "add":
        number = max((host.number for host in lab.hosts(place)), default=0) + 1
        host = LabHost(place, number)
        lab.write_fencing(place, [*lab.hosts(place), host])
        lab.bring_up(place, supervisor, host, count=number)
        print(f"{host.name} has joined; it proves itself now")
        return 0
    host = lab.host_named(place, options.host)
    if options.verb == "exec":
        command = options.command[1:] if options.command[:1] == ["--"] else options.command
        if not command:
            raise SetupError("usage: deploy/lab exec HOST -- COMMAND...")
        if not host.exists():
            raise SetupError(f"{host.name} is off: deploy/lab start {host.name}")
        words = [*host.enter(), *command]
        os.execvp(words[0], words)
    if options.verb == "kill":
        print(f"{host.name} is off: {lab.power_off(supervisor, host)} processes ended")
    elif options.verb == "fence":
        ended = lab.power_off(supervisor, host)
        # The last line of a fencing hook. Whoever pulls this plug looks until no process is left, or says so and fails.
        print(f"off: {host.name} has no process left, {ended} ended")
    elif options.verb == "start":
        lab.bring_up(place, supervisor, host, count=len(lab.hosts(place)))
        print(f"{host.name} is on")
    else:
        lab.remove(place, supervisor, host)
        print(f"{host.name} is gone from the lab")
    return 0


def _proxy(place: Place, address: str, port: str) -> int:
    """Enter the network of the host that has the guest: its gateway address is every host's, so no other one will do."""
    for host in lab.hosts(place):
        if find_port(host.dir / "run" / "cenote" / "network", address) is not None:
            words = ["nsenter", f"--net=/run/netns/{host.netns}", "--", "nc", "-w", "30", address, port]
            os.execvp(words[0], words)
    print(f"no lab host has a guest at {address}", file=sys.stderr)
    return 1


def _status(place: Place, supervisor: Supervisor) -> int:
    states = supervisor.status() if supervisor.running() else {}
    for host in lab.hosts(place):
        parts = " ".join(
            f"{program.name.removeprefix(host.name + '-')}={states.get(program.name, 'off').lower()}"
            for program in lab.programs(host)
        )
        count = len(namespaces.processes(host)) if Path(f"/run/netns/{host.netns}").exists() else 0
        print(f"{host.name}  {host.address}  {'on' if host.exists() else 'off'}  {parts}  processes={count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
