"""An environment: one deployment, described by a file in parameters/: what a run needs to know of any."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment
from opslib.runbook.procedure import names as procedure_names, root

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")

Place = Annotated[Path, AfterValidator(lambda path: root() / path.expanduser())]
"""A path; a relative one starts at the folder that holds parameters/."""

Policy = Literal["none", "digest", "second-person"]


def _by_procedure(given: object) -> object:
    return {"default": given} if isinstance(given, str) else given


def _known_procedures(policies: dict[str, Policy]) -> dict[str, Policy]:
    # A misspelt name would leave the procedure that was meant with a weaker policy.
    if unknown := policies.keys() - {"default", *procedure_names()}:
        raise ValueError(f"found {', '.join(sorted(unknown))}, expected `default` or names of procedures")
    if "default" not in policies:
        raise ValueError("expected a policy named `default` beside those of procedures")
    return policies


class Part(BaseModel):
    """A part of an environment's file: only what it declares may stand in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


P = TypeVar("P", bound=Part)


class Limits(Part):
    """How long things may take, in seconds."""

    run: Annotated[float, Field(gt=0)] = 1800
    cell: Annotated[float, Field(gt=0)] = 600
    undo: Annotated[float, Field(gt=0)] = 120
    """What an interrupted run gets to undo its changes."""


class Environment(Part, ABC):
    """What a run needs of an environment."""

    title: str
    approval: Annotated[dict[str, Policy], BeforeValidator(_by_procedure), AfterValidator(_known_procedures)]
    """What a plan needs before it is carried out, by procedure; `default` is for all that are not named."""
    signers: Place | None = None
    """The file of allowed signers for `second-person`, as ssh-keygen(1) describes it."""
    limits: Limits = Limits()
    stand_in: str = ""
    """The command that starts it, if it was made to be broken. It is not meant where none is named and others are."""
    name: str = ""

    def policy(self, procedure: str) -> Policy:
        """What a plan of this procedure needs."""
        return self.approval.get(procedure, self.approval["default"])

    @property
    @abstractmethod
    def lock(self) -> Path:
        """The file that a run holds while it may change the deployment."""

    def prepare(self) -> None:
        """Make what a run needs that may change the deployment. Raise Refused if it may not be made."""

    @abstractmethod
    def values(self) -> Mapping[str, str]:
        """Give the secrets by name, for them to be masked. Raise BadEnvironment if they cannot be read."""

    def prove(self) -> Iterable[tuple[str, Answer]]:
        """Prove each line of the file against the world, and change nothing; give each with its answer.

        The evidence of an answer is a sentence that says what was found, without secrets.
        """
        return ()

    def find(self, kind: type[P]) -> P | None:
        """Give the part of this kind, if the file has it."""
        return next((value for value in self.__dict__.values() if isinstance(value, kind)), None)

    def part(self, kind: type[P]) -> P:
        """Give the part of this kind. Raise BadEnvironment if the file has none."""
        found = self.find(kind)
        if found is None:
            raise BadEnvironment(
                f"parameters/{self.name}.yaml has no `{kind.__name__.lower()}:`; "
                "parameters/production.example.yaml explains it"
            )
        return found


class Unwritten(Environment):
    """An environment that a procedure is about to describe: its file is not there, and none of its secrets is known."""

    approval: Annotated[dict[str, Policy], BeforeValidator(_by_procedure)] = {"default": "none"}

    @property
    def lock(self) -> Path:
        """A file beside its records, as where it keeps its own is not known yet."""
        return root() / "records" / self.name / ".lock"

    def prepare(self) -> None:
        """Make the folder of its records."""
        self.lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def values(self) -> Mapping[str, str]:
        """Give no secret."""
        return {}


_kinds: list[type[Environment]] = []


def describe(kind: type[Environment]) -> None:
    """Say as what files in parameters/ are read."""
    _kinds[:] = [kind]


def names() -> list[str]:
    """The names of the environments in parameters/, sorted."""
    files = (root() / "parameters").glob("*.yaml")
    return sorted(f.stem for f in files if NAME.fullmatch(f.stem) and re.search(r"^api:", f.read_text(), re.M))


def default(declared: str) -> str:
    """Give the environment that is meant where none is named: the only one that is no stand-in, or else `declared`.

    Raise BadEnvironment where there are several.
    """
    real = [name for name in names() if not re.search(r"^stand_in:", file(name).read_text(), re.M)]
    if len(real) > 1:
        raise BadEnvironment(f"no environment is named, and there are {', '.join(real)}: name one with -e")
    return real[0] if real else declared


def file(name: str) -> Path:
    """Where the environment of this name is described."""
    return root() / "parameters" / f"{name}.yaml"


def load(name: str, *, new: bool = False) -> Environment:
    """Read `parameters/NAME.yaml`. Raise BadEnvironment with file and line for each thing that is wrong in it.

    Where it may be a `new` one and there is no such file, give what a run needs to write it.
    """
    described = file(name)
    if new and not NAME.fullmatch(name):
        raise BadEnvironment(f"environment: found {name[:80]!a}, expected small letters, digits and dashes, 40 at most")
    if new and not described.exists():
        return Unwritten(name=name, title=f"{name} (not connected yet)")
    if not NAME.fullmatch(name) or not described.is_file():
        raise BadEnvironment(
            f"there is no environment {name[:80]!a}: parameters/ has {', '.join(names()) or 'none'}. "
            "To make one: runbook run connect_deployment -e NAME"
        )
    try:
        tree = yaml.compose(described.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(described.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadEnvironment(f"{described}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise BadEnvironment(f"{described}:1: found {type(content).__name__}, expected keys and values")
    try:
        return _kinds[0](**{**content, "name": name})
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        lines = [f"{described}:{_line(tree, p['loc'])}: {'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems]
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
