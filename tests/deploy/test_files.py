"""What keeps the set-up mendable: whole files or none, one command at a time, secrets that others cannot read."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509

from deploy.steps import control, service
from deploy.steps.files import env_text, read_env, write
from deploy.steps.lock import only_one
from deploy.steps.place import Place
from deploy.steps.progress import SetupError
from deploy.steps.supervisor import Program


@pytest.fixture
def place(tmp_path):
    place = Place(state=tmp_path / "state", venv=tmp_path / "venv", port=8999)
    place.make()
    return place


def mode(file):
    return stat.S_IMODE(file.stat().st_mode)


def test_a_file_is_written_once_and_with_its_mode(tmp_path):
    file = tmp_path / "x"
    assert write(file, "a", mode=0o600) is True
    assert write(file, "a", mode=0o600) is False
    file.chmod(0o644)
    assert write(file, "a", mode=0o600) is True
    assert mode(file) == 0o600


@pytest.mark.parametrize("value", ["plain", "", "with space", "quote'd", 'double"d', "per%cent", "$HOME", "a=b"])
def test_values_survive_the_shells_spelling(tmp_path, value):
    write(tmp_path / "env", env_text({"NAME": value}))
    assert read_env(tmp_path / "env") == {"NAME": value}


def test_secrets_are_made_once_and_kept_closed(place):
    first = control.make_secrets(place)
    assert control.make_secrets(place) == first
    assert mode(place.state / "cloud.env") == 0o600
    assert len(first["CENOTE_SECRET_KEY"]) >= 32
    assert mode(place.private) == 0o700


def test_what_an_operator_adds_to_cloud_env_stays(place):
    control.make_secrets(place)
    with (place.state / "cloud.env").open("a") as stream:
        stream.write("CENOTE_LOG_LEVEL=DEBUG\n")
    assert control.make_secrets(place)["CENOTE_LOG_LEVEL"] == "DEBUG"
    assert read_env(place.state / "cloud.env")["CENOTE_LOG_LEVEL"] == "DEBUG"


def test_the_tls_door_is_opened_and_closed(place):
    control.make_secrets(place)
    control.set_door(place, "192.0.2.7:8443")
    assert "door" in [program.name for program in control.programs(place)]
    assert "192.0.2.7" in control.make_secrets(place)["CENOTE_ALLOWED_HOSTS"].split(",")
    assert mode(place.state / "ca" / "door.key") == 0o600
    control.set_door(place, "")
    assert "door" not in [program.name for program in control.programs(place)]


def test_the_doors_certificate_names_what_machines_know_it_by(place):
    control.set_door(place, "127.0.0.1:8443", ["10.0.2.2", "cloud.example"])
    certificate = x509.load_pem_x509_certificate((place.state / "ca" / "door.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["cenote", "cloud.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.0.2.2"]
    assert {"10.0.2.2", "cloud.example"} <= set(control.make_secrets(place)["CENOTE_ALLOWED_HOSTS"].split(","))
    for name in ("*", "cloud.example,*", "Cloud", "a b", ""):
        with pytest.raises(SetupError, match="--known-as"):
            control.set_door(place, "127.0.0.1:8443", [name])


@pytest.mark.parametrize("listen", ["8443", "cloud.example:8443", "192.0.2.7:0", "192.0.2.7:x", "192.0.2.7"])
def test_a_door_that_cannot_be_is_refused(place, listen):
    with pytest.raises(SetupError, match="--listen"):
        control.set_door(place, listen)


def test_two_commands_at_once_are_refused(place):
    with only_one(place), pytest.raises(SetupError, match="wait"), only_one(place):
        pass
    with only_one(place):
        pass


def test_who_has_patience_gets_the_lock_once_it_is_free(place):
    with only_one(place), pytest.raises(SetupError, match="wait"), only_one(place, patience=0.3):
        pass
    with ThreadPoolExecutor(1) as others:
        with only_one(place):
            second = others.submit(take, place)
            assert not second.done()
        assert second.result(timeout=10)


def take(place: Place) -> bool:
    with only_one(place, patience=10):
        return True


def test_a_percent_sign_in_a_secret_reaches_the_program(place):
    section = Program("x", "run --a=%s", {"SECRET": "a%b"}).section(place.log)
    assert 'SECRET="a%%b"' in section
    assert "--a=%%s" in section


def test_units_name_this_cloud_and_leave_nothing_to_fill_in(place):
    text = service.cloud_unit(place)
    assert place.cloud_id in service.cloud_name(place)
    assert str(place.state) in text
    assert service.supervisor_name(place) in text
    for unit in (text, service.supervisor_unit(place), service.node_unit()[1]):
        assert "@" not in unit


def test_two_clouds_have_different_names(tmp_path):
    ids = {Place(tmp_path / str(n), tmp_path, 1).cloud_id for n in range(20)}
    assert len(ids) == 20
