"""The authority, judged by OpenSSL as well: what it signs must convince programs that are not ours."""

from __future__ import annotations

import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from compute import pki


@pytest.fixture
def ca_dir(tmp_path):
    pki.make_ca(tmp_path / "ca")
    return tmp_path / "ca"


def verify(tmp_path, ca_dir, pem, *options):
    (tmp_path / "host.pem").write_text(pem)
    command = ["openssl", "verify", "-CAfile", str(ca_dir / "ca.pem"), *options, str(tmp_path / "host.pem")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_a_hosts_certificate_convinces_openssl(tmp_path, ca_dir, purpose):
    _, csr = pki.make_request("lab1")
    pem = pki.sign_csr(ca_dir=ca_dir, csr_pem=csr, name="lab1", addresses=["10.9.0.1"])
    good = verify(tmp_path, ca_dir, pem, "-purpose", purpose, "-verify_ip", "10.9.0.1")
    assert good.returncode == 0, good.stderr
    assert verify(tmp_path, ca_dir, pem, "-verify_hostname", "lab1").returncode == 0
    # The control: the same certificate for another address or name does not pass.
    assert verify(tmp_path, ca_dir, pem, "-verify_ip", "10.9.0.2").returncode != 0
    assert verify(tmp_path, ca_dir, pem, "-verify_hostname", "lab2").returncode != 0


def test_what_the_request_asks_for_is_not_believed(ca_dir):
    _, csr = pki.make_request("somebody-else")
    certificate = x509.load_pem_x509_certificate(
        pki.sign_csr(ca_dir=ca_dir, csr_pem=csr, name="lab1", addresses=[]).encode()
    )
    assert "somebody-else" not in certificate.subject.rfc4514_string()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lab1"]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_usage_is_what_libvirt_checks(ca_dir):
    _, csr = pki.make_request("lab1")
    pem = pki.sign_csr(ca_dir=ca_dir, csr_pem=csr, name="lab1", addresses=[])
    usage = x509.load_pem_x509_certificate(pem.encode()).extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert usage.key_encipherment
    assert not usage.key_cert_sign


def test_another_authoritys_certificate_does_not_pass(tmp_path, ca_dir):
    pki.make_ca(tmp_path / "other")
    _, csr = pki.make_request("lab1")
    pem = pki.sign_csr(ca_dir=tmp_path / "other", csr_pem=csr, name="lab1", addresses=[])
    assert verify(tmp_path, ca_dir, pem).returncode != 0


def test_making_it_again_changes_nothing_and_keys_are_private(ca_dir):
    before = [(ca_dir / name).read_bytes() for name in ("ca.pem", "ca.key")]
    pki.make_ca(ca_dir)
    assert before == [(ca_dir / name).read_bytes() for name in ("ca.pem", "ca.key")]
    assert stat.S_IMODE((ca_dir / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(ca_dir.stat().st_mode) == 0o700


def test_a_start_cut_off_between_key_and_certificate_mends_itself(tmp_path, ca_dir):
    (ca_dir / "ca.pem").unlink()
    pki.make_ca(ca_dir)
    _, csr = pki.make_request("lab1")
    pem = pki.sign_csr(ca_dir=ca_dir, csr_pem=csr, name="lab1", addresses=[])
    assert verify(tmp_path, ca_dir, pem).returncode == 0


def test_many_first_starts_at_once_agree(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(pki.make_ca, [tmp_path / "ca"] * 8))
    certificate = x509.load_pem_x509_certificate(pki.ca_pem(tmp_path / "ca").encode())
    key = serialization.load_pem_private_key((tmp_path / "ca/ca.key").read_bytes(), None)
    assert certificate.public_key() == key.public_key()


def _weak_request():
    key = rsa.generate_private_key(65537, 1024)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def _changed_request():
    lines = pki.make_request("lab1")[1].splitlines()
    lines[-2] = ("A" if lines[-2][0] != "A" else "B") + lines[-2][1:]
    return "\n".join(lines)


@pytest.mark.parametrize("csr", ["", "nonsense", "x" * 20_000, _weak_request(), _changed_request()])
def test_bad_requests_are_refused(ca_dir, csr):
    with pytest.raises(pki.PkiError):
        pki.sign_csr(ca_dir=ca_dir, csr_pem=csr, name="lab1", addresses=[])


def test_a_bad_address_is_refused(ca_dir):
    with pytest.raises(pki.PkiError):
        pki.sign_csr(ca_dir=ca_dir, csr_pem=pki.make_request("lab1")[1], name="lab1", addresses=["not-an-address"])


def test_no_authority_says_what_to_do(tmp_path):
    with pytest.raises(pki.PkiError, match="deploy/up"):
        pki.ca_pem(tmp_path)
