"""Calls as the control plane writes them."""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any

from compute.wire import Call, DiskSpec, ImageRef, InstanceSpec

_numbers = itertools.count(1)


def an_id() -> str:
    return str(uuid.uuid4())


def a_spec(instance_id: str, **changes: Any) -> InstanceSpec:
    image = ImageRef(id=an_id(), format="qcow2", sha256="0" * 64, size_bytes=1, virtual_size_gib=1)
    fields: dict[str, Any] = {
        "id": instance_id,
        "tenant_id": an_id(),
        "name": "web",
        "kind": "vm",
        "vcpus": 1,
        "memory_mib": 128,
        "disk": DiskSpec(id=instance_id, size_gib=1, image=image),
        "nics": (),
    }
    return InstanceSpec(**(fields | changes))


def a_call(method: str, target_id: str, *, token: int | None = None, deadline: float = 20.0, **arguments: Any) -> Call:
    """A call with its own id; without `token` a higher one than all before."""
    if (
        method in ("instance.prepare", "instance.start", "instance.reboot", "instance.resize")
        and "spec" not in arguments
    ):
        arguments["spec"] = json.loads(json.dumps(a_spec(target_id).to_json()))
    number = next(_numbers) if token is None else token
    return Call(an_id(), method, target_id, number, arguments, deadline)
