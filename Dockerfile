# CUDA-capable: torch's wheels bring the CUDA libraries, the base brings what the NVIDIA container runtime needs. It must
# be of torch's own CUDA: it refuses drivers that are too old for it, where torch would work on the CPU without a word.
FROM nvidia/cuda:13.0.0-base-ubuntu24.04

# The compiler and Python's headers are for presets with `compile = true`.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --shell /bin/bash genint

ENV VIRTUAL_ENV=/opt/genint PATH=/opt/genint/bin:$PATH
RUN python3 -m venv $VIRTUAL_ENV
# Dependencies first: they change less often than the code.
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir -c /tmp/constraints.txt "ray[default]" s3fs torch torchvision \
 && python -c "import os, torch; ours, base = torch.version.cuda, os.environ['CUDA_VERSION']; \
assert ours and base.startswith(ours), f'torch is built for CUDA {ours}, the base image is of {base}: change FROM'"

WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE constraints.txt ./
COPY manifests manifests
COPY pipeline pipeline
COPY train train
COPY evaluate evaluate
RUN pip install --no-cache-dir -c constraints.txt .

USER genint
WORKDIR /home/genint
# Loader workers of genint-train hand over batches in shared memory (16 of them up to 3 GB), and Ray's object store lies
# there: run with --shm-size=8g.
ENTRYPOINT ["genint-pipeline"]
CMD ["--help"]
