#!/usr/bin/env bash
# Fashion-MNIST with curl alone: upload 10,000 images, train five cycles, predict while it trains, take a snapshot home.
# Needs `snapcycle up` and the images of the Debian package dataset-fashion-mnist. Usage: fashion_mnist.sh [URL] [DIRECTORY OF IMAGES]
set -euo pipefail

API=${1:-http://127.0.0.1:8000}/v1
IMAGES=${2:-/usr/share/datasets/fashion-mnist}
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }

cd "$(mktemp -d)"
python3 - "$IMAGES" <<'PYTHON'
import gzip, sys
import numpy as np

def read(name, header):
    with gzip.open(f"{sys.argv[1]}/{name}-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)

x, y = read("train-images-idx3", 16).reshape(-1, 28, 28), read("train-labels-idx1", 8)
np.savez("fashion.npz", x=x[:10_000], y=y[:10_000])
np.save("held_out.npy", x[10_000:10_003])
print("held out: classes", y[10_000:10_003].tolist())
PYTHON

DATASET=$(curl -sS --fail-with-body "$API/datasets" -F file=@fashion.npz -F name="fashion, 10,000 images" | field id)
JOB=$(curl -sS --fail-with-body "$API/jobs" -H 'Content-Type: application/json' -d "{
  \"dataset_id\": \"$DATASET\",
  \"model\": {\"architecture\": \"small_cnn\", \"params\": {\"width\": 8}},
  \"schedule\": {\"type\": \"warm_restarts\", \"cycles\": 5, \"epochs_per_cycle\": 2}
}" | field id)
echo "$JOB"

# Without `types=` every step of the progress would come along.
curl -sSN "$API/jobs/$JOB/events?types=snapshot,end" -H 'Accept: text/event-stream' > events.txt &
FOLLOWER=$!
until grep -q '^event: snapshot' events.txt; do sleep 0.1; done
echo "while it trains: $(curl -sS --fail-with-body "$API/ensembles/${JOB/job_/ens_}/predict?top_k=1" \
  -H 'Content-Type: application/x-npy' --data-binary @held_out.npy)"
echo "status at that time: $(curl -sS "$API/jobs/$JOB" | field status)"

wait $FOLLOWER
grep -c '^event: snapshot' events.txt | sed 's/$/ snapshots came as server-sent events/'
echo "afterwards: $(curl -sS --fail-with-body "$API/ensembles/${JOB/job_/ens_}/predict?top_k=1" \
  -H 'Content-Type: application/x-npy' --data-binary @held_out.npy)"

SNAPSHOT=$(curl -sS "$API/jobs/$JOB/snapshots" | python3 -c "import json, sys; print(json.load(sys.stdin)['data'][-1]['id'])")
curl -sS --fail-with-body "$API/snapshots/$SNAPSHOT/weights" -o snapshot.safetensors
python3 -c "
from safetensors.numpy import load_file
for name, array in load_file('snapshot.safetensors').items(): print(f'{name:32} {array.dtype} {array.shape}')"
