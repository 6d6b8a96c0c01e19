# l2g on x86-64 with an NVIDIA GPU: ONNX Runtime for CUDA, live sources, batches on Ray.
#   docker build -f deploy/gpu.Dockerfile -t l2g:gpu .
#   docker run --gpus all -v "$PWD:/work" l2g:gpu run --model model.onnx --input clip.mp4 --output out
# The CUDA of the base has to be the one that onnxruntime-gpu was built for.
ARG BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04
# hadolint ignore=DL3006
FROM ${BASE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/l2g \
    && /opt/l2g/bin/pip install --no-cache-dir -c constraints.txt '.[gpu,live,batch]' 'ray[default]'

# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1001 l2g \
    && install -d -o l2g -g l2g /work /work/results
COPY --from=build /opt/l2g /opt/l2g
RUN ln -s /opt/l2g/bin/l2g /opt/l2g/bin/ray /usr/local/bin/
ENV PATH=/opt/l2g/bin:$PATH RAY_USAGE_STATS_ENABLED=0
USER 1001
WORKDIR /work
ENTRYPOINT ["l2g"]
CMD ["--help"]
