"""Prisma's configuration: the variables that it takes a URL from, and what each has to be to lead to one database.

A schema names up to three (`url`, `directUrl`, `shadowDatabaseUrl`), and a prisma.config.ts is a program that may read
any: prisma.io/docs/orm/reference/prisma-config-reference. What is found here is what the text of the two says.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from opslib.database import admin, database_url
from opslib.database.database_url import UrlError
from opslib.deployment import env_file
from opslib.deployment.deployment import Deployment

_CONFIGS = ("prisma.config.*", ".config/prisma.*")
_SCHEMAS = ("*.prisma", "prisma/**/*.prisma")
_DOTENVS = ("prisma/.env", ".env")
"""Those that Prisma loads by itself, beside the API's own."""
_NAME = r"([A-Za-z_]\w*)"
_READS = (
    rf"\benv(?:<[^>()]*>)?\(\s*['\"]{_NAME}['\"]\s*\)",
    rf"\benv\.{_NAME}",  # process.env, import.meta.env
    rf"\benv\[\s*['\"`]{_NAME}['\"`]\s*\]",
    rf"\benv\.get\(\s*['\"]{_NAME}['\"]\s*\)",
)
_TAKEN_APART = re.compile(r"\{([^{}]*)\}\s*=\s*process\.env\b")
_SCHEMA = re.compile(r"\bschema\s*:\s*(?:path\.join\([^'\"]*)?['\"]([^'\"]+)['\"]")


def told(environment: Deployment, folder: Path, url: str) -> dict[str, str]:
    """Give the variables that lead Prisma to the database of this URL, which is the API's, whichever of them it reads.

    Each that has a URL keeps all of it but the database: it may lead past a pooler. A shadow database is not used where
    nothing but finished migrations is run.
    """
    name, held = database_url.parameters(url)["dbname"], _held(environment, folder)
    live = database_url.parameters(held.get(admin.KEY, url))["dbname"]
    read = _read(folder)
    found = {admin.KEY: url}
    for key, value in held.items():
        leads_to = _database(value)
        if leads_to and (key in read or leads_to == live):
            found[key] = database_url.with_database(value, name) if "$" not in value else url
        elif value == live and key in read:
            found[key] = name
    unset = {key: url for key in read - held.keys() if "URL" in key.upper()}
    return {**unset, **found, admin.KEY: url}


def schema(folder: Path) -> str:
    """Give the schema's place as `--schema` takes it; empty if it is in none of the usual ones."""
    named = [match[1] for text in _texts(folder, _CONFIGS) if (match := _SCHEMA.search(text))]
    with suppress(OSError, ValueError, AttributeError):
        named.append(str(json.loads((folder / "package.json").read_text()).get("prisma", {}).get("schema", "")))
    usual = ("prisma/schema.prisma", "schema.prisma", "prisma/schema")
    return next((place for place in (*named, *usual) if place and (folder / place).exists()), "")


def _read(folder: Path) -> set[str]:
    """Give the names of the variables that the configuration reads."""
    found: set[str] = set()
    for text in _texts(folder, (*_CONFIGS, *_SCHEMAS)):
        found.update(name for pattern in _READS for name in re.findall(pattern, text))
        for names in _TAKEN_APART.findall(text):
            found.update(re.findall(rf"(?:^|,)\s*{_NAME}", names))
    return found


def _held(environment: Deployment, folder: Path) -> Mapping[str, str]:
    files = [file for file in (*(folder / name for name in _DOTENVS), environment.api.env_file) if file.exists()]
    return {key: value for file in files for key, value in env_file.read(file).items()}


def _texts(folder: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                yield file.read_text(encoding="utf-8", errors="replace")


def _database(value: str) -> str:
    with suppress(UrlError):
        return database_url.parameters(value)["dbname"]
    return ""
