"""An environment: one deployment, described by a file in parameters/."""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, ValidationError

from opslib.errors import BadEnvironment
from opslib.procedure import root

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
PLAIN = {"NO_COLOR": "1", "FORCE_COLOR": "0"}  # what programs say goes into records, not onto a terminal

_http = TypeAdapter(HttpUrl)


def _url(text: str) -> str:
    _http.validate_python(text)
    return text.rstrip("/")


Place = Annotated[Path, AfterValidator(lambda path: root() / path.expanduser())]
"""A path; a relative one starts at the folder that holds parameters/."""
Url = Annotated[str, AfterValidator(_url)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Api(_Part):
    """The API under PM2: what it is called, where it answers, and where its files lie."""

    name: Annotated[str, Field(min_length=1)]
    url: Url
    health: Annotated[str, Field(pattern="^/")] = "/health"
    pm2_home: Place
    env_file: Place
    release: Place
    """The link that points at the release in force."""

    @property
    def health_url(self) -> str:
        """The address that answers 200 while the API is well."""
        return self.url + self.health


class Limits(_Part):
    """How long things may take, in seconds."""

    run: Annotated[float, Field(gt=0)] = 1800
    cell: Annotated[float, Field(gt=0)] = 600
    undo: Annotated[float, Field(gt=0)] = 120
    """What an interrupted run gets to undo its changes."""


class S3(_Part):
    """Where the API keeps uploads, and the IAM user whose access keys sign them."""

    user: Annotated[str, Field(min_length=1)]
    bucket: Annotated[str, Field(min_length=3)]
    other_bucket: Annotated[str, Field(min_length=3)]
    """A bucket of the account that the user must not be able to touch."""
    region: Annotated[str, Field(min_length=1)]
    endpoint: Url | None = None
    """Where IAM, STS and S3 answer, if not at AWS's own addresses."""
    administrator: str
    """A reference to the credentials of whoever may change the user's keys, as JSON of a `credential_process`."""
    login: str
    """A reference to an account of the API, as JSON with `email` and `password`."""
    presigned: Annotated[int, Field(ge=0, le=604800)] = 604800
    """The longest life of a URL that the API signs, in seconds; AWS lets an IAM user sign for seven days at most."""


class Environment(_Part):
    """One deployment, as its file in parameters/ describes it."""

    title: str
    approval: Literal["none", "digest"]
    api: Api
    secrets: frozenset[str]
    """The keys of the API's `.env` whose values are secret."""
    s3: S3 | None = None
    tools: Place | None = None
    """A folder with pm2, psql and the like, searched before PATH."""
    limits: Limits = Limits()
    name: str = ""

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


def names() -> list[str]:
    """The names of the environments in parameters/, sorted."""
    files = (root() / "parameters").glob("*.yaml")
    return sorted(f.stem for f in files if NAME.fullmatch(f.stem) and re.search(r"^api:", f.read_text(), re.M))


def load(name: str) -> Environment:
    """Read `parameters/NAME.yaml`. Raise BadEnvironment with file and line for each thing that is wrong in it."""
    file = root() / "parameters" / f"{name}.yaml"
    if not NAME.fullmatch(name) or not file.is_file():
        raise BadEnvironment(
            f"there is no environment {name[:80]!a}: parameters/ has {', '.join(names()) or 'none'}. "
            "Copy parameters/production.example.yaml to make one."
        )
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadEnvironment(f"{file}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise BadEnvironment(f"{file}:1: found {type(content).__name__}, expected keys and values")
    try:
        return Environment(**{**content, "name": name})
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        lines = [f"{file}:{_line(tree, p['loc'])}: {'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems]
        raise BadEnvironment("\n".join(lines)) from None


def _line(node: Any, keys: Sequence[object]) -> int:
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            child = next((value for name, value in node.value if name.value == str(key)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            child = node.value[key]
        else:
            child = None
        if child is None:
            break
        node = child
    return int(node.start_mark.line) + 1
