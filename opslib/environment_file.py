"""The file of an environment, as it is written: its lines with their comments, and the lines that there can be."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from opslib.deployment.line import Asked, Line
from opslib.propertypulse import PropertyPulse
from opslib.runbook import environment, secret_shape
from opslib.runbook.answer import Answer
from opslib.runbook.errors import RunbookError
from opslib.runbook.mask import mask
from opslib.runbook.procedure import root

EXAMPLE = "production.example.yaml"
"""The file in parameters/ whose comments explain each line."""
LINE = 118
"""Characters of a line that has its source behind it."""


def text(name: str, lines: Sequence[Line], asked: Sequence[Asked]) -> str:
    """Give the file of an environment: each line with what it is for, and where its value came from."""
    known: dict[str, Line | Asked] = {one.key: one for one in asked} | {one.key: one for one in lines}
    said = [f"# {name}, as connect_deployment found it. `runbook check -e {name}` proves each line against the world."]
    return "\n".join([*said, *_written_part(PropertyPulse, "", known, _explained())]) + "\n"


def absent(name: str, text: str) -> Answer:
    """Whether there is no file of this environment, or just this one."""
    file = environment.file(name)
    there = file.read_text(encoding="utf-8") if file.exists() else text
    instead = f"Edit parameters/{name}.yaml and prove it (runbook check -e {name}), or move it away to have it written."
    return Answer(there == text, file, instead)


def there(name: str) -> str:
    """Say which file of this name is there now."""
    return f"parameters/{name}.yaml" + ("" if environment.file(name).exists() else ", which is not there")


def write(name: str, text: str) -> None:
    """Write the file of an environment, whole or not at all. Raise RunbookError if there is another one by now."""
    said = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))  # prose has examples
    if mask.text(text) != text or hides(said):
        raise RunbookError("the file would hold a secret: give the line that does otherwise, in `given`")
    file = environment.file(name)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.link(beside, file)
    except FileExistsError:
        if file.read_text(encoding="utf-8") != text:
            raise RunbookError(f"{file} was written by somebody else meanwhile; look at it, and run again") from None
    except OSError as error:
        raise RunbookError(f"{file} cannot be written: {error.strerror}; put that right and run again") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def remove(name: str, text: str) -> None:
    """Take away the file that `write` wrote, if nobody has changed it since."""
    file = environment.file(name)
    if file.exists() and file.read_text(encoding="utf-8") == text:
        file.unlink()


def hides(text: str) -> bool:
    """Whether a text holds a secret, one that is known or one that looks like it."""
    return mask.text(text) != text or secret_shape.hidden(text) != text


def part_of(field: FieldInfo) -> type[BaseModel] | None:
    """Give the part that a line begins, if it does."""
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)


def field_of(key: str) -> FieldInfo | None:
    """Give what the model has for a line, None if it has no such line."""
    part: type[BaseModel] | None = PropertyPulse
    field = None
    for word in key.split("."):
        field = part.model_fields.get(word) if part else None
        part = part_of(field) if field else None
    return field


def written(value: Any) -> str:
    """Give a value as YAML has it, on one line."""
    if isinstance(value, str) and len(value.splitlines()) > 1:
        return json.dumps(value)  # which is YAML, on one line
    return (
        yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
        .removesuffix("\n...\n")
        .strip()
    )


def flow(lines: Mapping[str, Any]) -> str:
    """Give lines with a comma between them, as `given` takes them."""
    return written(dict(lines))[1:-1]


def _written_part(
    part: type[BaseModel], at: str, known: Mapping[str, Line | Asked], explained: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    indent = "  " * at.count(".")
    for word, field in part.model_fields.items():
        key, below = at + word, any(one.startswith(f"{at}{word}.") for one in known)
        if key not in known and not below:
            continue
        found, inner = known.get(key), part_of(field)
        yield from ([""] if not at else [])
        yield from (f"{indent}# {line}" for line in explained.get(key, ()))
        if below and inner:
            stands = any(isinstance(one, Line) for one_key, one in known.items() if one_key.startswith(f"{key}."))
            yield f"{indent}{word}:" if stands else f"{indent}# {word}:"
            yield from _written_part(inner, f"{key}.", known, explained)
        elif isinstance(found, Line):
            line, source = f"{indent}{word}: {written(found.value)}", f"# {_folded(found.source)}"
            short = len(line) + len(source) < LINE
            yield from [f"{line}  {source}"] if short else [f"{indent}{source}", line]
        elif found:
            yield f"{indent}# {_folded(found.what)}"
            yield f"{indent}# {word}: {_folded(found.example)}".rstrip()


def _folded(text: str) -> str:
    return " ".join(text.split())


def _explained() -> dict[str, list[str]]:
    """Give the comment that the example's file has before each line, by the line; of one that is switched off too."""
    found: dict[str, list[str]] = {}
    comment: list[str] = []
    path: list[str] = []
    for line in (root() / "parameters" / EXAMPLE).read_text(encoding="utf-8").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        bare = line.strip().removeprefix("# ")
        word = bare.partition(":")[0]
        key = ".".join([*path[:depth], word])
        if ":" in bare and field_of(key):
            found[key], comment = comment, []
            path = [*path[:depth], word]
        elif line.lstrip().startswith("#"):
            comment.append(bare)
        else:
            comment = []
    return found
