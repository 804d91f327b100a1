"""The Debian 12 image: built and booted for real. Minutes, hence not part of the ordinary run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images.conftest import build
from tests.images.seeds import meta_data, write_iso
from tests.images.vm import Vm

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(1200)]

USER_DATA = "#cloud-config\nruncmd:\n  - echo seen >/root/runcmd\n"


def test_boots_with_real_cloud_init(tmp_path: Path, key: Path) -> None:
    image = tmp_path / "image"
    build("build-debian-12", image)
    seed = write_iso(tmp_path / "seed.iso", meta_data("d-1", "real-debian", key), USER_DATA)
    with Vm(image, tmp_path, seed, key, name="debian-12") as vm:
        vm.wait_for_console("finished at", timeout=400)
        assert vm.ssh("hostname", user="debian") == "real-debian"
        assert vm.ssh("sudo cat /root/runcmd", user="debian") == "seen"
        assert vm.ssh("cloud-init status", user="debian") == "status: done"
        assert vm.ssh("systemctl --failed --no-legend", user="debian") == ""
        assert int(vm.ssh("df -m / | awk 'END { print $2 }'", user="debian")) > 2500
        assert vm.agent("guest-ping") == {"return": {}}
        vm.qmp("system_powerdown")
        vm.wait_for_end(timeout=60)
