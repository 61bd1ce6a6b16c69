"""The same session over TLS."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import beamstream as bs
from beamstream import errors
from beamstream.testing.node import NodeProcess

pytestmark = pytest.mark.system


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, secret


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    cert, key = certificate(tmp_path)
    env = {"BEAMSTREAM_TLS_CERT": str(cert), "BEAMSTREAM_TLS_KEY": str(key)}
    with NodeProcess(cache="64MiB", durability="os", env=env) as made:
        yield made


def test_everything_over_tls(node: NodeProcess, tmp_path: Path) -> None:
    token, ca = node.token(), str(tmp_path / "cert.pem")
    native = f"tls://{node.connect['native']}"
    with pytest.raises(errors.ConnectionLost, match="TLS"):
        bs.connect(native, token=token)
    for url in (native, f"https://{node.endpoint}", str(node.connect_file)):
        with bs.connect(url, token=token, tls_ca=ca) as hub:
            assert hub.beamtime == "demo"
    frames = np.random.default_rng(1).integers(0, 255, (5, 1000, 1000), np.uint8)
    with bs.connect(native, token=token, tls_ca=ca) as hub:
        stream = hub.source("s").stream("t")
        with stream.writer() as writer:
            for frame in frames:
                writer.send(frame)
            writer.send_many([b"small"] * 2000)
        got = [message for message in stream.group("g") if isinstance(message, bs.Message)]
        assert len(got) == 2005
        assert all(np.array_equal(m.array(), f) for m, f in zip(got, frames, strict=False))
        assert bytes(got[-1].data) == b"small"
