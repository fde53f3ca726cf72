"""Google: the public keys of Firebase's ID tokens, and the sign-in that gives one, in the shapes of its REST API."""

from aiohttp import web

from ..layout import HOST
from . import firebase
from .credentials import CERTIFICATES, Credentials
from .layout import GOOGLE

routes = web.RouteTableDef()


def fail(message: str) -> web.Response:
    """Answer with an error as Google words it."""
    error = {"code": 400, "message": message, "errors": [{"message": message, "domain": "global", "reason": "invalid"}]}
    return web.json_response({"error": error}, status=400)


@routes.get("/health")
async def health(_: web.Request) -> web.Response:
    """Say that the server is up."""
    return web.json_response({"status": "ok"})


@routes.get(CERTIFICATES)
async def certificates(_: web.Request) -> web.Response:
    """Show the certificates by the id of their key."""
    shown = {firebase.KEY_ID: firebase.CERTIFICATE.read_text()}
    return web.json_response(shown, headers={"Cache-Control": "public, max-age=19845, must-revalidate"})


@routes.post("/v1/accounts:signInWithPassword")
async def sign_in(request: web.Request) -> web.Response:
    """Give an ID token for an email and a password."""
    credentials, asked = Credentials.load(), await request.json()
    if request.query.get("key") != credentials.firebase_web_key:
        return fail("API key not valid. Please pass a valid API key.")
    if (asked.get("email"), asked.get("password")) != (credentials.login_email, credentials.login_password):
        return fail("INVALID_LOGIN_CREDENTIALS")
    return web.json_response(
        {
            "kind": "identitytoolkit#VerifyPasswordResponse",
            "localId": firebase.UID,
            "email": credentials.login_email,
            "displayName": "",
            "idToken": firebase.id_token(email=credentials.login_email),
            "registered": True,
            "refreshToken": "AMf-plain",
            "expiresIn": str(firebase.SECONDS),
        }
    )


if __name__ == "__main__":
    application = web.Application()
    application.add_routes(routes)
    web.run_app(application, host=HOST, port=GOOGLE, access_log=None, print=None)
