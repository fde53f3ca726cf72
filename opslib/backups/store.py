"""The stores of backups: a bucket of S3 and a folder of this machine, which are used alike."""

from opslib.backups.bucket import Bucket
from opslib.backups.folder import ARCHIVE, MANIFEST, NAME, PART, PROVEN, Folder, owner, removed, settings
from opslib.deployment.deployment import Deployment

__all__ = [
    "ARCHIVE",
    "MANIFEST",
    "NAME",
    "PART",
    "PROVEN",
    "Bucket",
    "Folder",
    "Store",
    "owner",
    "removed",
    "settings",
    "stores",
]

Store = Folder | Bucket


def stores(environment: Deployment) -> tuple[list[Store], str]:
    """Give the stores that can be used now, the bucket first, and why the bucket cannot be, if so."""
    bucket, folder = Bucket(environment), Folder(environment)
    problem = bucket.problem()
    return ([folder] if problem else [bucket, folder]), problem
