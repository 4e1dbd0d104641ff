"""Which paths speak the Open Inference Protocol: their errors have a member more, their inferences the limits of predictions."""

PREFIX = "/v2"
ENCODINGS = ("gzip", "deflate")
"""Content-Encoding that an inference may have besides none: what Triton's own client offers."""


def is_oip_path(path: str) -> bool:
    """Whether a path belongs to the protocol, also where there is no such route."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def is_inference_path(path: str) -> bool:
    """Whether a path takes the tensors of an inference."""
    return path.startswith(PREFIX + "/models/") and path.endswith("/infer")
