"""A refusal of the service in the words of the command line: options in place of JSON pointers, commands in place of requests."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.client_core import ApiError, Json

FIELDS_WITH_OPTIONS = (
    *("architecture", "cycles", "epochs_per_cycle", "epochs", "minutes", "max_lr", "min_lr", "batch_size", "seed", "name", "landscape"),
    *("sweep", "start_lr", "end_lr", "num_rates", "repeats"),
    *("seeds", "arms", "restart_lr", "max_rows", "num_lambdas", "target", "task", "status", "kind", "limit", "version", "against"),
    *("priority", "max_seconds"),
)
"""Fields and parameters that an option of the same name sets."""

PARTS = ("schedule", "model", "budget", "landscape")
"""Parts of a request whose fields have options of their own."""

OTHER_NAMES = {"#/schedule/type": "--schedule", "#/source/name": "DATA", "#/dataset_id": "DATA", "#/job_id": "JOB"}

ALSO = {"--max-lr": ", auto or a range test's id", "--cycles": " or auto"}
"""What an option takes beside a number."""

WORDS = (
    (
        r'the result of (job_\w+) has no landscape: .* or train with "landscape": true',
        r"not measured: snapcycle evaluate \1, then the figures of that job; or train --landscape",
    ),
    (r"the result of job_\w+ has no learning_rate: ", ""),
    (r'"max_lr": "auto" measures it', "train --max-lr auto measures it"),
    (r"leave out against", "leave out --against"),
    (r"GET /v1/jobs/\{id\}/snapshots", "snapcycle snapshots JOB"),
    (r"GET /v1/jobs\?kind=(\w+)", r"snapcycle jobs --kind \1"),
    (r"GET /v1/jobs\b", "snapcycle jobs"),
    (r"GET /v1/datasets lists them; POST makes one", "snapcycle datasets list lists them; snapcycle datasets upload makes one"),
    (r"GET /v1/datasets\b", "snapcycle datasets list"),
    (r'\{"from_job": "job_…"\}', "job_…"),
    (r'"(auto|bf16|fp32)"', r"\1"),
    (r"\[(\d+(?:, \d+)+)\]", lambda match: match[1].replace(", ", ",")),
    (r" \(\d{4}\.\d{5}[^)]*\)", ""),  # papers: what they used is told by the documentation
    (r"\bbudget\.minutes\b|\bbudget(?= fixes)|(?<=or )budget(?= out)", "--minutes"),
    (r"\b(steps_per_rate|probe_steps|max_pairs|max_iterations)\b", r"\1 (in --config)"),
    (r"must be a valid integer", "must be a whole number"),
    (r"must be a valid number", "must be a number"),
    (r"(?<![\w-])(\w+_\w+)(?![\w])", lambda match: option_of(match[1]) or match[1]),
)
"""What reads otherwise at the command line, in this order."""


def refusal_text(error: "ApiError") -> str:
    """What a command prints of a refusal."""
    errors: list[Json] = error.problem.get("errors") or []
    detail = error.problem.get("detail") or error.problem.get("title") or f"HTTP status {error.status}"
    entries = [_entry(each) for each in errors]
    if len(errors) == 1 and (errors[0].get("detail") == detail or error.code == "validation_error"):
        return "\n  ".join(entries[0])
    if error.code == "validation_error" and errors:
        detail = f"{len(errors)} options are wrong"
    lines = [in_words(detail), *([f"  hint: {in_words(error.problem['hint'])}"] if error.problem.get("hint") else [])]
    return "\n".join([*lines, *("  " + "\n    ".join(entry) for entry in entries)])


def in_words(text: str) -> str:
    """The text with options and commands where it names fields and requests."""
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text)
    return text


def option_of(field: str) -> str | None:
    """The option that sets a field; None where only a config file does."""
    return "--" + field.replace("_", "-") if field in FIELDS_WITH_OPTIONS else None


def place_of(pointer: str) -> str:
    """The option or argument that a JSON pointer leads to, or the field of the config file, or nothing for the whole request."""
    if pointer in OTHER_NAMES:
        return OTHER_NAMES[pointer]
    names = [part for part in pointer.removeprefix("#").split("/") if part and not part.isdecimal()]
    if names[:2] == ["model", "params"]:
        return " ".join(["--param", *names[2:]])
    within = names[1:] if names[1:] and names[0] in PARTS else names
    return (option_of(within[0]) if within else None) or ".".join(names)


def _entry(error: "Json") -> list[str]:
    """One wrong place, with what helps in lines of their own."""
    parameter = error.get("parameter")
    pointer = error.get("pointer") or "#"
    place = (option_of(parameter) or parameter) if parameter else place_of(pointer)
    detail = in_words(error.get("detail", ""))
    if pointer == "#/source/name":
        wanted, _, given = detail.removeprefix("must be one of ").rpartition(", got ")
        detail = f"{given} is neither a file, nor a dataset's id (ds_...), nor one of {wanted}"
    if place in ALSO:
        detail = re.sub(r"^must be a (whole number|number)", rf"must be a \1{ALSO[place]}", detail)
    lines = [f"{place}: {detail}" if place and not detail.startswith((place, "target ")) else detail]
    hint = error.get("hint", "")
    if hint and hint.removeprefix("one of: ") not in error.get("detail", ""):
        lines.append(f"hint: {in_words(hint)}")
    if error.get("did_you_mean"):
        lines.append(f"did you mean {' or '.join(error['did_you_mean'])}?")
    return lines
