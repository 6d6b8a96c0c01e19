# l2g on x86-64 or ARM CPUs: ONNX Runtime and OpenVINO, live sources, batches on Ray.
#   docker build -f deploy/cpu.Dockerfile -t l2g:cpu .
FROM python:3.12.12-slim-bookworm AS build
WORKDIR /src
COPY . .
# The versions that the tests ran with. "default" is Ray's job server, which KubeRay asks for.
RUN python -m venv /opt/l2g \
    && /opt/l2g/bin/pip install --no-cache-dir -c constraints.txt '.[cpu,openvino,live,batch]' 'ray[default]'

FROM python:3.12.12-slim-bookworm
# KubeRay's probes call wget. Debian keeps no older versions to pin. A new volume takes
# the owner of the folder that it is mounted on.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 l2g \
    && install -d -o l2g -g l2g /work /work/results
COPY --from=build /opt/l2g /opt/l2g
# KubeRay starts Ray from a login shell, whose PATH is the system's.
RUN ln -s /opt/l2g/bin/l2g /opt/l2g/bin/ray /usr/local/bin/
ENV PATH=/opt/l2g/bin:$PATH RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /work
ENTRYPOINT ["l2g"]
CMD ["--help"]
