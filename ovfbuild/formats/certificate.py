"""A package's certificate (`.cert`): the manifest's signature, and the X.509 certificate of who signed it.

    SHA256(two-1.0.mf)= 5c0f8a…
    -----BEGIN CERTIFICATE-----
    …

Source: DSP0243 1.1.0 clause 5.1, narrowed to what importers read: the signature is RSA's of PKCS #1 1.5 (what
`openssl dgst -sign` makes, and ovftool), over the manifest's bytes, with the algorithm of the manifest's digests. What
follows the first certificate (others of the chain, VirtualBox's CMS block) is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ovfbuild.errors import FileError, UsageError

LARGEST = 1 << 20
"""Bytes of a certificate file."""
_LEAST_BITS = 2048
_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "SHA1": hashes.SHA1(),  # noqa: S303 - what older importers read
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
}
_LINE = re.compile(rb"(?m)^(SHA(?:1|256|384|512))\(([^()\r\n]+)\)= ?([0-9a-fA-F]+)\r?$")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Signer:
    """A certificate and its private key; made by `load`."""

    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def name(self) -> str:
        """Who the certificate says it is."""
        return self.certificate.subject.rfc4514_string()

    def size(self, name: str, algorithm: str) -> int:
        """Bytes of the certificate file for a manifest of that name, whatever is in the manifest."""
        return len(self._file(name, algorithm, bytes(self.key.key_size // 8)))

    def sign(self, manifest: bytes, name: str, algorithm: str) -> bytes:
        """The certificate file for the manifest called `name`; `algorithm` is as in the manifest.

        The same manifest gives the same bytes: there is no random number in PKCS #1 1.5.
        """
        return self._file(name, algorithm, self.key.sign(manifest, PKCS1v15(), _HASHES[algorithm]))

    def _file(self, name: str, algorithm: str, signature: bytes) -> bytes:
        line = f"{algorithm}({name})= {signature.hex()}\n"
        return line.encode("ascii") + self.certificate.public_bytes(Encoding.PEM)


def load(certificate: Path, key: Path, passphrase: Callable[[], str], now: datetime | None = None) -> Signer:
    """Who signs with the private key in one PEM file and the certificate for it in another.

    `passphrase` is called if the key is encrypted. The certificate's chain may stand behind it, and is not written.

    Raises:
        FileError: no certificate or key, one that is not RSA's, doesn't match, is expired, or is not to sign with.
        UsageError: the passphrase is not the key's.
    """
    private = _key(key, passphrase)
    wanted = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for found in _certificates(certificate):
        if found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == wanted:
            _judge(found, certificate, now or datetime.now(UTC))
            return Signer(found, private)
    raise FileError(f"{certificate} has no certificate for the key in {key}", "name the two that were made together")


def _key(path: Path, passphrase: Callable[[], str]) -> rsa.RSAPrivateKey:
    octets = _read(path)
    try:
        key = load_pem_private_key(octets, None)
    except TypeError:  # it is encrypted
        try:
            key = load_pem_private_key(octets, passphrase().encode())
        except (ValueError, TypeError):
            raise UsageError(f"the passphrase does not open the key in {path}", "try again") from None
    except (ValueError, UnsupportedAlgorithm):
        raise FileError(f"{path} has no private key in PEM", "openssl genrsa 3072 makes one") from None
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _LEAST_BITS:
        raise FileError(
            f"{path} is no RSA key of {_LEAST_BITS} bits or more",
            "importers verify no other: openssl genrsa 3072",
        )
    return key


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise FileError(
            f"{path} has no X.509 certificate in PEM", "name the certificate that belongs to the key"
        ) from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(LARGEST)
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror}", "name a file in PEM") from error


def _judge(certificate: x509.Certificate, path: Path, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > end:
        raise FileError(f"the certificate in {path} expired on {end:%Y-%m-%d}", "sign with one that is valid")
    if now < begin:
        raise FileError(f"the certificate in {path} is valid from {begin:%Y-%m-%d} on", "is the clock right?")
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return
    if not usage.digital_signature:
        raise FileError(f"the certificate in {path} is not to sign with (keyUsage)", "it needs digitalSignature")


@dataclass(frozen=True)
class Signature:
    """What a certificate file says. `line` is where the signature stands, from 1."""

    algorithm: str
    name: str
    octets: bytes
    certificate: x509.Certificate
    line: int

    def fits(self, manifest: bytes) -> bool:
        """Whether it is the signature of these bytes, by the certificate's key.

        Raises:
            FileError: the key is of a kind that signs in another way.
        """
        key, algorithm = self.certificate.public_key(), _HASHES[self.algorithm]
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(self.octets, manifest, PKCS1v15(), algorithm)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(self.octets, manifest, ec.ECDSA(algorithm))
            else:
                raise FileError("the certificate's key is neither RSA's nor ECDSA's", "sign with RSA")
        except InvalidSignature:
            return False
        return True

    @property
    def self_signed(self) -> bool:
        """Whether nobody but its owner vouches for the certificate."""
        return self.certificate.issuer == self.certificate.subject

    def facts(self) -> dict[str, str]:
        """Who signed, for people and programs; nothing of it is verified here."""
        return {
            "signer": self.certificate.subject.rfc4514_string(),
            "issuer": self.certificate.issuer.rfc4514_string(),
            "valid_from": self.certificate.not_valid_before_utc.isoformat(),
            "valid_until": self.certificate.not_valid_after_utc.isoformat(),
            "fingerprint": self.certificate.fingerprint(hashes.SHA256()).hex(),
            "algorithm": self.algorithm,
        }


def read(octets: bytes) -> Signature:
    """What a certificate file says, whoever wrote it.

    Raises:
        FileError: there is no signature, or no certificate, that could be read.
    """
    line, pem = _LINE.search(octets), _PEM.search(octets)
    if line is None or len(line[3]) % 2:
        raise FileError("no signature of a manifest is in it", "sign again")
    if pem is None:
        raise FileError("no certificate as PEM is in it", "sign again")
    try:
        certificate = x509.load_pem_x509_certificate(pem[0])
        certificate.public_key()
        certificate.subject.rfc4514_string()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FileError("its certificate can't be read", "sign again") from error
    signature, number = bytes.fromhex(line[3].decode()), octets.count(b"\n", 0, line.start()) + 1
    return Signature(line[1].decode(), line[2].decode("utf-8", "replace"), signature, certificate, number)
