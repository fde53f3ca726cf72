"""A remainder: what of a database no restore brings back, and whose code runs as the administrator meanwhile."""

from opslib.backups.restore import THERE
from opslib.database.postgres import Connection
from opslib.runbook.answer import Answer

_ALWAYS = """
    SELECT 'subscription ' || quote_ident(subname) AS what, 'it would fetch what the live one is to get' AS why
    FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT 'extension ' || quote_ident(extname) || ' of ' || pg_get_userbyid(extowner),
        'an archive does not say who owns an extension: it becomes the administrator''s'
    FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace JOIN pg_roles r ON r.oid = extowner
    WHERE NOT rolsuper AND nspname <> ALL(%(there)s)"""
# What CREATE and ALTER ask for by the manual, of whoever is no superuser.
_ONLY_A_SUPERUSER = """
    SELECT 'event trigger ' || quote_ident(evtname) AS what FROM pg_event_trigger
    UNION ALL SELECT 'publication ' || quote_ident(pubname) FROM pg_publication WHERE puballtables
        OR EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = pg_publication.oid)
    UNION ALL SELECT 'foreign-data wrapper ' || quote_ident(fdwname) FROM pg_foreign_data_wrapper w
        WHERE NOT EXISTS (SELECT FROM pg_depend WHERE objid = w.oid AND deptype = 'e')
    UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_language l ON l.oid = prolang
        WHERE p.oid >= 16384 AND (proleakproof OR NOT lanpltrusted AND lanname <> 'sql')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
    UNION ALL SELECT 'extension ' || quote_ident(extname) FROM pg_extension e WHERE extname <> 'plpgsql'
        AND NOT EXISTS (SELECT FROM pg_available_extension_versions v
            WHERE v.name = extname AND v.version = extversion AND trusted)
    UNION ALL SELECT DISTINCT 'what ' || quote_ident(r.rolname) || ' owns' FROM pg_shdepend d
        JOIN pg_roles r ON r.oid = d.refobjid WHERE d.deptype = 'o' AND d.refclassid = 'pg_authid'::regclass
        AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND NOT pg_has_role(r.oid, 'MEMBER')"""
_CODE = """
    WITH code AS (
        SELECT d.classid, d.objid, p.oid::regprocedure AS function, p.proowner FROM pg_depend d
        JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_roles r ON r.oid = proowner
        WHERE d.refclassid = 'pg_proc'::regclass AND NOT rolsuper),
    place AS (
        SELECT 'pg_constraint'::regclass AS classid, oid, conrelid, 'constraint ' || quote_ident(conname) AS what
        FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0
        UNION ALL SELECT 'pg_attrdef'::regclass, f.oid, adrelid, 'column ' || quote_ident(attname)
        FROM pg_attrdef f JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE attgenerated <> ''
        UNION ALL SELECT 'pg_constraint'::regclass, k.oid, attrelid, 'domain of column ' || quote_ident(attname)
        FROM pg_constraint k JOIN pg_attribute ON atttypid = contypid WHERE contypid <> 0 AND NOT attisdropped)
    SELECT what || ' of ' || conrelid::regclass AS runs, function::text, pg_get_userbyid(proowner)::text AS of
    FROM code JOIN place ON place.classid = code.classid AND place.oid = code.objid JOIN pg_class c ON c.oid = conrelid
    WHERE relkind IN ('r', 'p') AND NOT pg_has_role(%(role)s, relowner, 'USAGE') ORDER BY 1, 2"""


def none(superuser: Connection) -> Answer:
    """Whether a restore brings everything back, with its owner and rights; with what it would not, and why."""
    rows = superuser.execute(_ALWAYS.encode(), {"there": list(THERE)}).fetchall()
    row = superuser.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    if not row or not row["rolsuper"]:
        only = superuser.execute(_ONLY_A_SUPERUSER.encode()).fetchall()
        rows += [one | {"why": "only a superuser may make it, and `database.admin` names none"} for one in only]
    otherwise = "A recovery would be without it. Name a superuser, or go on: -p accept_missing True"
    return Answer(not rows, rows, otherwise)


def code(superuser: Connection, role: str) -> list[dict[str, str]]:
    """Give the functions of ordinary roles that a restore runs as the administrator: for tables not of this role."""
    return superuser.execute(_CODE.encode(), {"role": role}).fetchall()
