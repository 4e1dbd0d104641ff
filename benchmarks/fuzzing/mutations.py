"""Ways to spoil a valid document or valid bytes; every choice comes from the ``random.Random`` that is passed in."""

import copy
import json
from random import Random
from typing import Any

HOSTILE_TEXTS = (
    "",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "../../etc/passwd",
    "..\\..",
    "%00",
    "a" * 5000,
    "\u202e\ufeff",
    "'; DROP TABLE jobs; --",
    "{{7*7}}",
    "=cmd()",
    "auto",
    "NaN",
    "null",
    "job_00000000000000000000000000",
    "http://169.254.169.254/",
    "__proto__",
    "𝔘𝔫𝔦",
    "\r\nX-Injected: 1",
)
HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.0, -0.0, 1e-320, 1e308, -1e308, 0.1),
    *([], {}, [[]], [None], [{}], {"": ""}, {"type": "x"}, ["a"] * 300, list(range(64))),
    *HOSTILE_TEXTS,
)
HOSTILE_TOKENS = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"9" * 400, b"9" * 5000, b"0x10", b"01", b".5", b"1."),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xc0\x80"', b'"\xed\xa0\x80"', b"'a'", b"\xef\xbb\xbf", b"\x00"),
    *(b"[" * 200, b'{"a":' * 200, b"[" * 20_000, b'{"a":1,"a":2}', b"//", b"/**/", b",", b"}", b"]", b'"', b"\\"),
)
_NUMBERS = bytes(range(256))


def spoiled_document(document: Any, random: Random) -> Any:
    """The document with one to three places changed, removed, added or wrapped."""
    changed = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        changed = _spoil_one_place(changed, random)
    return changed


def spoiled_json(document: Any, random: Random) -> bytes:
    """The document as JSON text, with a token that no parser should take, or that two parsers take differently."""
    text = json_bytes(document)
    match random.randrange(6):
        case 0:
            return spoiled_bytes(text, random)
        case 1:
            return text.decode("utf-8", "replace").encode(random.choice(("utf-16", "utf-32", "latin-1", "utf-7")), "replace")
        case 2:
            return text * random.choice((2, 3))
        case 3:
            return b"\xef\xbb\xbf" + text
        case _:
            places = [index for index, byte in enumerate(text) if byte in b":[,"] or [0]
            place = random.choice(places) + 1
            end = place + random.choice((0, 0, 1, 5))
            return text[:place] + random.choice(HOSTILE_TOKENS) + text[end:]


def spoiled_bytes(data: bytes, random: Random) -> bytes:
    """The bytes with a few of them flipped, cut, repeated, moved or replaced by tokens."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        place = random.randrange(len(changed) + 1)
        match random.randrange(7):
            case 0 | 1 if place < len(changed):
                changed[place] ^= 1 << random.randrange(8)
            case 2 if place < len(changed):
                changed[place] = random.choice(_NUMBERS)
            case 3:
                del changed[place : place + random.choice((1, 2, 16, 1000))]
            case 4:
                changed[place:place] = random.choice(HOSTILE_TOKENS)[:600]
            case 5:
                changed[place : place + 4] = random.choice((b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"PK\x03\x04"))
            case _:
                start = random.randrange(len(changed) + 1)
                changed[place:place] = changed[start : start + random.choice((1, 8, 64))]
    return bytes(changed)


def json_bytes(document: Any) -> bytes:
    """Compact JSON; half surrogates are escaped, as a careless client would."""
    return json.dumps(document, separators=(",", ":")).encode()


def _spoil_one_place(document: Any, random: Random) -> Any:
    path = random.choice(_places(document))
    if not path:
        return random.choice(HOSTILE_VALUES) if random.random() < 0.3 else document
    parent = document
    for part in path[:-1]:
        parent = parent[part]
    name = path[-1]
    match random.randrange(8):
        case 0:
            del parent[name]
        case 1 if isinstance(parent, dict):
            parent[random.choice(HOSTILE_TEXTS)] = parent[name]
        case 2:
            parent[name] = [parent[name]]
        case 3:
            parent[name] = {str(name): parent[name]}
        case 4:
            parent[name] = str(parent[name])
        case 5:
            for _ in range(random.choice((3, 40))):
                parent[name] = [parent[name]]
        case _:
            parent[name] = copy.deepcopy(random.choice(HOSTILE_VALUES))
    return document


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of the document; of long lists only the first few."""
    found = [path]
    if isinstance(document, dict):
        for name, value in document.items():
            found += _places(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document[:3]):
            found += _places(value, (*path, index))
    return found
