"""A signature says whose a dataset is; a byte that changes anywhere is named."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from genint.manifests.manifest import load_manifest
from genint.manifests.storage import Storage

pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PEM = serialization.Encoding.PEM


def write_key(folder: Path, name: str, password: str = "") -> ec.EllipticCurvePrivateKey:
    """Make a key pair on the spot, NAME.key and NAME.pub."""
    key = ec.generate_private_key(ec.SECP256R1())
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, lock))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return key


@pytest.fixture
def dataset(reference: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "dataset"))


def test_a_signed_dataset_verifies_and_a_changed_byte_is_named(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    write_key(tmp_path, "ours")
    write_key(tmp_path, "theirs")
    trust = ("verify", dataset, "--signature", "--public-key", tmp_path / "ours.pub")
    unsigned = run_cli(*trust)
    assert unsigned.exit_code == 1 and "manifest.json.sig: missing: the dataset is not signed" in unsigned.err
    signed = run_cli("sign", dataset, "--key", tmp_path / "ours.key")
    assert signed.exit_code == 0, signed.err
    sound = run_cli(*trust)
    assert sound.exit_code == 0 and sound.out.startswith(f"signed by {tmp_path / 'ours.pub'}")
    other = run_cli(*trust[:-1], tmp_path / "theirs.pub")
    assert other.exit_code == 1 and "manifest.json.sig: refused: " in other.err

    for name in sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()):
        if name == "records/driver.lock":
            continue
        content = (dataset / name).read_bytes()
        (dataset / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        damaged = run_cli(*trust)
        assert damaged.exit_code == 1, name
        assert name in damaged.err, damaged.err
        (dataset / name).write_bytes(content)


def test_a_locked_key_is_opened_by_its_password(
    dataset: Path, tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path, "ours", "sesame")
    refused = run_cli("sign", dataset, "--key", tmp_path / "ours.key")
    assert refused.exit_code == 2 and "the dataset cannot be signed: " in refused.err
    monkeypatch.setenv("GENINT_KEY_PASSWORD", "sesame")
    assert run_cli("sign", dataset, "--key", tmp_path / "ours.key").exit_code == 0


def test_a_certificate_is_trusted_by_its_root(dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    root, leaf = write_key(tmp_path, "root"), write_key(tmp_path, "leaf")
    now = datetime.datetime.now(datetime.UTC)

    def certify(name: str, issuer: str, key: Any, signer: Any, is_root: bool) -> None:
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=is_root, **usage), critical=True)
            .sign(signer, hashes.SHA256())
        )
        (tmp_path / f"{name}.pem").write_bytes(made.public_bytes(PEM))

    certify("root", "root", root, root, is_root=True)
    certify("leaf", "root", leaf, root, is_root=False)
    certify("other", "other", root, root, is_root=True)
    words = ("--key", tmp_path / "leaf.key", "--certificate", tmp_path / "leaf.pem")
    assert run_cli("sign", dataset, *words).exit_code == 0
    trust = ("verify", dataset, "--signature", "--certificate")
    assert run_cli(*trust, tmp_path / "root.pem").exit_code == 0
    assert "refused: " in run_cli(*trust, tmp_path / "other.pem").err


def test_a_damaged_signature_is_one_line(dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    write_key(tmp_path, "ours")
    for content in (b"", b"{}", b"[1]", b'{"verificationMaterial": {}}', b"\xff"):
        (dataset / "manifest.json.sig").write_bytes(content)
        refused = run_cli("verify", dataset, "--signature", "--public-key", tmp_path / "ours.pub")
        assert refused.exit_code == 1 and refused.err.count("\n") == 1, content


def test_a_dataset_that_is_not_sound_is_not_signed(dataset: Path, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    write_key(tmp_path, "ours")
    (dataset / "README.md").write_text("other words")
    refused = run_cli("sign", dataset, "--key", tmp_path / "ours.key")
    assert refused.exit_code == 1 and "README.md: sha256 differs from SHA256SUMS" in refused.err
    assert load_manifest(Storage(dataset)) and not (dataset / "manifest.json.sig").exists()
