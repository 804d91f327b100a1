"""Seeds and keys for guests under test."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pycdlib


def make_keypair(directory: Path) -> Path:
    """Make an Ed25519 key pair in `directory`; return the private half's path."""
    path = directory / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def meta_data(instance_id: str, hostname: str, key: Path) -> str:
    public = key.with_suffix(".pub").read_text().strip()
    return f"instance-id: {instance_id}\nlocal-hostname: {hostname}\npublic-keys:\n  - {public}\n"


def write_iso(path: Path, meta: str, user: str) -> Path:
    """Write a NoCloud seed volume to `path`."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, iso_name, text in (("meta-data", "METADATA.;1", meta), ("user-data", "USERDATA.;1", user)):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/{iso_name}", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()
    return path


def write_directory(path: Path, meta: str, user: str) -> Path:
    """Write a NoCloud seed directory, as a container's root tree holds it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "meta-data").write_text(meta)
    (path / "user-data").write_text(user)
    return path


def ssh_command(key: Path, address: str, port: int, user: str, command: str) -> list[str]:
    """Return the argument list of one SSH command that trusts any host key and asks nobody anything."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
    words = ["ssh", "-i", str(key), "-p", str(port), "-o", "ConnectTimeout=10", "-o", "IdentitiesOnly=yes"]
    for option in options:
        words += ["-o", option]
    return [*words, f"{user}@{address}", command]
