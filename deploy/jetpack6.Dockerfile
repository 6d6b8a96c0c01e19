# l2g on an Orin with JetPack 6: TensorRT 10.3 and Python 3.10 of the base.
#   docker build -f deploy/jetpack6.Dockerfile -t l2g:jetpack6 .      (on the device)
#   docker run --runtime nvidia -v "$PWD:/work" l2g:jetpack6 build --onnx model.onnx --output model.engine --no-verify
# An engine belongs to the device, the JetPack and the TensorRT that built it: build it in this container.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
# hadolint ignore=DL3006
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-libnvinfer python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1001 --groups video l2g \
    && install -d -o l2g -g l2g /work /work/results
WORKDIR /src
COPY . .
# The base's own Python packages hold TensorRT. The bindings are of the driver's CUDA.
RUN python3 -m venv --system-site-packages /opt/l2g \
    && /opt/l2g/bin/pip install --no-cache-dir '.[live]' 'onnx>=1.17,<2' 'cuda-bindings>=12.6,<13' \
    && rm -rf /src
ENV PATH=/opt/l2g/bin:$PATH
USER 1001
WORKDIR /work
ENTRYPOINT ["l2g"]
CMD ["--help"]
