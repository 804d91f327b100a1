"""cloud-init NoCloud seeds: what a guest is told at its first boot.

Every field is data: meta-data is dumped by a YAML library, and the tenant's user data is a file of its own, byte for
byte. Keys travel in meta-data (`public-keys`), so user data of any kind keeps its meaning and no multi-part is needed.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pycdlib
import yaml

from compute.wire import InstanceSpec

_NOT_IN_A_HOST_NAME = re.compile(r"[^a-z0-9-]+", re.ASCII)
_LABEL_MAX = 63
_NO_USER_DATA = "#cloud-config\n{}\n"


def guest_hostname(spec: InstanceSpec) -> str:
    """Return a valid host name for the guest, as near to the instance's name as the rules of DNS labels let it be."""
    label = _NOT_IN_A_HOST_NAME.sub("-", spec.name.lower()).strip("-")[:_LABEL_MAX].strip("-")
    return label or f"instance-{spec.id[-12:]}"


def seed_files(spec: InstanceSpec) -> dict[str, bytes]:
    """Return the seed as file name -> content."""
    meta = {
        "instance-id": spec.id,
        "local-hostname": guest_hostname(spec),
        "public-keys": list(spec.ssh_keys),
    }
    return {
        # Escaped to ASCII: rare line breaks (U+0085) would not come back as they were otherwise.
        "meta-data": yaml.safe_dump(meta, allow_unicode=False, sort_keys=False, width=1 << 20).encode(),
        # A surrogate cannot be encoded; the guest sees a question mark rather than no seed at all.
        "user-data": (spec.user_data or _NO_USER_DATA).encode(errors="replace"),
    }


def write_seed_iso(spec: InstanceSpec, target: Path) -> None:
    """Write the seed as an ISO 9660 volume labelled `cidata`, mode 0600. Not atomic: rename it into place."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for number, (name, content) in enumerate(seed_files(spec).items()):
        image.add_fp(
            io.BytesIO(content),
            len(content),
            f"/FILE{number}.;1",
            rr_name=name,
            joliet_path=f"/{name}",
            file_mode=0o100400,
        )
    # 0600 from its first byte: user data may hold secrets.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        image.write_fp(file)
    image.close()
