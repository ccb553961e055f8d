#!/bin/sh
# Installs swamp_dist inside a container, from the source that this file lies in; Dockerfile and apptainer.def call it.
#
#   FOLDER  the environment (/opt/swamp)
#   TORCH   what pip is asked for (the CPU build of torch 2.13.0); site: the torch that the base image brings
set -eu
source=$(cd "$(dirname "$0")/../.." && pwd)
folder=${FOLDER:-/opt/swamp}
torch=${TORCH:-torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu}

# Python, where the base has none that is new enough.
if ! python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    command -v apt-get >/dev/null || { echo "error: the base image lacks Python 3.11 with venv, and apt-get to get it" >&2; exit 1; }
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv ca-certificates
    rm -rf /var/lib/apt/lists/*
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(python3 --version) of the base image is older than 3.11" >&2; exit 1; }

# torch comes first: what follows keeps it, and would else bring the newest one with its CUDA packages.
if [ "$torch" = site ]; then
    python3 -c 'import torch' || { echo "error: TORCH=site, and the base image has no torch" >&2; exit 1; }
    python3 -m venv "$folder" --system-site-packages
    "$folder/bin/python3" -c 'import torch' || { echo "error: TORCH=site: an environment of python3 does not see the base image's torch" >&2; exit 1; }
    python3 -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >"$folder/site-torch.txt"
else
    python3 -m venv "$folder"
    # shellcheck disable=SC2086 # TORCH may hold several words
    "$folder/bin/python3" -m pip install --no-cache-dir $torch
    "$folder/bin/python3" -m pip freeze | grep -i '^torch==' >"$folder/site-torch.txt"
fi
"$folder/bin/python3" -m pip install --no-cache-dir -c "$folder/site-torch.txt" "$source"

# What an image must be able to do, outside the source.
mkdir "$folder/check"
cd "$folder/check"
"$folder/bin/swamp" init . >/dev/null
"$folder/bin/swamp" show jobs/pretrain/synthetic.yaml >/dev/null
cd /
rm -r "$folder/check"
echo "swamp is in $folder/bin, with $(cat "$folder/site-torch.txt")"
