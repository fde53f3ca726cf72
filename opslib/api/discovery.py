"""What PM2, its processes, the code and the `.env` tell of an API that no environment's file describes yet.

It only reads: PM2's list, files, what processes listen on; and asks a few routes with GET.
"""

import os
import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from shutil import which
from typing import Any

import psutil

from opslib.api import code_discovery, env_discovery, pm2, pm2_app, process_discovery, route
from opslib.api.pm2_app import App
from opslib.deployment import env_file, env_secret
from opslib.deployment.deployment import Api, Deployment
from opslib.deployment.line import Asked, Line
from opslib.runbook.errors import CommandFailed, RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.procedure import located, root

TOOLS = ("pm2", "node", "npx", "psql", "pg_dump", "pg_restore")
"""What procedures call that may be in no folder of PATH."""

_DAEMON = re.compile(r"God Daemon \((.+?)\)")


def discover(name: str, pm2_home: Path | None, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Find what an environment's file says of the API; `name` is the environment's, `given` what a person has said."""
    home, why = _home(pm2_home)
    environment = _environment(name, home, given)
    daemon = pm2.daemon(environment)
    yield Line("api.pm2_home", located(home), why) if daemon["runs"] else _no_daemon(daemon)
    if not daemon["runs"]:
        return
    tools = _tools(daemon["pid"], given)
    yield from tools
    known = {line.key: line.value for line in tools if isinstance(line, Line)} | {**given}
    environment = _environment(name, home, known)
    app = yield from _app(environment, given)
    if app is None:
        return
    yield from _of_app(name, home, app, given)


def _of_app(name: str, home: Path, app: App, given: Mapping[str, Any]) -> Iterator[Line | Asked]:
    """Find the rest, now that the app is known."""
    lines = dict[str, Any](given)

    def told(line: Line | Asked) -> Line | Asked:
        if isinstance(line, Line):
            lines.setdefault(line.key, line.value)
        return line

    yield told(env_discovery.found_release(app))
    top = _place(lines.get("api.release", app.folder))
    folder = next((one for one in app.script.parents if (one / "package.json").is_file()), app.folder)
    folder = folder if folder.is_relative_to(top) else top
    found = told(env_discovery.found_env_file(app, top, folder))
    try:
        values = env_file.read(_place(lines["api.env_file"])) if "api.env_file" in lines else {}
    except env_file.EnvFileError as error:
        values, found = {}, Asked("api.env_file", f"the .env that the API reads: {error}", str(lines["api.env_file"]))
    mask.know({key: values[key] for key in env_secret.keys(values)})
    yield found
    yield env_discovery.found_secrets(values)
    if "api.env_file" in lines and "folder" not in given:
        yield from env_discovery.found_folder(_environment(name, home, lines))
    variables = {**values, **app.variables}  # dotenv leaves those alone that are set
    ports, routes = code_discovery.ports(folder, variables), route.routes(folder, "get")
    yield told(process_discovery.found_url(app, ports, top))
    url = str(lines.get("api.url", ""))
    # Where the API does not listen, another's process may.
    asked = url if not app.down and ("api.url" in given or app.addresses()) else ""
    yield told(code_discovery.found_health(asked, routes, app.pids, top))
    yield from code_discovery.found_trial(folder, top, ports, url, given)
    yield from process_discovery.found_boot(app)
    if app.fork and len(app.held) == 1:
        yield Asked(
            "api.handover",
            f"PM2 runs {app.name} in fork mode, in which each restart loses the requests of a whole boot. `true` lets "
            "the next process boot beside the one that serves and take the port from it: next to nothing is lost. It "
            "needs the memory of two for a moment, and is for the API's owner to decide",
        )
    yield code_discovery.found_route(asked, routes, top)
    yield from code_discovery.found_tokens(folder, top, variables)
    yield from process_discovery.found_logs(app, home)
    yield from env_discovery.found_prisma(top)


def _home(said: Path | None) -> tuple[Path, str]:
    """Give PM2's home, and how it is known."""
    named = os.environ.get("PM2_HOME")
    why = "you named it" if said else "PM2_HOME of this login" if named else "PM2's own default"
    return root() / (said or Path(named or "~/.pm2")).expanduser(), f"{why}, and PM2's daemon runs for it"


def _environment(name: str, home: Path, known: Mapping[str, Any]) -> Deployment:
    """Give an environment that says what is known by now."""
    api = Api.model_construct(
        name=str(known.get("api.name", "")), pm2_home=home, env_file=_place(known.get("api.env_file", ".env"))
    )
    tools, folder = (_place(known[key]) if key in known else None for key in ("tools", "folder"))
    return Deployment.model_construct(name=name, api=api, secrets=frozenset(), tools=tools, folder=folder)


def _place(text: object) -> Path:
    return root() / Path(str(text)).expanduser()


def _no_daemon(found: Mapping[str, Any]) -> Asked:
    """Ask for another home of PM2's, saying whose daemons run on this machine."""
    others = dict[str, str]()
    for process in psutil.process_iter(["cmdline", "username"]):
        if named := _DAEMON.search(" ".join(process.info["cmdline"] or ())):
            others[named[1]] = process.info["username"] or "somebody else"
    user = others.pop(str(found["home"]), None)
    if user and user != psutil.Process().username():
        why = f"its daemon runs as {user}: become that user, and run this again"
    else:
        why = "no daemon of PM2's runs for it"
        why += "" if others else ": start the API first, as the user that runs it"
    seen = "".join(
        f". One runs for {home} as {user}: if that is your API's, name that"
        for home, user in sorted(others.items())[:3]
    )
    what = f"the PM2_HOME of the user that runs the API. {found['home']}: {why}{seen}"
    return Asked("api.pm2_home", what, "~/.pm2")


def _tools(daemon: int, given: Mapping[str, Any]) -> list[Line | Asked]:
    """Find the folder of PM2 and PostgreSQL's programs, if PATH does not have them; PM2's daemon knows where."""
    path = f"{_place(given['tools'])}:" if "tools" in given else ""
    lacks = [tool for tool in TOOLS if not which(tool, path=f"{path}{os.environ.get('PATH', os.defpath)}")]
    if not lacks:
        return []
    process = psutil.Process(daemon)
    try:
        folders = [*process.environ().get("PATH", "").split(os.pathsep), str(Path(process.exe()).parent)]
    except psutil.Error:
        folders = []
    folders += map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    has = {folder: [tool for tool in lacks if which(tool, path=folder)] for folder in dict.fromkeys(folders) if folder}
    best = max(has, key=lambda folder: (has[folder][:1] == lacks[:1], len(has[folder])), default="")
    if best and has[best]:
        left = [tool for tool in lacks if tool not in has[best]]
        more = f"; {', '.join(left)} are not there, nor on PATH" if left else ""
        return [Line("tools", located(Path(best)), f"it has {', '.join(has[best])}, which PATH lacks{more}")]
    what = f"a folder with {', '.join(lacks)}: neither PATH has them nor that of PM2's daemon"
    return [Asked("tools", what, "/opt/node/bin")]


def _app(environment: Deployment, given: Mapping[str, Any]) -> Generator[Line | Asked, None, App | None]:
    """Find the app that is the API, and give it; None where that is for a person to say."""
    try:
        apps = pm2_app.listed(environment)
    except CommandFailed as error:
        yield Asked("api.name", f"the API's name in `pm2 list`: {error}", "propertypulse-api")
        return None
    except RunbookError as error:
        yield Asked("api.pm2_home", f"the PM2_HOME of the user that runs the API: {error}", "~/.pm2")
        return None
    named = [app for app in apps if app.name == given.get("api.name", app.name)]
    if not named:
        there = f"PM2 lists {', '.join(app.name for app in apps) or 'no app at all'} for {environment.api.pm2_home}"
        yield Asked("api.name", f"the API's name in `pm2 list`: {there}. Start it first", "propertypulse-api")
        return None
    found, why = pm2_app.chosen(named)
    if len(found) > 1:
        names = ", ".join(app.name for app in found)
        yield Asked("api.name", f"which of these apps of PM2's is the API: {names}", found[0].name)
        return None
    app = found[0]
    down = f"; it is {app.down}: `pm2 restart {app.name}` first, and this finds more" if app.down else ""
    yield Line("api.name", app.name, f"PM2 lists it: {why}{down}")
    return app
