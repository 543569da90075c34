#!/usr/bin/env bash
# Vertex AI custom training on four machines with a GPU each; vertex.yaml says which. Vertex sets TF_CONFIG on each.
# The network must reach the NFS share that vertex.yaml mounts, where the data are and the run is kept.
set -euo pipefail
: "${PROJECT:?the Google Cloud project}" "${NETWORK:?projects/NUMBER/global/networks/NAME}"

gcloud ai custom-jobs create \
  --project="$PROJECT" \
  --region="${REGION:-europe-west4}" \
  --display-name=dcgan-keras \
  --network="$NETWORK" \
  --config="$(dirname "$0")/vertex.yaml"
