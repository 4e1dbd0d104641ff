"""The five members behind FastAPI as its tutorial would have it: a pydantic body, and raw bytes by the request."""

import argparse
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel

from benchmarks.peers.served_model import FiveMembers

app = FastAPI()
five = FiveMembers()


class Rows(BaseModel):
    """The body."""

    inputs: list[list[list[float]]]


@app.post("/predict")
def predict(rows: Rows) -> dict[str, Any]:
    """Mean probabilities, computed in the thread pool."""
    return {"probabilities": five(np.array(rows.inputs, np.float32)).tolist()}


@app.post("/predict_async")
async def predict_async(rows: Rows) -> dict[str, Any]:
    """The same in the event loop."""
    return {"probabilities": five(np.array(rows.inputs, np.float32)).tolist()}


@app.post("/predict_bytes")
async def predict_bytes(request: Request) -> dict[str, Any]:
    """Mean probabilities of one image of bytes."""
    image = np.frombuffer(await request.body(), np.uint8).reshape(1, 28, 28)
    return {"probabilities": five(image).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="error", access_log=False)
