"""A deployment: where the API, its files and its secrets are; what an environment's file says for every domain."""

import os
import shlex
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter

from opslib.deployment import env_file, place, secret_reference
from opslib.runbook.environment import Environment, Part, Place
from opslib.runbook.errors import BadEnvironment
from opslib.runbook.procedure import root

PLAIN = {"NO_COLOR": "1", "FORCE_COLOR": "0"}  # what programs say goes into records, not onto a terminal
STAGED = ".staged"
"""What the name of the file that holds staged secrets has behind the name of the `.env`."""
LOCK, HANDOVER = ".runbook.lock", "runbook.handover"

_http = TypeAdapter(HttpUrl)


def _url(text: str) -> str:
    _http.validate_python(text)
    return text.rstrip("/")


def _reference(text: str) -> str:
    kind, _, where = text.partition(":")
    if text and kind not in secret_reference.READERS:
        # What was given may be the secret itself, so it is not repeated.
        raise ValueError(f"expected a reference ({secret_reference.KINDS}), never the secret itself")
    return f"{kind}:{root() / Path(where).expanduser()}" if kind == "file" else text


Reference = Annotated[str, AfterValidator(_reference)]
"""Where a secret is, as secret_reference.py says; a relative path of a file starts where a Place does."""
Url = Annotated[str, AfterValidator(_url)]


class Trial(Part):
    """How the code is started once beside the API, to see whether it comes up."""

    port: Annotated[str, Field(min_length=1)] = "PORT"
    """The variable that says on which port the API listens."""
    variables: Mapping[str, str] = Field(default_factory=dict)
    """What turns off the jobs that would run twice, as `REMINDERS: "false"`."""


class Api(Part):
    """The API under PM2: what it is called, where it answers, and where its files lie."""

    name: Annotated[str, Field(min_length=1)]
    url: Url
    health: Annotated[str, Field(pattern="^/")] = "/health"
    pm2_home: Place
    env_file: Place
    release: Place
    """The link that points at the release in force, or a checkout in which the code is changed in place."""
    handover: bool = False
    """Whether in fork mode a process may boot beside the one that serves, and take the port from it."""
    trial: Trial | None = None
    boot: Annotated[float, Field(gt=0)] = 60
    """How many seconds the code may take from its start until it answers."""

    @property
    def health_url(self) -> str:
        """The address that answers 200 while the API is well."""
        return self.url + self.health


class Deployment(Environment):
    """An environment with the API in it."""

    api: Api
    secrets: frozenset[str]
    """The keys of the API's `.env` whose values are secret."""
    tools: Place | None = None
    """A folder with pm2, psql and the like, searched before PATH."""
    folder: Place | None = None
    """Where the lock, staged secrets and backups of the `.env` lie, 0700; beside the `.env` if it is not named."""

    @property
    def place(self) -> Path:
        """The folder of our own files, of which none belongs in the API's checkout."""
        return self.folder.resolve() if self.folder else self.api.env_file.resolve().parent

    @property
    def staged(self) -> Path:
        """The file of the secrets that are made and not in force yet, or no longer."""
        return self.place / f"{self.api.env_file.resolve().name}{STAGED}"

    @property
    def lock(self) -> Path:
        """The file that a run holds while it may change the deployment."""
        return self.place / LOCK

    def prepare(self) -> None:
        """Make the folder of our own files. Raise Refused if others may look into it, or git would take them."""
        self.need_ignored()
        if self.folder:
            place.make(self.place)

    def need_ignored(self) -> None:
        """Raise Refused if git would take our own files into a commit."""
        names = (LOCK, HANDOVER, self.staged.name, *env_file.names(self.api.env_file))
        file = f"parameters/{self.name}.yaml"
        other = f"Put `folder: ~/.runbook/{self.name}` into {file}, or another folder of yours that is in no checkout."
        place.need_ignored(self.place, names, variables=self.variables, otherwise=other)

    def values(self) -> dict[str, str]:
        """Give the secrets of the `.env`, and those that are staged. Raise BadEnvironment if they cannot be read."""
        try:
            held = env_file.read(self.api.env_file)
        except (OSError, ValueError) as error:
            if self.stand_in and not self.api.env_file.exists():
                raise BadEnvironment(f"{self.title} does not run: `{self.stand_in}` starts it") from None
            raise BadEnvironment(
                f"{self.api.env_file}: cannot be read ({error}), so its secrets could not be masked"
            ) from None
        # A secret's predecessor too, as in JWT_SECRET_PREVIOUS.
        known = {key: value for key, value in held.items() if key.startswith(tuple(self.secrets))}
        try:
            staged = env_file.read(self.staged) if self.staged.exists() else {}
        except (OSError, ValueError) as error:
            raise BadEnvironment(
                f"{self.staged}: cannot be read ({error}), so its secrets could not be masked"
            ) from None
        self._need_moved()
        return known | {key: value for key, value in staged.items() if not key.endswith("_SINCE")}

    def _need_moved(self) -> None:
        """Raise BadEnvironment if files of runs lie beside the `.env` from before the folder was named."""
        real = self.api.env_file.resolve()
        if self.place == real.parent:
            return
        left = [edit.backup for edit in env_file.edits(real)]
        if (beside := real.with_name(self.staged.name)).exists():
            left.append(beside)
        if left:
            files, to = shlex.join(map(str, left)), shlex.quote(str(self.place))
            raise BadEnvironment(
                f"{', '.join(file.name for file in left)} lie beside the .env from before `folder` was named, where no "
                f"run finds them. While none is at work: `mkdir -pm 700 {to} && mv -n {files} {to}`"
            )

    @cached_property
    def variables(self) -> dict[str, str]:
        """The environment variables for outside programs: nothing of the kernel's own but what is named here."""
        kept = {key: os.environ[key] for key in ("HOME", "LANG", "USER") if key in os.environ}
        path = os.environ.get("PATH", os.defpath)
        return {
            **kept,
            "PATH": f"{self.tools}:{path}" if self.tools else path,
            "PM2_HOME": str(self.api.pm2_home),
            **PLAIN,
        }
