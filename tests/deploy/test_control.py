"""The control plane's address and port."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from deploy.steps import control
from deploy.steps.place import Place
from deploy.steps.progress import SetupError
from deploy.steps.supervisor import Supervisor


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(state=tmp_path / "cloud", venv=tmp_path / "venv", port=18_470)
    made.make()
    return made


def test_the_clouds_own_address_follows_its_port(place: Place) -> None:
    assert control.make_secrets(place)["CENOTE_URL"] == "http://127.0.0.1:18470"
    moved = dataclasses.replace(place, port=18_471)
    assert control.make_secrets(moved)["CENOTE_URL"] == "http://127.0.0.1:18471"


def test_an_address_that_was_given_stays(place: Place) -> None:
    control.make_secrets(place)
    file = place.state / "cloud.env"
    file.write_text(file.read_text().replace("CENOTE_URL=http://127.0.0.1:18470", "CENOTE_URL=https://cloud.example"))
    assert control.make_secrets(place)["CENOTE_URL"] == "https://cloud.example"


def test_a_port_of_another_program_is_told_before_anything_starts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Supervisor, "status", lambda self: {})
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = dataclasses.replace(place, port=other.getsockname()[1])
        with pytest.raises(SetupError, match="CENOTE_PORT"):
            control.start_services(taken, Supervisor(taken), fresh=False)
