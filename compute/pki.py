"""The cloud's own certificate authority: it signs hosts, for libvirt's TLS between them. Pure `cryptography`, no Django.

A host makes its own key and sends a request; only the public half ever leaves it. The name in the certificate is the one
that the join token allowed, whatever the request says.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_YEARS = 10
HOST_DAYS = 730


class CsrRefused(ValueError):
    """The request is not one that the CA signs. The message says what would be right."""


def make_ca(ca_dir: Path) -> None:
    """Make the CA's key (0600) and certificate in `ca_dir` unless they are there. Safe to interrupt and to run again."""
    ca_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (ca_dir / "ca.pem").exists() and (ca_dir / "ca.key").exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cenote hosts CA")])
    certificate = (
        _builder(name, name, key.public_key(), days=CA_YEARS * 365)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificate_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(ca_dir / "ca.key", private, 0o600)
    _write(ca_dir / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def ca_pem(ca_dir: Path) -> str:
    """Return the CA's certificate."""
    return (ca_dir / "ca.pem").read_text()


def sign_csr(*, ca_dir: Path, csr_pem: str, name: str, addresses: list[str]) -> str:
    """Return a certificate for the host `name` at `addresses` (IP), good as server and as client. Raises CsrRefused."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        valid = request.is_signature_valid
    except (ValueError, InvalidSignature):
        raise CsrRefused("The certificate request is not a PEM PKCS#10 request.") from None
    key = request.public_key()
    strong = (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048) or isinstance(key, ec.EllipticCurvePublicKey)
    if not valid or not strong:
        raise CsrRefused(
            "The certificate request needs a valid signature, and an elliptic-curve or RSA key from 2048 bits."
        )
    ca = x509.load_pem_x509_certificate((ca_dir / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((ca_dir / "ca.key").read_bytes(), password=None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, ca.subject, key, days=HOST_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def make_key_and_csr(name: str) -> tuple[str, str]:
    """Return a fresh private key and a request for it, both PEM: what a host does before it joins."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), request.public_bytes(serialization.Encoding.PEM).decode()


def _builder(subject: x509.Name, issuer: x509.Name, key: object, *, days: int) -> x509.CertificateBuilder:
    # An hour back: a host whose clock is a little behind must not find its certificate not yet valid.
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)  # type: ignore[arg-type]  checked by the callers
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=days))
    )


def _usage(*, certificate_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=digital_signature,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificate_sign,
        crl_sign=certificate_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _write(file: Path, content: bytes, mode: int) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    partial.rename(file)
