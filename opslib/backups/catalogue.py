"""A catalogue: every object of a database but its rows, each with a digest of its owner, rights, security and shape.

Two databases with the same catalogue let in and behave the same. What a restore decides by itself is left out: oids,
versions of extensions and of collations, which superuser owns an extension, an index that is not valid.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import LiteralString

from opslib.database.postgres import Connection

# {class: (its letter for default rights, owner, rights, what else there is of it, which of them)}
_PARTS: dict[str, tuple[str, str, str, str, str]] = {
    "pg_class": (
        "CASE relkind WHEN 'S' THEN 's' ELSE 'r' END",
        "relowner",
        "relacl",
        "relkind, relpersistence, relrowsecurity, relforcerowsecurity, relreplident, reloptions,"
        " (SELECT amname FROM pg_am WHERE oid = relam), pg_get_expr(relpartbound, o.oid),"
        " CASE relkind WHEN 'p' THEN pg_get_partkeydef(o.oid) END,"
        " CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(o.oid) END,"
        " (SELECT jsonb_agg(inhparent::regclass ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = o.oid),"
        " (SELECT jsonb_build_array(srvname, {ftoptions}) FROM pg_foreign_table JOIN pg_foreign_server s"
        "   ON s.oid = ftserver WHERE ftrelid = o.oid),"
        " (SELECT to_jsonb(q) - 'seqrelid' FROM pg_sequence q WHERE seqrelid = o.oid),"
        " (SELECT jsonb_agg(jsonb_build_array(attname, format_type(atttypid, atttypmod), attnotnull, attidentity,"
        "   attgenerated, attcollation::regcollation, attstorage, attoptions, {attfdwoptions},"
        "   pg_get_expr(adbin, adrelid), {attacl}, col_description(attrelid, attnum)) ORDER BY attname)"
        "   FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        "   WHERE attrelid = o.oid AND attnum > 0 AND NOT attisdropped)",
        "relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND relnamespace <> 'information_schema'::regnamespace",
    ),
    "pg_proc": (
        "'f'",
        "proowner",
        "proacl",
        "prokind, prosecdef, proleakproof, provolatile, proparallel, proisstrict, proretset, procost, prorows, probin,"
        " proconfig, prosrc, pg_get_function_sqlbody(o.oid), pg_get_function_arguments(o.oid),"
        " pg_get_function_result(o.oid), (SELECT lanname FROM pg_language WHERE oid = prolang),"
        " (SELECT to_jsonb(a) - 'aggfnoid' - 'aggtranstype' - 'aggmtranstype' - 'aggsortop'"
        "   FROM pg_aggregate a WHERE aggfnoid = o.oid)",
        "true",
    ),
    "pg_namespace": ("'n'", "nspowner", "nspacl", "nspname", "nspname !~ '^(pg_toast|pg_temp|information_schema$)'"),
    "pg_type": (
        "'T'",
        "typowner",
        "typacl",
        "typtype, typnotnull, typdefault, typcollation::regcollation, format_type(typbasetype, typtypmod),"
        " (SELECT jsonb_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = o.oid),"
        " (SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = o.oid)",
        "typtype IN ('b', 'd', 'e', 'r') AND typelem = 0",
    ),
    "pg_constraint": (
        "",
        "",
        "",
        "pg_get_constraintdef(o.oid), convalidated, condeferrable, condeferred",
        "conparentid = 0",
    ),
    "pg_trigger": ("", "", "", "pg_get_triggerdef(o.oid), tgenabled", "NOT tgisinternal"),
    "pg_rewrite": ("", "", "", "pg_get_ruledef(o.oid), ev_enabled", "rulename <> '_RETURN'"),
    "pg_policy": (
        "",
        "",
        "",
        "polcmd, polpermissive, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid),"
        " (SELECT jsonb_agg(r.rolname ORDER BY r.rolname) FROM pg_roles r WHERE r.oid = ANY(polroles))",
        "true",
    ),
    "pg_event_trigger": ("", "evtowner", "", "evtevent, {evttags}, evtenabled, evtfoid::regproc", "true"),
    "pg_publication": (
        "",
        "pubowner",
        "",
        "to_jsonb(o) - 'oid' - 'pubowner',"
        " (SELECT jsonb_agg(to_jsonb(t) ORDER BY schemaname, tablename) FROM pg_publication_tables t"
        "   WHERE t.pubname = o.pubname)",
        "true",
    ),
    "pg_foreign_data_wrapper": (
        "'F'",
        "fdwowner",
        "fdwacl",
        "{fdwoptions}, fdwhandler::regproc, fdwvalidator::regproc",
        "true",
    ),
    "pg_foreign_server": (
        "'S'",
        "srvowner",
        "srvacl",
        # Of the users' options only the names: a value may be a password.
        "srvtype, srvversion, {srvoptions}, (SELECT jsonb_agg(jsonb_build_array(usename, (SELECT"
        " jsonb_agg(split_part(one, '=', 1) ORDER BY one) FROM unnest(umoptions) AS one)) ORDER BY usename)"
        " FROM pg_user_mappings u WHERE u.srvid = o.oid)",
        "true",
    ),
    "pg_extension": (
        "",
        "CASE WHEN (SELECT NOT rolsuper FROM pg_roles r WHERE r.oid = extowner) THEN extowner END",
        "",
        "(SELECT nspname FROM pg_namespace WHERE oid = extnamespace)",
        "true",
    ),
    "pg_collation": (
        "",
        "collowner",
        "",
        "to_jsonb(o) - 'oid' - 'collowner' - 'collnamespace' - 'collversion'",
        "true",
    ),
    "pg_statistic_ext": ("", "stxowner", "", "pg_get_statisticsobjdef(o.oid)", "true"),
    "pg_language": ("'l'", "lanowner", "lanacl", "lanpltrusted", "true"),
    "pg_cast": ("", "", "", "castfunc::regproc, castcontext, castmethod", "true"),
    "pg_operator": ("", "oprowner", "", "oprcode::regproc, oprrest::regproc, oprcanmerge, oprcanhash", "true"),
    "pg_opclass": ("", "opcowner", "", "opcdefault", "true"),
    "pg_opfamily": ("", "opfowner", "", "true", "true"),
    "pg_conversion": ("", "conowner", "", "conproc::regproc, condefault", "true"),
    "pg_ts_config": ("", "cfgowner", "", "true", "true"),
    "pg_ts_dict": ("", "dictowner", "", "dictinitoption", "true"),
    "pg_transform": ("", "", "", "true", "true"),
    "pg_default_acl": ("", "defaclrole", "", "defaclobjtype, {defaclacl}", "true"),
}
_SORTED = "(SELECT jsonb_agg(one::text ORDER BY one::text) FROM unnest({}) AS one)"
"""A list whose order means nothing, and is that of who has written it."""
# What initdb or an extension has made is theirs; only the rights to it may have been changed, and those of its owner
# go by who restores.
_THEIRS = """(o.oid < 16384 AND o.oid <> 'public'::regnamespace OR EXISTS (SELECT FROM pg_depend
    WHERE classid = '{class}'::regclass AND objid = o.oid AND deptype = 'e'))"""
_GIVEN = """(SELECT jsonb_agg(jsonb_build_array(g.grantee::regrole, privilege_type, is_grantable) ORDER BY 1)
    FROM aclexplode({rights}) g WHERE g.grantee <> {owner})"""
_CHANGED = """{rights} IS DISTINCT FROM (SELECT initprivs FROM pg_init_privs
    WHERE classoid = '{class}'::regclass AND objoid = o.oid AND objsubid = 0)"""
_INDEXES = """
    SELECT 'index ' || indexrelid::regclass, jsonb_build_array(pg_get_indexdef(indexrelid), indisclustered,
        indisreplident, obj_description(indexrelid))::text
    FROM pg_index WHERE indisvalid AND indexrelid >= 16384
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = indrelid AND deptype = 'e')
        AND (SELECT relnamespace <> 'pg_toast'::regnamespace FROM pg_class WHERE oid = indrelid)"""
_LARGE = f"""
    SELECT 'large objects of ' || lomowner::regrole || ' with ' ||
        coalesce({_SORTED.format("lomacl")}::text, 'no rights'), count(*)::text
    FROM pg_largeobject_metadata GROUP BY 1"""
_LABELS = """
    SELECT 'label of ' || provider || ' on ' || objtype || ' ' || objname, label FROM pg_seclabels
    WHERE objtype NOT IN ('database', 'role', 'tablespace')"""


def read(connection: Connection) -> dict[str, str]:
    """Give the digest of each object that the connection's database has, by what the object is called."""
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path TO ''")  # so that each name has its schema
        rows = connection.execute(_query().encode()).fetchall()
    return {row["what"]: hashlib.sha256(row["said"].encode()).hexdigest()[:12] for row in rows}


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[dict[str, str]]:
    """Give a row for each object that is missing, is one too many, or is not as it was."""
    return [
        {"object": what, "is": "missing" if what not in found else "new" if what not in expected else "not as it was"}
        for what in sorted(expected.keys() | found.keys())
        if expected.get(what) != found.get(what)
    ]


def _query() -> str:
    parts = [_part(name, *said) for name, said in _PARTS.items()]
    return " UNION ALL ".join(f"SELECT what, said FROM ({one}) AS part (what, said)" for one in (*parts, *_MORE))


_MORE: tuple[LiteralString, ...] = (_INDEXES, _LARGE, _LABELS)


def _part(name: str, letter: str, owner: str, rights: str, more: str, which: str) -> str:
    theirs = _THEIRS.format(**{"class": name})
    said = [f"obj_description(o.oid, '{name}')", _format(more)]
    own = f"NOT {theirs}"
    if owner:
        said.append(f"({owner})::regrole")
    if rights:
        said.append(_SORTED.format(f'coalesce({rights}, acldefault(({letter})::"char", {owner}))'))
        changed = _CHANGED.format(**{"class": name}, rights=rights)
        own = f"(NOT {theirs} OR {rights} IS NOT NULL AND {changed})"
    described = f"jsonb_build_array({', '.join(said)})"
    if rights:
        described = f"CASE WHEN {theirs} THEN {_GIVEN.format(rights=rights, owner=owner)} ELSE {described} END"
    called = f"(SELECT type || ' ' || identity FROM pg_identify_object('{name}'::regclass, o.oid, 0))"
    return f"SELECT {called}, coalesce(({described})::text, '') FROM {name} o WHERE ({which}) AND {own}"


def _format(more: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: _SORTED.format(match[1]), more)
