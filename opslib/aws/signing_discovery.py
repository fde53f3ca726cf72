"""What the code shows of how an upload is signed, for an environment's file: what is legible there, and no more."""

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import yaml

from opslib.api import release
from opslib.aws import signing_code
from opslib.aws.signing_code import FORM, Expires, SigningCode
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment
from opslib.deployment.line import Asked, Line, private

FIREBASE = {
    "url": "https://identitytoolkit.googleapis.com/v1/accounts:signInWithPassword?key={key}",
    "body": {"returnSecureToken": True},
    "token": "idToken",
}
_ELSEWHERE = re.compile(r"FIREBASE.*(?:AUTH|CERT|TOKEN)")


def discover(environment: Deployment) -> Iterator[Line | Asked]:
    """Give how the API is asked to sign an upload, and how long what it signs is valid; ask for the rest."""
    folder = environment.api.release
    if lives := signing_code.lives(folder):
        yield _presigned(lives)
    found, key = signing_code.signing(folder), "s3.signing.route"
    if len(found) != 1 or ":" in found[0].path or FORM in found[0].code:
        if found:
            shown = ", ".join(map(str, found))
            what = "to which of these a POST with fields that are always the same gets the URL of an upload"
            yield Asked(key, f"It is not told {what}: {shown}. Left out, a new key is proven without the API.")
        elif lives:
            yield Asked(key, "The code signs URLs, and at which route for an upload is not told.")
        return
    code = SigningCode(found[0])
    yield Line(key, code.route.path, f"the code signs an upload there ({code.route.line})")
    yield _body(code)
    for name, example, what in (
        ("url", "data.uploadUrl", "the signed URL"),
        ("key", "data.key", "the name of the object"),
    ):
        if field := code.answered.get(name):
            yield Line(f"s3.signing.{name}", field, f"the code answers with it ({code.route.line})")
        else:
            what = f"Which field of what {code.route} answers has {what}, one inside another after a point."
            yield Asked(f"s3.signing.{name}", what, example)
    yield from _sign_in(environment)
    login = "A reference to an account of the API that may upload: JSON with email and password"
    what = f"{login}; with Firebase the project's web key too, as `key`."
    yield Asked("s3.login", what, f"file:{private(environment, 'login.json')}")


def _presigned(lives: Sequence[Expires]) -> Line | Asked:
    if untold := [str(one.line) for one in lives if one.seconds is None]:
        what = f"How many seconds the longest-lived URL is valid that the API signs: {', '.join(untold)} does not tell."
        return Asked("s3.presigned", what)
    longest = max(lives, key=lambda one: one.seconds or 0)
    return Line("s3.presigned", longest.seconds, f"the code signs for so long ({longest.line})")


def _body(code: SigningCode) -> Line | Asked:
    key, wanted = "s3.signing.body", code.wanted
    if code.whole and wanted and all(wanted.values()):
        allowed = {name: values[0] for name, values in wanted.items()}
        return Line(key, allowed, f"the code refuses without these, and allows these values ({code.route.line})")
    told = f": the code refuses without {', '.join(wanted)}" if wanted else ""
    example = {
        name: values[0] if values else "probe.txt" if "ame" in name else "probe" for name, values in wanted.items()
    }
    text = yaml.safe_dump(example or {"fileName": "probe.txt"}, default_flow_style=True, sort_keys=False, width=500)
    return Asked(key, f"What the API wants to sign an upload, as fields of a JSON body{told}.", text.strip())


def _sign_in(environment: Deployment) -> Iterator[Line | Asked]:
    """Give how a person gets the token that the API wants."""
    folder, key = environment.api.release, "s3.signing.sign_in"
    firebase = next((str(at) for at, _ in release.search(folder, signing_code.FIREBASE)), "")
    logins = signing_code.logins(folder)
    if firebase and not logins:
        yield _firebase(environment, firebase)
        for name in ("body", "token"):
            yield Line(f"{key}.{name}", FIREBASE[name], f"the code checks Firebase's tokens ({firebase})")
        return
    if len(logins) != 1 or firebase:
        shown = ", ".join([*map(str, logins), *(["Firebase"] if firebase else [])])
        what = f"Where email and password of a person give a token{': of ' + shown if shown else ''}."
        yield Asked(key, what, "{url: /api/auth/login, token: accessToken}")
        return
    ((route, fields),) = logins.items()
    yield Line(f"{key}.url", route.path, f"the code takes a password there ({route.line})")
    if len(fields) == 1:
        yield Line(f"{key}.token", fields[0], f"the code answers with it ({route.line})")
    else:
        yield Asked(f"{key}.token", f"Which field of what {route} answers has the token.", "accessToken")


def _firebase(environment: Deployment, place: str) -> Line | Asked:
    key, google = "s3.signing.sign_in.url", str(FIREBASE["url"])
    for name, value in env_file.read(environment.api.env_file).items():
        at = urlsplit(value if "://" in value else f"http://{value}")
        if _ELSEWHERE.search(name) and ("://" in value or name.endswith("_HOST")) and not _google(at.hostname or ""):
            what = f"{name} of the .env names another host than Google's: where a person signs in there."
            return Asked(
                key, what, google.replace("https://identitytoolkit.googleapis.com", f"{at.scheme}://{at.netloc}")
            )
    return Line(key, google, f"the code checks Firebase's tokens ({place}), and no variable names another host")


def _google(host: str) -> bool:
    return host.endswith((".googleapis.com", ".google.com"))
