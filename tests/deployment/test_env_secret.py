"""Which keys of an `.env` are secret: by name, by value, and none that everybody may see."""

import pytest

from opslib.deployment import env_secret


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SESSION_SECRET", "short"),
        ("JWT_SECRET_PREVIOUS", "abc"),
        ("SMTP_PASS", "12345"),
        ("SENDGRID_API_KEY", "anything"),
        ("SENDGRID_APIKEY", "anything"),
        ("jwtSecret", "anything"),
        ("JWT_SECRET_V2", "anything"),
        ("AWS_ACCESS_KEY_ID", "0123456789abcdef0123456789abcdef"),
        ("DATABASE", "postgresql://api:odd#password%@db.example/propertypulse"),
        ("CACHE", "redis://:password@127.0.0.1:6379/0"),
        ("PAYMENTS", "sk_live_0123456789abcdef"),
        ("HOOK", "whsec_0123456789abcdef"),
        ("MAIL", "SG.0123456789.0123456789"),
        ("DSN", "host=db.example user=api password=odd"),
        ("SIGNER", "-----BEGIN RSA PRIVATE KEY-----\n0123\n-----END RSA PRIVATE KEY-----\n"),
    ],
)
def test_a_secret_is_known(key: str, value: str) -> None:
    assert env_secret.keys({"PORT": "5000", key: value}) == [key]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("STRIPE_PUBLISHABLE_KEY", "pk_live_0123456789abcdef"),
        ("STRIPE_KEY", "pk_live_0123456789abcdef"),
        ("VITE_API_KEY", "abc"),
        ("NEXT_PUBLIC_MAPS_KEY", "abc"),
        ("TOKEN_LIFETIME", "7d"),
        ("TOKEN_LIFETIME", "604800000000"),
        ("MAX_TOKENS", "4096"),
        ("PASSWORD_RESET_URL", "https://propertypulse.example/reset"),
        ("KEY_PREFIX", "uploads/"),
        ("AWS_REGION", "us-east-1"),
        ("FIREBASE_CLIENT_ID", "123456789012345678901"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/srv/propertypulse/firebase.json"),
        ("REQUIRE_TOKEN", "true"),
        ("MONKEY", "banana"),
        ("KEYCLOAK_URL", "https://login.propertypulse.example"),
        ("UNUSED_SECRET", ""),
    ],
)
def test_what_everybody_may_see_is_none(key: str, value: str) -> None:
    assert env_secret.keys({key: value}) == []
