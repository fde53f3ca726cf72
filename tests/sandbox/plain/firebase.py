"""Firebase: the keys that its ID tokens are signed with, the service account's, and tokens that are really signed."""

import json
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

from ..credentials import write_private
from ..part import Part, server
from .credentials import PROJECT, Credentials
from .layout import GOOGLE, GOOGLE_KEYS

KEY, CERTIFICATE = GOOGLE_KEYS / "key.pem", GOOGLE_KEYS / "certificate.pem"
KEY_ID = "9f252dadd5f233f93d2fa528d12fea"
SECONDS = 3600
UID = "xGq3oncall7PropertyPulse0001"
"""Of the user who signs in with the credentials' login."""


def part() -> Part:
    """Return Google's server of public keys and sign-ins as a part of the plain stand-in."""
    return server("plain.google_server", port=GOOGLE, path="/health")


def create(credentials: Credentials) -> None:
    """Make the key that signs ID tokens, its certificate, and the service account's key."""
    # Here, because the imports take time that most commands need not wait for.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.x509.oid import NameOID

    def made() -> tuple[rsa.RSAPrivateKey, str]:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return key, pem.decode()

    GOOGLE_KEYS.mkdir(parents=True)
    key, pem = made()
    _, credentials.firebase_private_key = made()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "securetoken.system.gserviceaccount.com")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=16))
        .sign(key, hashes.SHA256())
    )
    CERTIFICATE.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    write_private(KEY, pem)


def id_token(uid: str = UID, *, email: str = "", seconds: int = SECONDS, **claims: Any) -> str:
    """Give an ID token that is valid for so many seconds; `claims` replace those that Firebase would put in."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = serialization.load_pem_private_key(KEY.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    now = int(time.time())
    held = {
        "iss": f"https://securetoken.google.com/{PROJECT}",
        "aud": PROJECT,
        "auth_time": now,
        "user_id": uid,
        "sub": uid,
        "iat": now,
        "exp": now + seconds,
        "email": email,
        "email_verified": True,
        "firebase": {"identities": {"email": [email]}, "sign_in_provider": "password"},
        **claims,
    }
    signed = ".".join(map(_encoded, ({"alg": "RS256", "kid": KEY_ID, "typ": "JWT"}, held)))
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_base64(signature)}"


def _encoded(thing: dict[str, Any]) -> str:
    return _base64(json.dumps(thing, separators=(",", ":")).encode())


def _base64(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()
