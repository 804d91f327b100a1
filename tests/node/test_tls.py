"""A host on another machine: nodeapi and broker over TLS, believed for the cloud's own CA alone."""

from __future__ import annotations

import logging
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from compute import pki
from compute.broker_acl import acl_rule, queue_name
from compute.node.app import make_app
from compute.node.client import ApiUnavailable, NodeApi
from compute.node.drivers.settings import DriverSettings
from compute.node.settings import NodeSettings, SettingsError
from tests.node.control import TOKEN, Control, handler_of, wait_for
from tests.node.orders import an_id


class Authority:
    """A CA, and a server's certificate for 127.0.0.1 (and no other address) by it."""

    def __init__(self, folder: Path) -> None:
        pki.make_ca(folder / "ca")
        key, csr = pki.make_request("cloud")
        self.ca, self.cert, self.key = folder / "ca" / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self.cert.write_text(pki.sign_csr(ca_dir=folder / "ca", csr_pem=csr, name="cloud", addresses=["127.0.0.1"]))
        self.key.write_bytes(key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "ours").mkdir()
    return Authority(tmp_path / "ours")


@pytest.fixture
def port(control: Control, authority: Authority) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(control))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert, authority.key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def api_of(where: str, ca_file: Path | None) -> NodeApi:
    return NodeApi(NodeSettings("h", TOKEN, where, "", Path("/x"), "fake", DriverSettings(1, 1, 1), ca_file))


def test_nodeapi_is_believed_for_its_ca_and_name_only(port: int, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    other = Authority(tmp_path / "theirs")
    assert api_of(f"https://127.0.0.1:{port}", authority.ca).fetch(limit=1, in_hand=[]).calls == ()
    for where, ca_file in (
        (f"https://127.0.0.1:{port}", other.ca),
        (f"https://127.0.0.1:{port}", None),
        (f"https://localhost:{port}", authority.ca),
    ):
        with pytest.raises(ApiUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            api_of(where, ca_file).fetch(limit=1, in_hand=[])
    with pytest.raises(SettingsError):
        api_of("https://127.0.0.1", tmp_path / "missing.pem")


@pytest.fixture
def tls_broker(place: Path, authority: Authority) -> Iterator[int]:
    port = 20000 + int.from_bytes(an_id().encode()[:2], "big") % 10000
    options = {"port": 0, "tls-port": port, "bind": "127.0.0.1", "tls-auth-clients": "no", "save": "", "dir": place}
    options |= {"tls-cert-file": authority.cert, "tls-key-file": authority.key, "tls-ca-cert-file": authority.ca}
    options |= {"unixsocket": place / "redis.sock", "logfile": place / "redis.log"}
    command = ["redis-server"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    process = subprocess.Popen(command)
    yield port
    process.kill()
    process.wait()


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_the_broker_is_believed_for_its_ca_only(
    tls_broker: int, authority: Authority, tmp_path: Path, place: Path, whose: str
) -> None:
    (tmp_path / "theirs").mkdir()
    ca_file = authority.ca if whose == "ours" else Authority(tmp_path / "theirs").ca
    host_id = an_id()
    admin = redis.Redis(unix_socket_path=str(place / "redis.sock"), retry=Retry(NoBackoff(), 0))
    wait_for(lambda: (place / "redis.sock").exists() and bool(admin.ping()), 10, "Redis")
    admin.execute_command("ACL", "SETUSER", f"host-{host_id}", *acl_rule(host_id, "pw"))  # type: ignore[no-untyped-call]
    url = f"rediss://host-{host_id}:pw@127.0.0.1:{tls_broker}/0"
    app = make_app(host_id=host_id, broker=url, wake=lambda: None, ca_file=ca_file)
    logging.getLogger("kombu").setLevel(logging.ERROR)
    connection = app.connection_for_read()
    if whose == "theirs":
        with pytest.raises(app.connection_for_read().connection_errors, match="CERTIFICATE_VERIFY_FAILED"):
            connection.connect()
        return
    admin.rpush(queue_name(host_id), b"a ring")
    assert connection.default_channel.client.brpop([queue_name(host_id)], timeout=2) is not None
    connection.release()
