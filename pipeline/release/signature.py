"""Sign a dataset, and check whose it is: OpenSSF model signing over manifest.json, which pins every other file.

A signature is a Sigstore bundle beside the manifest; `model_signing verify` reads it too, with --ignore-unsigned-files.
"""

import importlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...manifests.errors import FormatError, UsageError, shorten
from ...manifests.manifest import MANIFEST, SIGNATURE, load_manifest
from ...manifests.storage import Storage

MISSING = "signatures need OpenSSF's model signing: pip install 'genint[sign]'"


@dataclass(frozen=True)
class Signer:
    """Who signs: a private key, with a certificate and what leads to a root, or without a key an OpenID identity.

    key, certificate, chain: PEM files. password: of the key.
    """

    key: Path | None = None
    password: str | None = None
    certificate: Path | None = None
    chain: Sequence[Path] = ()


@dataclass(frozen=True)
class Trusted:
    """Whose signature counts: of one public key, of certificates below these roots, or of one OpenID identity."""

    public_key: Path | None = None
    roots: Sequence[Path] = ()
    identity: str | None = None
    issuer: str | None = None


def sign_manifest(storage: Storage, signer: Signer) -> None:
    """Write the signature of a finished dataset's manifest.

    Raises UsageError where the key cannot be used, FormatError where the dataset has files that no sums pin.
    """
    if load_manifest(storage).version is None:
        raise FormatError(f"{storage}: of before version 0.2, whose sums leave the card out; build it again first")
    signing = _load("signing")
    with _faults_named("the dataset cannot be signed", UsageError), _manifest_alone(storage) as folder:
        config = signing.Config()
        if signer.key is None:
            config.use_sigstore_signer(use_ambient_credentials=True)
        elif signer.certificate is None:
            password = signer.password.encode() if signer.password else None
            config.use_elliptic_key_signer(private_key=signer.key, password=password)
        else:
            config.use_certificate_signer(
                private_key=signer.key,
                signing_certificate=signer.certificate,
                # It takes no empty chain.
                certificate_chain=signer.chain or [signer.certificate],
            )
        config.sign(folder, folder.parent / SIGNATURE)
        storage.write(SIGNATURE, (folder.parent / SIGNATURE).read_bytes())


def verify_signature(storage: Storage, trusted: Trusted) -> None:
    """Raise FormatError where the manifest is not what was signed, or not signed by whom one trusts."""
    verifying = _load("verifying")
    if not storage.exists(SIGNATURE):
        raise FormatError(f"{storage / SIGNATURE}: missing: the dataset is not signed")
    with _manifest_alone(storage) as folder:
        signature = folder.parent / SIGNATURE
        signature.write_bytes(storage.read(SIGNATURE))
        with _faults_named(f"{storage / SIGNATURE}: refused", FormatError, bundle=True):
            config = verifying.Config()
            if trusted.public_key is not None:
                config.use_elliptic_key_verifier(public_key=trusted.public_key)
            elif trusted.roots:
                config.use_certificate_verifier(certificate_chain=trusted.roots)
            else:
                config.use_sigstore_verifier(identity=trusted.identity, oidc_issuer=trusted.issuer)
            config.verify(folder, signature)


@contextmanager
def _manifest_alone(storage: Storage) -> Iterator[Path]:
    """A folder with nothing but the manifest: what is signed are the files of a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "dataset"
        folder.mkdir()
        (folder / MANIFEST).write_bytes(storage.read(MANIFEST))
        yield folder


# What reading a damaged bundle raises.
DAMAGE = (LookupError, AttributeError, TypeError, UnicodeDecodeError, json.JSONDecodeError, ValidationError)


@contextmanager
def _faults_named(what: str, kind: type[Exception], bundle: bool = False) -> Iterator[None]:
    """What the libraries raise about keys, certificates and signatures becomes one line.

    bundle: a signature is read, so that what is no text or table is its damage.
    """
    faults: list[type[Exception]] = [*DAMAGE, ValueError, OSError, RuntimeError]
    for module, name in (
        ("cryptography.exceptions", "InvalidSignature"),
        ("cryptography.exceptions", "UnsupportedAlgorithm"),
        ("OpenSSL.crypto", "X509StoreContextError"),
        ("sigstore.errors", "Error"),
    ):
        faults.append(getattr(importlib.import_module(module), name))
    try:
        yield
    except tuple(faults) as error:
        if bundle and isinstance(error, DAMAGE):
            text = "not a Sigstore bundle, or a damaged one"
        else:
            # InvalidSignature says nothing.
            text = str(error).strip() or "the bytes that were signed are others, or the key is"
        raise kind(f"{what}: {shorten(text, 400)}") from error


def _load(name: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise UsageError(MISSING) from error
