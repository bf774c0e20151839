# CUDA-capable: torch's wheels bring the CUDA libraries, the base brings what the NVIDIA container runtime needs.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --shell /bin/bash genint

ENV VIRTUAL_ENV=/opt/genint PATH=/opt/genint/bin:$PATH
RUN python3 -m venv $VIRTUAL_ENV
# Dependencies first: they change less often than the code.
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir -c /tmp/constraints.txt "ray[default]" s3fs torch torchvision

WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE constraints.txt ./
COPY manifests manifests
COPY pipeline pipeline
COPY train train
COPY evaluate evaluate
RUN pip install --no-cache-dir -c constraints.txt .

USER genint
WORKDIR /home/genint
# Ray's object store needs shared memory: run with --shm-size=2g. Nothing large goes through it.
ENTRYPOINT ["genint-pipeline"]
CMD ["--help"]
