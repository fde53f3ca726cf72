"""Proofs of what an environment's file says of backups: the folder and its room, the bucket, and who reads all."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from opslib.aws import aws, proof as aws_proof
from opslib.backups import disk_space, source_database
from opslib.backups.bucket import Bucket
from opslib.backups.settings import Backups
from opslib.database import admin
from opslib.database.proof import SERVER
from opslib.deployment.deployment import Deployment
from opslib.deployment.proof import Proof, once, writable
from opslib.runbook.answer import Answer
from opslib.runbook.errors import BadEnvironment, BadParameter
from opslib.runbook.procedure import located


def prove(environment: Deployment) -> Iterator[Proof]:
    """Give the proofs. Nothing is written, neither into the folder nor into the bucket."""
    if (backups := environment.find(Backups)) is None:
        return
    service = backups.endpoint or "S3"
    listed = once(lambda: aws_proof.listing(Bucket(environment).client, backups.bucket, f"{backups.prefix}/"))
    yield Proof("backups.folder", SERVER, partial(_folder, environment, backups.folder))
    yield Proof("backups.credentials", service, partial(_credentials, backups, listed))
    yield Proof("backups.bucket", service, lambda: aws_proof.there(listed(), backups.bucket))
    yield Proof("database.admin", SERVER, partial(_admin, environment))
    yield Proof("tools", SERVER, partial(_tools, environment))


def _folder(environment: Deployment, folder: Path) -> Answer:
    if problem := writable(folder):
        return Answer(False, problem, "Name a folder of this user's, best on another disk than the database.")
    with admin.connect(environment, within=0) as superuser:
        room = disk_space.for_backup(environment, superuser)
    needs = "; ".join(f"{one.what} {one.needed} (free: {one.free})" for one in room.evidence)
    if not room:
        return Answer(room.ok, f"{located(folder)} has no room: {needs}", room.otherwise)
    return Answer(True, "it has room" if folder.exists() else "the first backup makes it, and it has room")


def _credentials(backups: Backups, listed: Callable[[], str]) -> Answer:
    try:
        pair = aws.credentials(backups.credentials, "backups.credentials", "BACKUP_CREDENTIALS")
    except (BadEnvironment, BadParameter) as error:
        return Answer(False, str(error))
    return aws_proof.taken(listed(), f"key {pair}")


def _admin(environment: Deployment) -> Answer:
    with admin.connect(environment, within=0) as superuser:
        found = source_database.allowed(superuser)
    may = "may" if found else "may not"
    return Answer(found.ok, f"it {may} read everything and make databases, as backups need", found.otherwise)


def _tools(environment: Deployment) -> Answer:
    with admin.connect(environment, within=0) as superuser:
        found = source_database.tools(environment, superuser)
    versions = ", ".join(f"{name} {major}" for name, major in found.evidence.items())
    return Answer(found.ok, f"versions are {versions}", found.otherwise)
