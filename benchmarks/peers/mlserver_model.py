"""The five members behind MLServer: the Open Inference Protocol in JSON, or bytes as its base64 content type."""

import numpy as np
from mlserver import MLModel  # type: ignore[import-not-found]  # only in the peer's own environment
from mlserver.codecs import Base64Codec, NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]

from benchmarks.peers.served_model import FiveMembers, from_base64


class Five(MLModel):  # type: ignore[misc]  # without types
    """A custom runtime as its documentation writes one."""

    async def load(self) -> bool:
        """Reads the members."""
        self.five = FiveMembers()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Mean probabilities of the rows."""
        first = payload.inputs[0]
        if first.datatype == "BYTES":
            images = np.stack([np.frombuffer(image, np.uint8).reshape(28, 28) for image in Base64Codec.decode_input(first)])
        else:
            images = NumpyCodec.decode_input(first)
        output = NumpyCodec.encode_output("probabilities", self.five(images))
        return InferenceResponse(model_name=self.name, outputs=[output])


__all__ = ["Five", "from_base64"]
