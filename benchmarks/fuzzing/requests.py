"""Requests that are almost right: each is a valid one of some operation with one part of it spoiled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from urllib.parse import quote, urlencode

import numpy as np

from benchmarks.fuzzing.corpus import Corpus, Json, Operation, csv_bytes, npy_bytes, npz_bytes, png_bytes
from benchmarks.fuzzing.mutations import HOSTILE_TEXTS, json_bytes, spoiled_bytes, spoiled_document, spoiled_json

BOUNDARY = "snapcycle-fuzz"
JSON, NPY, OCTETS, PNG, FORM = (
    "application/json",
    "application/x-npy",
    "application/octet-stream",
    "image/png",
    f"multipart/form-data; boundary={BOUNDARY}",
)
CONTENT_TYPES = (
    *(JSON, NPY, OCTETS, PNG, FORM, "image/jpeg", "text/csv", "", ";", "application/json; charset=utf-16", "application/json;charset=\xff"),
    *("APPLICATION/JSON ; charset=UTF-8", "multipart/form-data", 'multipart/form-data; boundary="', "application/xml", "x" * 3000),
)
HOSTILE_HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Accept", ("text/event-stream", "application/jsonl", NPY, "*/*;q=nan", "*/*;q=1e999", ",,,;;;", "image/*", "a" * 4000, "*/*;q=0")),
    ("Range", ("bytes=0-", "bytes=-1", "bytes=9999999999-", "bytes=5-1", "bytes=0-0,2-3", "lines=1-2", "bytes=" + "0-0," * 300)),
    ("If-None-Match", ('"x"', "*", 'W/"', "\xff" * 20)),
    ("Idempotency-Key", ("a", "x" * 300, "\xe9", "../../x", "a\tb", "%00")),
    ("Last-Event-ID", ("0", "-1", "9" * 40, "x", "1-0", "\xb2")),
    ("X-Request-ID", ("a b", "x" * 500, "\xff", '"><script>')),
    ("Content-Encoding", ("gzip", "br", "identity", "gzip, gzip")),
    ("Host", ("example.org", "127.0.0.1:99999", "[::1", "localhost.evil.example", "")),
    ("Origin", ("http://evil.example", "null", "http://127.0.0.1")),
    ("X-Shape", ("1,8,8", "0", "-1", "1" * 30, ",", "9" * 18 + "," + "9" * 18, "\xb2,\xb2", "1,2,3,4,5,6,7,8,9")),
    ("Inference-Header-Content-Length", ("0", "1", "2", "-1", "99", "9" * 30, "1e2", "\xb2", "16, 16", "")),
    ("X-Dtype", ("uint8", "object", "O", "float128", "<f4", "V8", "datetime64")),
    ("Authorization", ("Bearer sk_aaaaaaaa_bbbb", "Basic Og==", "Bearer", "Bearer " + "x" * 9000, "\xff")),
    ("Expect", ("100-continue", "x")),
    ("Prefer", ("wait=30", "wait=-1")),
    ("Transfer-Encoding", ("gzip", "identity")),
    ("Content-Type", CONTENT_TYPES),
)
QUERY_VALUES = (*HOSTILE_TEXTS, "-1", "0", "1", "true", "99999999999999999999999", "1e5", "NaN", "desc", "1.5", "Infinity", "ⅷ", "²")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get")
PREDICT = "/v1/ensembles/{ensemble_id}/predict"
INFER = "/infer"
"""End of the paths that take the Open Inference Protocol's tensors."""


@dataclass(frozen=True)
class Draft:
    """A request before it becomes bytes.

    Attributes:
        operation: The row of the table that it counts for.
        mutation: What is wrong with it.
        raw: All its bytes; it is sent on a connection of its own, which ends with them.
    """

    operation: str
    mutation: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    raw: bytes | None = None

    def encode(self) -> bytes:
        """The request as it is sent."""
        if self.raw is not None:
            return self.raw
        names = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        if "host" not in names:
            lines.append("Host: 127.0.0.1")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if (self.body or self.method in ("POST", "PUT", "PATCH")) and "transfer-encoding" not in names:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


class Generator:
    """Draws requests, the same ones for the same seed and the same answers."""

    def __init__(self, corpus: Corpus, seed: int, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self._corpus = corpus
        self._random = Random(seed)
        self._headers = headers
        self._mutations: tuple[tuple[Callable[[Draft, Operation], Draft], int], ...] = (
            (self._as_it_is, 6),
            (self._document, 30),
            (self._body_bytes, 20),
            (self._query, 14),
            (self._path, 8),
            (self._header, 12),
            (self._method, 3),
            (self._chunked, 3),
            (self._raw, 4),
        )

    def __iter__(self) -> Iterator[Draft]:
        return self

    def __next__(self) -> Draft:
        """The next request; now and then the deletion of something that earlier ones have made."""
        if (surplus := self._corpus.surplus()) is not None:
            return self._deletion(*surplus)
        random = self._random
        operation = random.choice(self._weighted)
        draft = self._valid(operation)
        functions, weights = zip(*self._mutations, strict=True)
        mutate: Callable[[Draft, Operation], Draft] = random.choices(functions, weights)[0]
        return mutate(draft, operation)

    @property
    def _weighted(self) -> tuple[Operation, ...]:
        """Every operation once, and those with a body four times more."""
        operations = self._corpus.operations
        return (*operations, *(operation for operation in operations if operation.body_types for _ in range(4)))

    def _deletion(self, parameter: str, object_id: str) -> Draft:
        path = f"/v1/{'jobs' if parameter == 'job_id' else 'datasets'}/{object_id}"
        if parameter == "job_id" and self._random.random() < 0.8:  # only ended jobs can be deleted; the rest are deleted in vain
            headers = (*self._headers, ("Content-Type", JSON))
            return Draft("POST /v1/jobs/{job_id}/cancel", "valid", "POST", f"{path}/cancel", headers, b"{}")
        return Draft(f"DELETE /v1/{path.split('/')[2]}/{{{parameter}}}", "valid", "DELETE", path, self._headers)

    def _valid(self, operation: Operation) -> Draft:
        """A request that is right, as far as the OpenAPI document tells."""
        random = self._random
        target = operation.template
        for parameter in _parameters(operation.template):
            # What stays is never deleted, or there would soon be nothing left to ask for.
            known = self._corpus.made.get(parameter, ()) if operation.method == "DELETE" else self._corpus.ids(parameter)
            target = target.replace(f"{{{parameter}}}", random.choice(known) if known else "x")
        if operation.queries and random.random() < 0.3:
            target += "?" + urlencode({name: random.choice(("1", "true", "full")) for name in operation.queries[:2]})
        draft = Draft(operation.name, "valid", operation.method, target, self._headers)
        return self._with_body(draft, operation)

    def _with_body(self, draft: Draft, operation: Operation) -> Draft:
        if not operation.body_types:
            return draft
        body_type = self._random.choice(operation.body_types)
        if body_type == "multipart/form-data":
            return _typed(draft, FORM, self._form())
        if body_type == "application/json":
            return _typed(draft, JSON, json_bytes(self._example(operation)))
        shape = (self._random.choice((1, 1, 3)), *self._corpus.input_shape)
        if body_type == NPY:
            return _typed(draft, NPY, npy_bytes(np.ones(shape, np.float32)))
        if body_type == PNG:
            return _typed(draft, PNG, png_bytes(*self._corpus.input_shape[1::-1]))
        if operation.template.endswith(INFER):
            return self._with_tensor(draft, shape)
        draft = _typed(draft, OCTETS, bytes(int(np.prod(shape))))
        return replace(draft, headers=(*draft.headers, ("X-Shape", ",".join(map(str, shape))), ("X-Dtype", "uint8")))

    def _with_tensor(self, draft: Draft, shape: tuple[int, ...]) -> Draft:
        """JSON with the bytes of its tensor behind it; the answer in bytes as well, every other time."""
        content = bytes(int(np.prod(shape)))
        tensor = {"name": "input", "shape": list(shape), "datatype": "UINT8", "parameters": {"binary_data_size": len(content)}}
        head = json_bytes({"inputs": [tensor], "parameters": {"binary_data_output": self._random.random() < 0.5}})
        draft = _typed(draft, OCTETS, head + content)
        return replace(draft, headers=(*draft.headers, ("Inference-Header-Content-Length", str(len(head)))))

    def _example(self, operation: Operation) -> Json:
        if operation.template == PREDICT:
            rows = self._corpus.table_rows
            if rows and self._random.random() < 0.5:
                return {"instances": [self._random.choice(rows)]}
            return {"inputs": np.zeros((1, *self._corpus.input_shape)).tolist()}
        if operation.template.endswith(INFER):
            zeros = np.zeros((1, *self._corpus.input_shape))
            tensor = {"name": "input", "shape": list(zeros.shape), "datatype": "FP32", "data": zeros.tolist()}
            return {"id": "1", "inputs": [tensor], "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}]}
        example: Json = self._random.choice(operation.examples)
        return example

    def _form(self) -> bytes:
        """A form with a small dataset, whose file is spoiled every other time."""
        random = self._random
        is_table = random.random() < 0.5
        data = _table() if is_table else _arrays()
        if random.random() < 0.5:
            data = spoiled_bytes(data, random)
        fields = {"name": "fuzz", "task": "classification", "metadata": '{"a":"b"}'} | ({"target": "species"} if is_table else {})
        if random.random() < 0.3:
            fields[random.choice((*fields, "x"))] = random.choice(HOSTILE_TEXTS)
        parts = [f'Content-Disposition: form-data; name="{name}"\r\n\r\n{text}'.encode("utf-8", "replace") for name, text in fields.items()]
        name = random.choice(("data.csv" if is_table else "data.npz",) * 9 + HOSTILE_TEXTS)
        parts.append(f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode("utf-8", "replace") + data)
        mark = f"--{BOUNDARY}\r\n".encode()
        return b"".join(mark + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()

    def _as_it_is(self, draft: Draft, _: Operation) -> Draft:
        return draft

    def _document(self, draft: Draft, operation: Operation) -> Draft:
        """Another value, name or structure somewhere in a JSON body."""
        if "application/json" not in operation.body_types:
            return self._query(draft, operation)
        body = json_bytes(spoiled_document(self._example(operation), self._random))
        return replace(_typed(draft, JSON, body), mutation="document")

    def _body_bytes(self, draft: Draft, operation: Operation) -> Draft:
        """Bytes of the body changed, or text that is no JSON."""
        if not operation.body_types:
            return replace(draft, body=self._random.randbytes(self._random.randrange(40)), mutation="body where none belongs")
        if ("Content-Type", JSON) in draft.headers and self._random.random() < 0.7:
            return replace(draft, body=spoiled_json(self._example(operation), self._random), mutation="json text")
        return replace(draft, body=spoiled_bytes(draft.body, self._random), mutation="body bytes")

    def _query(self, draft: Draft, operation: Operation) -> Draft:
        random = self._random
        names = (*operation.queries, "limit", "x", "", "dry_run")
        pairs = [(random.choice(names), random.choice(QUERY_VALUES)) for _ in range(random.choice((1, 1, 2, 5)))]
        query = urlencode(pairs, errors="surrogatepass")
        if random.random() < 0.2:
            query = "".join(chr(random.randrange(33, 127)) for _ in range(random.choice((5, 60)))).replace("#", "")
        return replace(draft, target=f"{draft.target.partition('?')[0]}?{query}", mutation="query")

    def _path(self, draft: Draft, _: Operation) -> Draft:
        """An id that is none, segments too many or too few, encodings of all kinds."""
        random = self._random
        segments = draft.target.partition("?")[0].split("/")[1:]
        place = random.randrange(len(segments))
        match random.randrange(5):
            case 0:
                segments[place] = quote(random.choice(HOSTILE_TEXTS), safe="", errors="surrogatepass")
            case 1:
                segments[place] = "".join(f"%{random.randrange(256):02x}" for _ in range(random.choice((1, 8, 40))))
            case 2:
                segments.insert(place, random.choice(("..", ".", "", "%2e%2e", "%2f", "x" * 900)))
            case 3:
                del segments[place]
            case _:
                text = list(segments[place] or "x")
                text[random.randrange(len(text))] = random.choice("0Zz_-.%2F")
                segments[place] = "".join(text)
        return replace(draft, target="/" + "/".join(segments), mutation="path")

    def _header(self, draft: Draft, _: Operation) -> Draft:
        random = self._random
        chosen = dict(random.sample(HOSTILE_HEADERS, random.choice((1, 1, 2, 3))))
        headers = tuple((name, value) for name, value in draft.headers if name not in chosen)
        hostile = tuple((name, random.choice(values)) for name, values in chosen.items())
        return replace(draft, headers=(*headers, *hostile), mutation="header")

    def _method(self, draft: Draft, _: Operation) -> Draft:
        method = self._random.choice(METHODS)
        if method == "DELETE":  # of what stays
            method = "PUT"
        return replace(draft, method=method, mutation="method")

    def _chunked(self, draft: Draft, _: Operation) -> Draft:
        """The body in chunks, of which some may be spoiled."""
        random, body = self._random, draft.body
        size = random.choice((1, 7, 4096))
        pieces = [body[start : start + size] for start in range(0, min(len(body), 40 * size), size)]
        chunked = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"
        draft = replace(draft, headers=(*draft.headers, ("Transfer-Encoding", "chunked")), body=chunked, mutation="chunks")
        return draft if random.random() < 0.5 else replace(draft, raw=spoiled_bytes(draft.encode(), random))

    def _raw(self, draft: Draft, _: Operation) -> Draft:
        """Bytes changed anywhere, the request line and headers included."""
        return replace(draft, raw=spoiled_bytes(draft.encode(), self._random), mutation="raw bytes")


def _typed(draft: Draft, content_type: str, body: bytes) -> Draft:
    headers = tuple(
        (name, value)
        for name, value in draft.headers
        if name not in ("Content-Type", "X-Shape", "X-Dtype", "Inference-Header-Content-Length")
    )
    return replace(draft, headers=(*headers, ("Content-Type", content_type)), body=body)


def _parameters(template: str) -> list[str]:
    return [part[1:].partition("}")[0] for part in template.split("/") if part.startswith("{")]


@cache
def _table() -> bytes:
    return csv_bytes()


@cache
def _arrays() -> bytes:
    return npz_bytes()
