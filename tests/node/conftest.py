from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

from compute.broker_acl import acl_rule, broker_password, queue_name
from compute.node.drivers.fake import FakeHost
from compute.node.drivers.faults import Fault
from tests.node.control import TOKEN, Control, wait_for

REPO = Path(__file__).resolve().parents[2]
SECRET_KEY = "the cloud's secret"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: unix sockets' paths end at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="cnn") as name:
        yield Path(name)


@pytest.fixture
def control(place: Path) -> Iterator[Control]:
    served = Control(place / "web.sock")
    yield served
    served.down()


class Broker:
    """A real Redis on a unix socket, with one user of the control plane and one for each host."""

    def __init__(self, place: Path) -> None:
        self.socket = place / "redis.sock"
        self._place = place
        self.process: subprocess.Popen[bytes] | None = None
        self.hosts: set[str] = set()
        self.up()

    def up(self) -> None:
        options = {"port": 0, "unixsocket": self.socket, "save": "", "dir": self._place, "requirepass": "control"}
        command = ["redis-server", "--logfile", str(self._place / "redis.log")]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.process = subprocess.Popen(command)
        wait_for(self._answers, 10, "Redis")
        for host_id in self.hosts:
            self.admit(host_id)

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.ConnectionError:
            return False

    def down(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self, user: str = "default", password: str = "control") -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self.socket),
            username=user,
            password=password,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )

    def admit(self, host_id: str) -> None:
        self.hosts.add(host_id)
        rule = acl_rule(host_id, broker_password(SECRET_KEY, host_id))
        self.client().execute_command("ACL", "SETUSER", f"host-{host_id}", *rule)  # type: ignore[no-untyped-call]

    def url(self, host_id: str) -> str:
        return f"redis+socket://host-{host_id}:{broker_password(SECRET_KEY, host_id)}@{self.socket}"

    def app(self) -> Celery:
        app = Celery("control", broker=f"redis+socket://default:control@{self.socket}", set_as_current=False)
        app.conf.broker_transport_options = {"socket_timeout": 2, "socket_connect_timeout": 2}
        return app

    def ring(self, host_id: str, *args: Any, times: int = 1) -> None:
        """Ring as the relay does."""
        app = self.app()
        for _ in range(times):
            app.send_task("cenote.node.ring", args=list(args), queue=queue_name(host_id), expires=60, retry=False)
        app.close()


@pytest.fixture
def broker(place: Path) -> Iterator[Broker]:
    made = Broker(place)
    yield made
    if made.process is not None:
        made.process.send_signal(signal.SIGCONT)
    made.down()


class Worker:
    """A node worker in its own process, as the supervisor starts it, on a fake host."""

    def __init__(self, place: Path, control: Control, broker: Broker | None) -> None:
        self.place, self.host_id = place, str(uuid.uuid4())
        self.state_dir = place / "node"
        self.fake_file = place / "local" / "fake.json"
        self.log_file = place / "worker.log"
        if broker is not None:
            broker.admit(self.host_id)
        self.env = {
            "PATH": os.environ["PATH"],
            "CENOTE_NODE_ID": self.host_id,
            "CENOTE_NODE_TOKEN": TOKEN,
            "CENOTE_NODE_API": f"http+unix://{control.socket}",
            "CENOTE_NODE_BROKER": "" if broker is None else broker.url(self.host_id),
            "CENOTE_NODE_STATE_DIR": str(self.state_dir),
            "CENOTE_NODE_SHARED_DIR": str(place / "shared"),
            "CENOTE_NODE_LOCAL_DIR": str(place / "local"),
            "CENOTE_NODE_DRIVER": "fake",
            "CENOTE_NODE_VCPUS": "4",
            "CENOTE_NODE_MEMORY_MIB": "4096",
            "CENOTE_NODE_DISK_GIB": "100",
        }
        self.process: subprocess.Popen[bytes] | None = None

    def inject(self, *faults: Fault) -> None:
        """Before `start`: faults that the driver will meet."""
        self.fake_file.parent.mkdir(exist_ok=True)
        host = FakeHost.load(self.fake_file)
        host.inject(*faults)

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "compute.node"], cwd=REPO, env=self.env, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return self.log_file.read_text()

    def host(self) -> FakeHost:
        return FakeHost.load(self.fake_file)

    def struck(self) -> bool:
        """Whether every injected fault has struck."""
        return all(fault.times == 0 for fault in self.host().faults)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, seconds: float = 12.0) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)


@pytest.fixture
def worker(place: Path, control: Control, broker: Broker) -> Iterator[Worker]:
    """Not started yet: a test may inject faults before."""
    made = Worker(place, control, broker)
    yield made
    made.kill()
    print(made.log())  # shown by pytest when the test fails


def children_of(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(text) for text in task.read_text().split()]
    return found
