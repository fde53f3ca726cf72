"""JavaScript read as text: what a call is given, what an object has, what a constant is, as far as that is certain."""

import math
import re

_TOKEN = re.compile(
    r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|//[^\n]*|/\*.*?\*/|[()\[\]{},]""", re.DOTALL
)
_NUMBER = re.compile(r"[\d_]+(?:\s*\*\s*[\d_]+)*")
_TEXT = re.compile(r"""(["'`])([^"'`$\\]*)\1""")
_FIELD = re.compile(r"""["']?(\w+)["']?\s*(?::\s*(.*))?""", re.DOTALL)


def enclosed(text: str, at: int) -> str:
    """Give what stands between the bracket there and the one that closes it; all the rest if none does."""
    depth = 0
    for token in _TOKEN.finditer(text, at):
        depth += (token[0] in ("(", "[", "{")) - (token[0] in (")", "]", "}"))
        if not depth and token[0] in (")", "]", "}"):
            return text[at + 1 : token.start()]
    return text[at + 1 :]


def parts(text: str) -> list[str]:
    """Give what commas divide that stand in no bracket: the arguments of a call, the elements of an array."""
    depth, begin, found = 0, 0, list[str]()
    for token in _TOKEN.finditer(text):
        depth += (token[0] in ("(", "[", "{")) - (token[0] in (")", "]", "}"))
        if token[0] == "," and not depth:
            found.append(text[begin : token.start()].strip())
            begin = token.end()
    return [part for part in (*found, text[begin:].strip()) if part]


def fields(text: str) -> dict[str, str]:
    """Give the fields of an object with their expressions; one inside another after a point."""
    found: dict[str, str] = {}
    for part in parts(enclosed(text, 0)) if text.startswith("{") else ():
        if one := _FIELD.fullmatch(part):
            value = (one[2] or one[1]).strip()
            inside = {f"{one[1]}.{name}": of for name, of in fields(value).items()} if value.endswith("}") else {}
            found |= inside or {one[1]: value}
    return found


def constant(text: str, name: str) -> str:
    """Give the expression that a name stands for, if the text says it once; else nothing."""
    said = {found.end() for found in re.finditer(rf"\b(?:const|let|var)\s+{re.escape(name)}\s*=\s*", text)}
    if len(said) != 1:
        return ""
    begin = said.pop()
    if text[begin : begin + 1] in ("{", "["):
        return text[begin] + enclosed(text, begin) + {"{": "}", "[": "]"}[text[begin]]
    return re.split(r"[;\n]", text[begin:], maxsplit=1)[0].strip()


def number(text: str, expression: str) -> int | None:
    """Give the number that an expression is: itself, a product, or a constant of the text that is one."""
    expression = expression.strip()
    if re.fullmatch(r"[A-Za-z_$][\w$]*", expression):
        expression = constant(text, expression).partition("//")[0].strip()
    if not _NUMBER.fullmatch(expression):
        return None
    return math.prod(int(one.replace("_", "")) for one in expression.split("*"))


def texts(expression: str) -> list[str]:
    """Give the texts of an array, or the names that an object has; nothing where another thing is among them."""
    if expression.startswith("{"):
        return list(dict.fromkeys(_named(part) for part in parts(enclosed(expression, 0))))
    found = [_TEXT.fullmatch(part) for part in parts(enclosed(expression, 0))] if expression.startswith("[") else []
    return [one[2] for one in found if one] if all(found) else []


def _named(part: str) -> str:
    name = part.partition(":")[0].strip()
    return name.strip("\"'")
