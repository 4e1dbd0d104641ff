"""The five members behind BentoML with adaptive batching: JSON lists as an array, or bytes as base64."""

from typing import Any

import bentoml  # type: ignore[import-not-found]  # only in the peer's own environment
import numpy as np

from benchmarks.peers.served_model import FiveMembers, from_base64


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Five:
    """Both ways of sending an image."""

    def __init__(self) -> None:
        self.five = FiveMembers()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=100)  # type: ignore[untyped-decorator]  # without types
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Mean probabilities of the rows."""
        return self.five(inputs)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=100)  # type: ignore[untyped-decorator]  # without types
    def predict_bytes(self, images: list[str]) -> list[Any]:
        """Mean probabilities of images in base64."""
        return self.five(np.stack([from_base64(image) for image in images])).tolist()  # type: ignore[no-any-return]

    @bentoml.api  # type: ignore[untyped-decorator]  # without types
    def predict_one(self, inputs: np.ndarray) -> np.ndarray:
        """The same without batching."""
        return self.five(inputs)
