"""What the code signs: the life of a token as jsonwebtoken takes it, and only where the code shows it."""

from pathlib import Path

import pytest

from opslib.api import code_discovery, signing
from opslib.deployment.line import Asked, Line

LOADED = 'const jwt = require("jsonwebtoken");\n'


@pytest.mark.parametrize(
    ("life", "is_seconds"),
    [("7d", 604800), ("15m", 900), ("2 days", 172800), (3600, 3600), ("120", 0.12), ("100ms", 0.1), ("soon", None)],
)
def test_a_life_is_what_jsonwebtoken_takes_it_for(life: str | int, is_seconds: float | None) -> None:
    assert signing.seconds(life) == is_seconds


def longest(folder: Path, code: str) -> Line | Asked:
    (folder / "tokens.js").write_text(code)
    found = code_discovery.found_tokens(folder, folder, {"JWT_EXPIRES_IN": "30d"})
    return next(one for one in found if one.key == "tokens.longest")


@pytest.mark.parametrize(
    ("code", "is_seconds"),
    [
        ('jwt.sign({ id }, process.env.JWT_SECRET, { expiresIn: "1h" })', 3600),
        ('jwt.sign({ id }, process.env.JWT_SECRET, { expiresIn: process.env.JWT_EXPIRES_IN || "1h" })', 30 * 86400),
        (
            "const LIVES = { a: '15m', b: 60 * 60 };\njwt.sign(claims, config.jwtSecret, { expiresIn: LIVES[kind] })",
            3600,
        ),
        ('jwt.sign({ id }, JWT_SECRET, { expiresIn: "1h" });\njwt.sign({ id }, APPLE, { expiresIn: "180d" })', 3600),
        (  # one name in two functions
            "function a() {\n const life = '15m';\n jwt.sign({ id }, JWT_SECRET, { expiresIn: life });\n}\n"
            "function b() {\n const life = '7d';\n jwt.sign({ id }, JWT_SECRET, { expiresIn: life });\n}",
            604800,
        ),
    ],
)
def test_the_longest_life_of_what_the_secret_signs(tmp_path: Path, code: str, is_seconds: int) -> None:
    found = longest(tmp_path, LOADED + code)
    assert isinstance(found, Line) and found.value == is_seconds + 300


@pytest.mark.parametrize(
    "code",
    [
        "jwt.sign({ id }, JWT_SECRET)",
        "jwt.sign({ id }, JWT_SECRET, options)",
        "jwt.sign({ id }, JWT_SECRET, { expiresIn: life(user) })",
        'jwt.sign({ id }, JWT_SECRET, { expiresIn: "1h" });\njwt.sign({ id }, JWT_SECRET, given)',
        'jwt.sign({ id }, otherKey, { expiresIn: "1h" })',
        "this.jwtService.sign({ id })",
        "verifyIdToken(token); jwt.sign({ id }, otherKey)",
    ],
)
def test_a_life_that_is_not_shown_is_asked_for(tmp_path: Path, code: str) -> None:
    assert isinstance(longest(tmp_path, LOADED + code), Asked)


def test_claims_that_are_the_same_in_every_token_are_found_and_others_asked_for(tmp_path: Path) -> None:
    def claims(code: str) -> Line | Asked:
        (tmp_path / "tokens.js").write_text(LOADED + code)
        return next(iter(code_discovery.found_tokens(tmp_path, tmp_path, {})))

    found = claims('jwt.sign({ sub: "probe", admin: false }, JWT_SECRET)')
    assert isinstance(found, Line) and found.value == {"sub": "probe", "admin": False}
    asked = claims("jwt.sign({ sub: user.id, role }, JWT_SECRET)")
    assert isinstance(asked, Asked) and asked.example == '{sub: "0", role: …}'
