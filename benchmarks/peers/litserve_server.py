"""The five members behind LitServe: JSON lists, or bytes as base64, since its requests are JSON or forms."""

import argparse
from typing import Any

import litserve  # type: ignore[import-not-found]  # only in the peer's own environment
import numpy as np

from benchmarks.peers.served_model import FiveMembers, from_base64


class Api(litserve.LitAPI):  # type: ignore[misc]  # without types
    """Decode, stack, predict, split, encode: the steps of its tutorial for batching."""

    def setup(self, device: str) -> None:
        """Reads the members."""
        del device
        self.five = FiveMembers()

    def decode_request(self, request: dict[str, Any]) -> Any:
        """One image."""
        if "image" in request:
            return from_base64(request["image"])
        return np.array(request["input"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Images as one array."""
        return np.stack([np.asarray(each, np.float32) for each in inputs])

    def predict(self, batch: Any) -> Any:
        """Mean probabilities; where LitServe does not batch, of one image."""
        return self.five(batch) if batch.ndim == 3 else self.five(batch[None])[0]

    def unbatch(self, output: Any) -> list[Any]:
        """One answer an image."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The answer."""
        return {"probabilities": output.tolist()}


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch-timeout", type=float, required=True)
    parser.add_argument("--max-batch-size", type=int, required=True)
    parser.add_argument("--fast-queue", action="store_true")
    arguments = parser.parse_args()
    api = Api(max_batch_size=arguments.max_batch_size, batch_timeout=arguments.batch_timeout)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=arguments.fast_queue)
    server.run(host="127.0.0.1", port=arguments.port, num_api_servers=1, log_level="error", generate_client_file=False, access_log=False)


if __name__ == "__main__":
    main()
