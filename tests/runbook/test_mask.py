"""Masking: no secret leaves, in whatever way text takes it out, and ordinary text stays as it is."""

import base64
import html
import json
import re
import reprlib
import time
import traceback
from collections.abc import Callable
from hashlib import sha512
from itertools import pairwise
from textwrap import wrap
from urllib.parse import quote, quote_plus

import pandas
import pytest
from hypothesis import assume, example, given, strategies as st

from opslib.runbook import mask as masking, table
from opslib.runbook.mask import SHORTEST, Mask, Stream
from tests.place import SECRET, Place

secrets = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=SHORTEST, max_size=200)
    .filter(lambda text: len(text.strip()) >= SHORTEST and "masked]" not in text and len(set(text)) > 2)
    .filter(lambda text: not masking._ordinary(text))
)
plain = st.text(max_size=30)


def traced(secret: str) -> str:
    try:
        raise ValueError(f"bad password {secret!r}")
    except ValueError:
        return traceback.format_exc()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "URL": lambda s: quote(s, safe=""),
    "URL, slashes kept": quote,
    "URL, form": quote_plus,
    "URL, lower case": lambda s: re.sub("%..", lambda m: m[0].lower(), quote(s, safe="")),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 of a header": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "base64 at another place": lambda s: base64.b64encode(f"me:{s}@db".encode()).decode(),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(f"x{s}".encode()).decode(),
    "JSON": json.dumps,
    "JSON, not ASCII": lambda s: json.dumps(s, ensure_ascii=False),
    "JSON in JSON": lambda s: json.dumps(json.dumps({"a": s})),
    "repr": repr,
    "ascii": ascii,
    "a traceback": traced,
    "HTML": html.escape,
    "HTML, quotes kept": lambda s: html.escape(s, quote=False),
    "SQL": lambda s: "'" + s.replace("'", "''") + "'",
    "hexadecimal": lambda s: s.encode().hex(),
    "hexadecimal, capitals": lambda s: s.encode().hex().upper(),
    "Markdown": table.escape,
    "JSON of PHP": lambda s: json.dumps(s).replace("/", "\\/"),
    "JSON of Go": lambda s: json.dumps(s, ensure_ascii=False).translate({ord(c): f"\\u{ord(c):04x}" for c in "<>&"}),
}


def known(secret: str) -> Mask:
    mask = Mask()
    mask.add("KEY", secret)
    return mask


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(secret=secrets, before=plain, after=plain)
@example(secret=SECRET, before="", after="")
@example(secret="'\"'\"", before="", after="")
@example(secret="a'b\nc", before="", after="")
@example(secret="%41%42%43", before="", after="")
@example(secret="\\\\n\\", before="", after="")
def test_no_encoding_gets_through(encoding: str, secret: str, before: str, after: str) -> None:
    encoded = ENCODINGS[encoding](secret)
    shown = known(secret).text(f"{before}{encoded}{after}")
    assert "[KEY masked]" in shown
    assume(secret not in "[KEY masked]" and secret not in before + after)
    assert secret not in shown.replace("[KEY masked]", "\0")


@given(secret=secrets, cuts=st.lists(st.integers(0, 300), max_size=12), around=plain)
@example(secret=SECRET, cuts=[3, 7, 8], around="")
def test_a_stream_in_any_pieces_never_lets_it_out(secret: str, cuts: list[int], around: str) -> None:
    assume(secret not in around)
    text = f"{around}{secret}{around}"
    ends = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    stream = Stream(known(secret))
    shown = "".join(stream.feed(text[a:b]) for a, b in pairwise(ends)) + stream.rest()
    assert secret not in shown.replace("[KEY masked]", "\0")
    assert "masked]" in shown


@given(text=st.text(), secret=secrets)
def test_ordinary_text_is_unchanged(text: str, secret: str) -> None:
    mask = known(secret)
    assume(not any(needle in text for needle in mask._needles))
    assert mask.text(text) == text
    stream = Stream(mask)
    shown = "".join([*(stream.feed(piece) for piece in text), stream.rest()])
    assert shown == text or mask.begun(text)  # an end that may be the beginning of a secret is held back


ORDINARY = ["abc", "7", "test", "secret", "Admin", "ROOT", "5432", "environment", "propertypulse"]


@pytest.mark.parametrize("value", ORDINARY)
def test_an_ordinary_word_is_masked_where_it_is_called_a_secret_and_said(value: str) -> None:
    mask = known(value)
    for text in (f"a {value} is {value}ed", f'"status": "{value}"', f"x={value}", f"http://db/{value}@x"):
        assert mask.text(text) == text
    for text in (f"JWT_SECRET={value}", f"KEY: '{value}'", f'{{"password": "{value}"}}', f"PGPASSWORD={value}"):
        assert value not in mask.text(text).replace("[KEY masked]", "")
    assert mask.text(f"postgres://app:{value}@db/x") == "postgres://app:[KEY masked]@db/x"
    assert "KEY" in mask.doubt and value not in mask.doubt.replace("[KEY masked]", "").split()


@pytest.mark.parametrize("value", ["", "qzkwvxjpta", "93847561", "p@55", "aB3d", SECRET])
def test_what_no_ordinary_text_has_is_masked_everywhere(value: str) -> None:
    mask = known(value)
    assert not mask.doubt
    assert not value or mask.text(f"a {value} is") == "a [KEY masked] is"


KEY_BODY = "".join(base64.b64encode(sha512(bytes([n])).digest()).decode()[:64] for n in range(26))
LONG = {
    "PEM": "-----BEGIN PRIVATE KEY-----\n" + "\n".join(wrap(KEY_BODY, 64)) + "\n-----END PRIVATE KEY-----\n",
    "PEM in one line": "-----BEGIN PRIVATE KEY-----\\n"
    + "\\n".join(wrap(KEY_BODY, 64))
    + "\\n-----END PRIVATE KEY-----\\n",
    "Stripe": "sk_live_51Hx" + KEY_BODY[200:295].replace("+", "a").replace("/", "b"),
    "AWS": "wJa/lrXUtn+EMI/K7MDENG/bPx+fiCYEXAMPLEKEY",
    "SendGrid": "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",
    "hexadecimal": sha512(b"1").hexdigest(),
    "a sentence": "correct horse battery staple",
    "JSON": json.dumps(
        {"type": "service_account", "private_key": "-----BEGIN\n" + "\n".join(wrap(KEY_BODY, 64)) + "\n"}
    ),
}
WAYS: dict[str, Callable[[str], str]] = {
    "line ends made real": lambda s: s.replace("\\n", "\n"),
    "line ends escaped": lambda s: s.replace("\n", "\\n"),
    "64 columns": lambda s: "\n".join(wrap(s, 64)),
    "76 columns, indented": lambda s: "key: " + "\n      ".join(s[at : at + 76] for at in range(0, len(s), 76)),
    "20 columns, quoted": lambda s: "\r\n> ".join(s[at : at + 20] for at in range(0, len(s), 20)),
    "strings of a source": lambda s: "\n".join(f'"{s[at : at + 30]}" +' for at in range(0, len(s), 30)),
    "JSON of PHP": lambda s: json.dumps(json.dumps(s).replace("/", "\\/")),
    "JSON of Go": lambda s: json.dumps(s).replace("+", "\\u002b").replace("&", "\\u0026"),
    "octal": lambda s: re.sub(r"[^\w]", lambda one: f"\\{ord(one[0]):03o}", s),
    "URL in a URL": lambda s: quote(quote(s, safe=""), safe=""),
    "base64 at 76 columns": lambda s: base64.encodebytes(s.encode()).decode(),
    "base64 of what it stands in": lambda s: base64.b64encode(f'{{"key": "{s}"}}'.encode()).decode(),
    "hexadecimal in pairs": lambda s: s.encode().hex(" "),
    "HTML with numbers": lambda s: re.sub(r"[^\w]", lambda one: f"&#{ord(one[0])};", s),
    "Markdown": table.escape,
    "a terminal in colours": lambda s: "\x1b[38;5;28m".join(s[at : at + 9] for at in range(0, len(s), 9)),
    "colours in JSON": lambda s: json.dumps("\x1b[0m\x1b[31m".join(s[at : at + 9] for at in range(0, len(s), 9))),
    "lines of HTML": lambda s: "<br/>".join(html.escape(s[at : at + 9]) for at in range(0, len(s), 9)),
}


def left(secret: str, shown: str) -> str:
    """The longest piece of a secret's letters that is still shown, in whatever way it was written."""
    letters = masking._squeezed(shown.replace("[KEY masked]", " ")).decode()
    found = ""
    for form in (secret.encode(), base64.b64encode(secret.encode()), secret.encode().hex().encode()):
        known = masking._squeezed(form.decode()).decode()
        for at in range(len(known)):
            while known[at : at + len(found) + 1] in letters and at + len(found) < len(known):
                found = known[at : at + len(found) + 1]
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", LONG)
def test_however_others_write_a_long_secret_it_is_masked(kind: str, way: str) -> None:
    secret = LONG[kind]
    shown = known(secret).text(f"of old {WAYS[way](secret)} is used")
    assert "[KEY masked]" in shown and shown.startswith("of old ") and shown.endswith(" is used")
    assert len(left(json.loads(secret)["private_key"] if kind == "JSON" else secret, shown)) < 16


@pytest.mark.parametrize("before", ["", "key ", "the value of the key is "])
@pytest.mark.parametrize("kind", ["Stripe", "AWS", "SendGrid", "hexadecimal", "a sentence"])
def test_what_a_table_cuts_is_masked(kind: str, before: str) -> None:
    secret = LONG[kind]
    frame = pandas.DataFrame({"kept": [before + secret], "more": ["x"]})
    for text in (str(frame), frame.to_html(), reprlib.repr(secret), f"{secret[:20]}…", f"…{secret[-20:]}"):
        assert len(left(secret, known(secret).text(text))) < 12, text


def test_what_a_secret_shares_with_others_is_shown() -> None:
    mask = known("postgresql://app:Xk29fF7zLmN8pq@db-1.abc123xyz.ap-southeast-2.rds.amazonaws.com:5432/propertypulse")
    mask.add("STRIPE", "sk_live_51HxYzAbCdEfGhIjK" + KEY_BODY[:80])
    mask.add("ACCOUNT", json.dumps({"token_uri": "https://oauth2.googleapis.com/token", "private_key": LONG["PEM"]}))
    mask.add("DSN", "host=db-9.xyz987abc.rds.amazonaws.com port=5432 user=app password=Xk29fF7zLmN8pq")
    assert mask.text("PGPASSWORD=Xk29fF7zLmN8pq") == "PGPASSWORD=[KEY masked]"
    for text in (
        "db-9.xyz987abc.rds.amazonaws.com",
        "db-1.abc123xyz.ap-southeast-2.rds.amazonaws.com:5432/propertypulse", "acct_1HxYzAbCdEfGhIjK",
        "https://oauth2.googleapis.com/token", "-----BEGIN PRIVATE KEY-----", "postgresql://app:…",
    ):  # fmt: skip
        assert mask.text(text) == text


def test_the_password_in_a_url_is_known_by_itself() -> None:
    mask = known("postgresql://app:p%40ss-word@db.example/app")
    assert mask.text("p%40ss-word and p@ss-word") == "[KEY masked] and [KEY masked]"


def test_each_line_of_a_key_file_is_known() -> None:
    lines = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkqhkiG9w0B", "AQEFAASCBKcwggSjAgEAAoIB"]
    assert known("\n".join(lines)).text(lines[2]) == "[KEY masked]"


def test_a_tree_is_masked_through_and_through() -> None:
    tree = {"a": [SECRET, {SECRET: (SECRET, 3, None, True)}], "b": SECRET.encode()}
    assert SECRET not in str(known(SECRET).tree(tree))
    assert known(SECRET).tree({"a": [1, 2.5, None, True, "x"]}) == {"a": [1, 2.5, None, True, "x"]}


def test_secrets_that_overlap_are_masked_where_they_stand() -> None:
    mask = known("Zk29fQ7zLmN8pqRt55vWx")
    mask.add("KEY", "pq-Rt5-5v")
    mask.add("KEY", "5-5vW-xAb1-2C")
    joined = "Zk29f Q7zLm N8pqRt55vWx Ab12C"
    assert mask.text(f"a {joined} b {joined} c") == "a [KEY masked] b [KEY masked] c"


def test_a_row_of_zeros_costs_no_more() -> None:
    mask = known("0" * 2000 + "aB3" * 9)
    begun = time.process_time()
    mask.text("0" * 500_000 + "x")
    mask.text("0" * 1999 + "x" * 1_000_000)
    assert time.process_time() - begun < 5


def test_sixteen_megabytes_take_seconds_not_minutes() -> None:
    mask = Mask()
    for i in range(12):
        mask.add(f"KEY_{i}", f"{i}{SECRET}")
    begun = time.process_time()
    mask.add("PEM", LONG["PEM in one line"])
    mask.text("an ordinary line of a log, nothing \\n in it…\n" * 400_000)
    assert time.process_time() - begun < 20
    begun = time.process_time()
    stream = Stream(mask)
    for _ in range(20_000):
        stream.feed("an ordinary line of a log, nothing in it\n")
    assert time.process_time() - begun < 20


# In a kernel

LEAKS = [
    "import base64, json, os, subprocess, sys, time\n"
    "secret = open('app/.env', encoding='utf-8').readline().split('=', 1)[1].strip()[1:-1]\nprint(secret)",
    "half = len(secret) // 2",
    "print(secret); print(secret, file=sys.stderr)",
    "for letter in secret:\n    print(letter, end='', flush=True)\nprint()",
    "sys.stdout.write(secret[:half]); sys.stdout.flush(); time.sleep(.3); print(secret[half:], flush=True)",
    "os.write(1, secret.encode()); time.sleep(.3)",
    "subprocess.run([sys.executable, '-X', 'utf8', '-c', 'import sys; print(sys.argv[1])', secret])",
    "secret",
    "{'password': secret, 'url': base64.b64encode(secret.encode())}",
    "from IPython.display import display, HTML, JSON, Markdown\ndisplay(HTML(f'<b>{secret}</b>'), Markdown(secret))",
    "display(JSON({'a': [secret]}))",
    "display({'application/json': json.dumps(secret), 'text/plain': 'x'}, raw=True, metadata={'m': {'n': secret}})",
    "import ipywidgets\nwidget = ipywidgets.Text(value=secret, description='Key')\ndisplay(widget)",
    "widget.value = secret + secret",
    "run.note(secret, [{'value': secret}])",
    "run.check('It is not ' + secret, True, {secret: secret})",
    "def use(password):\n    raise ValueError('bad: ' + password)\nuse(secret)",
]


def forms() -> list[str]:
    raw = SECRET.encode()
    return [
        SECRET,
        quote(SECRET, safe=""),
        json.dumps(SECRET)[1:-1],
        html.escape(SECRET),
        base64.b64encode(raw).decode().rstrip("=")[:-1],
        *(SECRET[at : at + 12] for at in range(0, len(SECRET) - 12, 4)),
    ]


def assert_clean(text: str) -> None:
    for form in forms():
        for written in (form, json.dumps(form)[1:-1], json.dumps(form, ensure_ascii=False)[1:-1]):
            assert written not in text, written


@pytest.mark.parametrize("option", ["--json", "--apply"])
def test_nothing_that_a_kernel_sends_holds_a_secret(place: Place, option: str) -> None:
    before = "print(open('app/.env', encoding='utf-8').read())"  # opslib is not imported by then
    start = "from opslib import start\nrun = start('leak', environment=environment, apply=apply)"
    place.write("leak", before, start, *LEAKS, start=False)
    done = place.runbook("run", "leak", option)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    file = next((place.folder / "records/test").glob("*.ipynb"))
    record = file.read_text(encoding="utf-8")
    code = [cell for cell in json.loads(record)["cells"] if cell["cell_type"] == "code"]
    assert code[-1]["metadata"]["papermill"]["status"] == "failed"
    assert all(cell["execution_count"] for cell in code)
    for text in (record, done.stdout, done.stderr):
        assert_clean(text)
    assert record.count("[JWT_SECRET masked]") > len(LEAKS)


def test_a_secret_as_parameter_is_refused_and_not_repeated(place: Place) -> None:
    place.write("act", "run.finish()")
    done = place.runbook("run", "act", "--reason", f"because of {SECRET}")
    assert done.returncode == 4
    assert "parameter reason holds a secret: name the secret instead" in done.stdout
    for text in (done.stdout, done.stderr, *(f.read_text() for f in (place.folder / "records").rglob("*.*"))):
        assert_clean(text)


def test_an_env_file_that_cannot_be_read_stops_the_run(place: Place) -> None:
    place.write("act", "run.finish()")
    (place.folder / "app/.env").unlink()
    done = place.runbook("run", "act")
    assert done.returncode == 4
    assert "so its secrets could not be masked" in done.stdout


def test_a_run_says_which_secrets_it_cannot_mask(place: Place) -> None:
    place.write("act", "run.note('a test of tests')", "run.finish()")
    (place.folder / "app/.env").write_text("JWT_SECRET=test\n")
    said = place.runbook("run", "act").stdout
    assert "NOT MASKED" in said and "JWT_SECRET (is a short word or number)" in said
    assert "a test of tests" in said
