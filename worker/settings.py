"""Every setting of the processes, read once from the environment (``SNAPCYCLE_*``) at their start.

Code below the process entry points takes the values it needs, not this object.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker import failpoints

PREFIX = "SNAPCYCLE_"
MAY_HOLD_SECRETS = frozenset({"redis_url", "artifacts", "key_pepper"})
"""Settings whose values are never repeated in a message: a password may be in them."""
NO_REDIS = "no Redis server is configured: set SNAPCYCLE_REDIS_URL, or use `snapcycle up`, which starts its own"
MIB = 2**20
GIB = 2**30


def default_data_dir() -> Path:
    """The user's data directory of this program (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "snapcycle"


def _device(text: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", text) is None:
        raise PydanticCustomError("device", "must be auto, cpu, cuda, or cuda: and the number of a GPU, such as cuda:0")
    return text


def _redis_url(text: str) -> str:
    if not text.startswith(("redis://", "rediss://", "unix://")):
        raise PydanticCustomError("redis_url", "must begin with redis://, rediss:// or unix://, such as redis://localhost:6379/0")
    try:
        _ = urlsplit(text).port
    except ValueError:  # redis-py's own message would repeat a part of the password
        raise PydanticCustomError(
            "redis_url", "must be a URL whose port is a number from 0 to 65535; write / # ? @ in a password as %2F %23 %3F %40"
        ) from None
    return text


def _artifacts(text: str) -> str:
    if "://" in text and "@" in text and urlsplit(text).password is not None:  # errors of the store repeat its URL
        raise PydanticCustomError(
            "artifacts", "must hold no password: give the store's credentials in variables of their own, such as AWS_*"
        )
    return text


def _failpoints(text: str) -> str:
    try:
        return failpoints.check(text)
    except ValueError as error:
        raise PydanticCustomError("failpoints", "{reason}", {"reason": str(error)}) from error


class Settings(BaseSettings):
    """Settings of the API, the workers and the embedded server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True)

    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = Field(
        None,
        description="Redis or Valkey server: redis://, rediss:// or unix://. Empty: `snapcycle up` starts its own.",
    )
    artifacts: Annotated[str, AfterValidator(_artifacts)] | None = Field(
        None, description="Artifact store: a directory or s3://bucket/prefix. Empty: DATA_DIR/artifacts."
    )
    data_dir: Path = Field(
        default_factory=default_data_dir, description="Where this machine keeps its data; ~/.local/share/snapcycle by default."
    )
    scratch_dir: Path | None = Field(
        None, description="Where trainers stage files before they are committed. Empty: DATA_DIR/scratch. Needs room for two checkpoints."
    )
    fashion_mnist_dir: Path | None = Field(
        None, description="Directory with Fashion-MNIST's four IDX files. Empty: /usr/share/datasets/fashion-mnist."
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address the API listens on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port the API listens on; 0 takes a free one.")
    api_processes: int = Field(
        1, ge=1, le=64, description="API processes of `snapcycle up` and `snapcycle api`; they answer on one port and share the cores."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level that is logged.")

    auth: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether requests need an API key. auto: beyond this machine always, on loopback as soon as a key was ever made.",
    )
    key_pepper: SecretStr | None = Field(
        None, description="Secret that API keys are hashed with, 16 characters or more. Empty: DATA_DIR/key_pepper, made once."
    )
    rate_limit: float = Field(
        100.0, gt=0, le=10**6, description="Requests per second that one API key may send for long, in each API process."
    )
    rate_burst: int = Field(200, ge=1, le=10**6, description="Requests that one API key may send at once after a pause.")
    max_connections: int = Field(4096, ge=16, le=10**6, description="Most open connections of one API process.")
    head_seconds: float = Field(10.0, ge=0.1, le=600, description="Longest time for a request's line and headers, in seconds.")
    body_stall_seconds: float = Field(
        20.0, ge=0.1, le=600, description="Time in which a request's body must bring MIN_BODY_BYTES more, in seconds."
    )
    min_body_bytes: int = Field(
        4096, ge=1, le=GIB, description="What a body that is being waited for must bring in BODY_STALL_SECONDS, in bytes."
    )
    max_queued_jobs: int = Field(20_000, ge=1, le=10**9, description="Most jobs of one tenant that wait at a time.")
    max_tenant_dataset_bytes: int = Field(100 * GIB, ge=1024, le=2**60, description="Most bytes of stored datasets of one tenant.")
    max_model_parameters: int = Field(100_000_000, ge=1, le=10**9, description="Most parameters of a network that a job may train.")
    max_training_bytes: int = Field(
        64 * GIB, ge=2**20, le=2**50, description="Most memory that training a network may take by its estimate, in bytes."
    )

    max_upload_bytes: int = Field(GIB, ge=1024, le=2**44, description="Largest dataset upload, in bytes.")
    max_json_bytes: int = Field(MIB, ge=1024, le=GIB, description="Largest JSON request body outside predictions, in bytes.")
    max_predict_bytes: int = Field(64 * MIB, ge=1024, le=2**40, description="Largest body of a prediction, in bytes.")
    max_dataset_bytes: int | None = Field(
        None,
        ge=1024,
        le=2**44,
        description="Largest arrays or encoded table that an upload may unpack to, in bytes. Empty: MAX_UPLOAD_BYTES.",
    )
    max_predict_rows: int = Field(100_000, ge=1, le=10**8, description="Most rows in one prediction.")
    max_predict_values: int = Field(
        10_000_000, ge=1000, le=10**10, description="Most numbers in one prediction: rows x classes, and x members with members=true."
    )

    device: Annotated[str, AfterValidator(_device)] = Field("auto", description="Where a worker trains: auto, cpu, cuda or cuda:0.")
    trainer_memory_bytes: int | None = Field(
        None,
        ge=64 * MIB,
        le=2**50,
        description="Most memory that a training process may take on the CPU beyond its libraries, in bytes. Empty: the machine's.",
    )
    trainer_file_bytes: int = Field(64 * GIB, ge=MIB, le=2**50, description="Largest file that a training process may write, in bytes.")
    trainer_user_id: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="User that training processes run as, where the worker is root; must be able to read ARTIFACTS. Empty: the worker's.",
    )
    lease_seconds: float = Field(30.0, ge=1, le=3600, description="How long a silent worker keeps its job, in seconds.")
    beat_seconds: float = Field(5.0, ge=0.1, le=600, description="How often a worker renews its lease, in seconds.")
    checkpoint_seconds: float = Field(30.0, ge=0.1, le=86_400, description="Longest training time between two checkpoints, in seconds.")
    stall_seconds: float = Field(
        600.0, ge=1, le=86_400, description="How long a trainer may say nothing before it counts as crashed, in seconds; a step is shorter."
    )
    max_job_seconds: float | None = Field(
        None, ge=1, le=10**9, description="Longest running time of a job in seconds, and the most that max_seconds may say. Empty: any."
    )
    max_crashes: int = Field(3, ge=1, le=100, description="Crashes without progress after which a job fails.")
    drain_seconds: float = Field(
        12.0,
        ge=1,
        le=3600,
        description="Time a trainer gets for its last checkpoint when its worker stops or its job pauses, in seconds; the worker then "
        "needs a moment to give the job back.",
    )
    failpoints: Annotated[str, AfterValidator(_failpoints)] | None = Field(
        None, description="For tests only: where the processes fail on purpose (worker/failpoints.py). Empty: nowhere."
    )

    @model_validator(mode="after")
    def _lease_outlives_a_lost_beat(self) -> Self:
        if self.lease_seconds < 2 * self.beat_seconds:
            raise ValueError(
                f"lease_seconds must be at least twice beat_seconds ({self.beat_seconds:g}), got {self.lease_seconds:g}: "
                "else one late beat loses the job; raise lease_seconds or lower beat_seconds"
            )
        return self

    @property
    def artifacts_url(self) -> str:
        """The artifact store in use: a directory or an s3:// URL."""
        return self.artifacts or str(self.data_dir / "artifacts")

    @property
    def dataset_bytes(self) -> int:
        """The limit in use for what an upload unpacks to."""
        return self.max_dataset_bytes or self.max_upload_bytes

    @property
    def staging_dir(self) -> Path:
        """The scratch directory in use."""
        return self.scratch_dir or self.data_dir / "scratch"


def unknown_settings(environ: Mapping[str, str]) -> list[str]:
    """One sentence for each ``SNAPCYCLE_*`` variable that no setting reads, with the likeliest name that was meant."""
    known = [name.upper() for name in Settings.model_fields]
    sentences = []
    for name in sorted(environ):
        word = name.upper().removeprefix(PREFIX)
        if name.upper().startswith(PREFIX) and word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            remedy = f"did you mean {PREFIX}{near[0]}?" if near else f"known are {', '.join(PREFIX + word for word in known)}"
            sentences.append(f"{name} is not a setting and has no effect: {remedy}")
    return sentences


def required_redis_url(settings: Settings) -> str:
    """The configured server.

    Raises:
        ValueError: None is configured.
    """
    if settings.redis_url is None:
        raise ValueError(NO_REDIS)
    return settings.redis_url


def broker_url(settings: Settings) -> str:
    """The server in Celery's notation: ``unix:///path?db=0`` is ``redis+socket:///path?virtual_host=0`` there."""
    url = required_redis_url(settings)
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    query = urlencode([("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(parts.query)])
    return f"redis+socket://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")
