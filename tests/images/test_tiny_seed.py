"""How the tiny images read a NoCloud seed: `seed.lua` run in an unpacked root tree, without booting it."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.images.container import unpack
from tests.images.seeds import meta_data, write_directory

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SEED = "var/lib/cloud/seed/nocloud"


@pytest.fixture(scope="module")
def pristine(container_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "root"
    unpack(container_image / "tiny-container.tar", root)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", pristine, root], check=True)
    # The chroot has no /dev of its own; what runs in it redirects from and to this.
    (root / "dev/null").touch()
    return root


def apply(root: Path, meta: str, user: str) -> str:
    """Apply a seed in the tree; return what would be said on the console."""
    write_directory(root / SEED, meta, user)
    command: list[str | Path] = ["chroot", root, "/usr/bin/lua5.4", "/usr/lib/cenote/seed.lua", f"/{SEED}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def config(data: dict[str, object]) -> str:
    return "#cloud-config\n" + yaml.safe_dump(data)


def test_keys_come_from_meta_data_in_every_form_and_from_user_data(root: Path) -> None:
    forms = {
        "list": ["ssh-ed25519 AAAA1 a"],
        "string": "ssh-ed25519 AAAA1 a",
        "mapping": {"0": {"openssh-key": "ssh-ed25519 AAAA1 a"}},
        "named": {"laptop": "ssh-ed25519 AAAA1 a"},
    }
    for name, form in forms.items():
        meta = json.dumps({"instance-id": name, "local-hostname": "n", "public-keys": form})
        apply(root, meta, config({"ssh_authorized_keys": ["ssh-ed25519 AAAA2 b"]}))
        for home in ("root", "home/cenote"):
            keys = (root / home / ".ssh/authorized_keys").read_text()
            assert keys == "ssh-ed25519 AAAA1 a\nssh-ed25519 AAAA2 b\n", name
    assert (root / "home/cenote/.ssh").stat().st_uid == 1000
    assert (root / "home/cenote/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600


def test_host_name_of_user_data_wins(root: Path, key: Path) -> None:
    apply(root, meta_data("i", "from-meta", key), config({"hostname": "from-user"}))
    assert (root / "etc/hostname").read_text() == "from-user\n"
    apply(root, meta_data("j", "from-meta.example.org", key), "")
    assert (root / "etc/hostname").read_text() == "from-meta\n"
    assert "127.0.1.1 from-meta.example.org from-meta\n" in (root / "etc/hosts").read_text()


@pytest.mark.parametrize("name", ["a\nb", "a;reboot", "$(reboot)", "-n", "a b", "ä", "x" * 254, "a/../b"])
def test_bad_host_name_is_refused(root: Path, name: str) -> None:
    said = apply(root, json.dumps({"instance-id": "i", "local-hostname": name}), "")
    assert "host name refused" in said
    assert (root / "etc/hostname").read_text() == "tiny\n"


def test_write_files_with_encodings_permissions_and_append(root: Path) -> None:
    plain = "line 1\n'quoted' $HOME `x`\n"
    packed = base64.b64encode(gzip.compress(plain.encode())).decode()
    files = [
        {"path": "/srv/deep/plain", "content": plain, "permissions": "0640", "owner": "cenote:cenote"},
        {"path": "/srv/b64", "content": base64.b64encode(b"\x00\xffbinary").decode(), "encoding": "b64"},
        {"path": "/srv/packed", "content": packed, "encoding": "gz+b64"},
        {"path": "/srv/deep/plain", "content": "more\n", "append": True},
        {"path": "relative", "content": "no"},
        {"path": "/srv/odd", "content": "x", "encoding": "rot13"},
    ]
    said = apply(root, "instance-id: i\n", config({"write_files": files}))
    assert (root / "srv/deep/plain").read_text() == plain + "more\n"
    assert (root / "srv/b64").read_bytes() == b"\x00\xffbinary"
    assert (root / "srv/packed").read_text() == plain
    assert "no absolute path" in said
    assert "unknown encoding rot13" in said
    assert not (root / "srv/odd").exists()


def test_run_commands_keep_their_words(root: Path) -> None:
    commands = ["echo $((1 + 1)) >/one", ["sh", "-c", 'echo "$1" >/two', "sh", "it's; two  words"]]
    apply(root, "instance-id: i\n", config({"runcmd": commands}))
    subprocess.run(["chroot", root, "/var/lib/cenote/runcmd"], check=True)
    assert (root / "one").read_text() == "2\n"
    assert (root / "two").read_text() == "it's; two  words\n"


def test_users_and_password(root: Path) -> None:
    users = ["default", {"name": "ada", "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": ["ssh-ed25519 ADA"]}]
    users.append({"name": "root:x:0"})
    said = apply(root, "instance-id: i\n", config({"users": users, "password": "deep & green"}))
    assert "user refused" in said
    assert (root / "home/ada/.ssh/authorized_keys").read_text() == "ssh-ed25519 ADA\n"
    assert "\nada:x:1001:1001:" in (root / "etc/passwd").read_text()
    assert "permit nopass keepenv ada" in (root / "etc/doas.conf").read_text()
    shadow = dict(line.split(":", 2)[:2] for line in (root / "etc/shadow").read_text().splitlines())
    assert shadow["cenote"].startswith("$6$")
    assert shadow["root"] == shadow["ada"] == "*"


def test_what_it_cannot_do_is_said_and_the_rest_is_done(root: Path) -> None:
    said = apply(root, "instance-id: i\n", config({"hostname": "able", "packages": ["emacs"], "runcmd": 7}))
    assert "packages is not supported" in said
    assert "runcmd" in said
    assert (root / "etc/hostname").read_text() == "able\n"


@pytest.mark.parametrize(
    "text", ["#cloud-config\n{{{", "#cloud-config\n- a\n- b\n", "#cloud-config\n", "just text", "\x00\x01\x02"]
)
def test_broken_user_data_does_not_stop_the_meta_data(root: Path, key: Path, text: str) -> None:
    apply(root, meta_data("i", "fine", key), text)
    assert (root / "etc/hostname").read_text() == "fine\n"
    assert (root / "root/.ssh/authorized_keys").read_text() == key.with_suffix(".pub").read_text()
    assert not (root / "var/lib/cenote/runcmd").exists()


def test_same_instance_id_is_left_alone_and_a_new_one_starts_over(root: Path, key: Path) -> None:
    apply(root, meta_data("i", "one", key), "#!/bin/sh\ntrue\n")
    assert (root / "var/lib/cenote/user-script").read_text() == "#!/bin/sh\ntrue\n"
    (root / "root/.ssh/authorized_keys").write_text("edited by its owner\n")
    (root / "etc/dropbear/ed25519").write_text("host key")
    apply(root, meta_data("i", "two", key), "#!/bin/sh\nfalse\n")
    assert (root / "etc/hostname").read_text() == "one\n"
    assert (root / "root/.ssh/authorized_keys").read_text() == "edited by its owner\n"
    assert (root / "var/lib/cenote/user-script").read_text() == "#!/bin/sh\ntrue\n"
    apply(root, meta_data("k", "three", key), "")
    assert (root / "etc/hostname").read_text() == "three\n"
    assert not (root / "etc/dropbear/ed25519").exists()
    assert not (root / "var/lib/cenote/user-script").exists()


def test_trees_hold_no_set_user_id_program_but_doas(root: Path) -> None:
    assert shutil.which("find")
    found = subprocess.check_output(["find", root, "-perm", "/6000", "-type", "f"], text=True).split()
    assert [Path(path).relative_to(root).as_posix() for path in found] == ["usr/bin/doas"]
