"""The cloud's own certificate authority: it signs what hosts show each other, and what nodeapi shows them over TLS.

Pure files and cryptography. A host makes its key itself and sends a request; of that only the public key is believed,
names and addresses come from the caller. Keys are P-256: libvirt's GnuTLS and Python both take them.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
CERTIFICATE_DAYS = 825
BACKDATE = timedelta(hours=1)  # a host whose clock is a little behind must be able to use its certificate at once
CSR_BYTES_LIMIT = 16_384


class PkiError(ValueError):
    """A request is malformed, or the authority is not there. The message may be shown to whoever asked."""


def make_ca(ca_dir: Path) -> None:
    """Make the authority in `ca_dir` (0700): `ca.key` (0600) and `ca.pem`. What is there already stays."""
    ca_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(ca_dir):
        if (ca_dir / "ca.pem").exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Cenote cloud CA")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        # The key first: a certificate without its key, left by a crash in between, would stand for ever.
        _write(ca_dir / "ca.key", key_pem(key), 0o600)
        _write(ca_dir / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def ca_pem(ca_dir: Path) -> str:
    """Return the authority's certificate. Raises PkiError."""
    try:
        return (ca_dir / "ca.pem").read_text()
    except OSError:
        raise PkiError(f"there is no certificate authority in {ca_dir}: deploy/up makes it") from None


def sign_csr(
    *, ca_dir: Path, csr_pem: str, name: str, addresses: Sequence[str], other_names: Sequence[str] = ()
) -> str:
    """Sign the public key of a request, for its names and IP `addresses`, as client and server. Return PEM. Raises PkiError."""
    if len(csr_pem) > CSR_BYTES_LIMIT:
        raise PkiError("the certificate request is too long")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        valid = csr.is_signature_valid
        public = csr.public_key()
    except (ValueError, TypeError, InvalidSignature) as error:
        raise PkiError("the certificate request cannot be read") from error
    if not valid:
        raise PkiError("the certificate request is not signed by its own key")
    strong = (isinstance(public, ec.EllipticCurvePublicKey) and public.key_size >= 256) or (
        isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048
    )
    if not strong:
        raise PkiError("the certificate request's key is too weak: use P-256 or RSA of 2048 bits")
    try:
        names: list[x509.GeneralName] = [x509.DNSName(each) for each in (name, *other_names)]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses if address]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    except ValueError as error:
        raise PkiError(f"the name or an address cannot stand in a certificate: {error}") from error
    issuer = x509.load_pem_x509_certificate(ca_pem(ca_dir).encode())
    key = serialization.load_pem_private_key((ca_dir / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(min(now + timedelta(days=CERTIFICATE_DAYS), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def make_request(name: str) -> tuple[bytes, str]:
    """Make a key on the machine that will use it. Return the key (PEM) and a request for `name` (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key_pem(key), csr.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        # libvirt refuses a server's certificate without it, whatever the kind of key.
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _write(file: Path, content: bytes, mode: int) -> None:
    # Never readable by others for a moment, never half a file under its own name.
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    partial.rename(file)


@contextlib.contextmanager
def _locked(ca_dir: Path) -> Iterator[None]:
    # Two first starts at once must not end with one's key and the other's certificate.
    with (ca_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
