# swamp in a container. For CPUs:  docker build -t swamp .
# For a GPU, a build of torch with the CUDA libraries in it, from PyPI, or from an index of torch for another CUDA version:
#   docker build -t swamp --build-arg TORCH=torch==2.13.0 .
#   docker build -t swamp --build-arg TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cuXYZ" .
# A base image that brings its own torch: --build-arg BASE=IMAGE --build-arg TORCH=site
#   docker run --rm -v "$PWD:/work" swamp init, then  docker run --rm -v "$PWD:/work" --shm-size 1g swamp smoke  (--gpus all on a GPU)
ARG BASE=debian:12-slim
FROM ${BASE}
ARG TORCH=""
COPY setup.py pyproject.toml README.md LICENSE /opt/source/
COPY swamp_dist /opt/source/swamp_dist
COPY jobs /opt/source/jobs
COPY shards /opt/source/shards
COPY tools/containers /opt/source/tools/containers
RUN TORCH="$TORCH" /opt/source/tools/containers/install.sh
ENV PATH=/opt/swamp/bin:$PATH
WORKDIR /work
ENTRYPOINT ["swamp"]
CMD ["--help"]
