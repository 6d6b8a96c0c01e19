# l2g on a Thor or an Orin with JetPack 7: TensorRT 10.x and Python 3.12 of the base.
#   docker build -f deploy/jetpack7.Dockerfile -t l2g:jetpack7 .      (on the device)
#   docker run --runtime nvidia -v "$PWD:/work" l2g:jetpack7 build --onnx model.onnx --output model.engine --no-verify
# An engine belongs to the device, the JetPack and the TensorRT that built it: build it in this container.
ARG BASE=nvcr.io/nvidia/tensorrt:25.09-py3
# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1001 --groups video l2g \
    && install -d -o l2g -g l2g /work /work/results
WORKDIR /src
COPY . .
# The base's own Python packages hold TensorRT. The bindings are of the driver's CUDA.
RUN python3 -m venv --system-site-packages /opt/l2g \
    && /opt/l2g/bin/pip install --no-cache-dir '.[live]' 'onnx>=1.17,<2' 'cuda-bindings>=13,<14' \
    && rm -rf /src
ENV PATH=/opt/l2g/bin:$PATH
USER 1001
WORKDIR /work
ENTRYPOINT ["l2g"]
CMD ["--help"]
