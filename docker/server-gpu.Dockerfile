# Triton for the gpu profile: docker build -f docker/server-gpu.Dockerfile .
#
# NVIDIA's image as it is (TensorRT and DALI backends), and what starts it with this pod's keys.
# Plans are made for its TensorRT: docs/export-gpu.md. The digest of zeros is to be filled in, here or
# by --build-arg TRITON=…@sha256:…
ARG TRITON=nvcr.io/nvidia/tritonserver:24.10-py3@sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${TRITON}
COPY docker/launch_triton.py /opt/hounsfield/launch_triton.py
ENV HOME=/tmp
USER 10001:10001
ENTRYPOINT ["python3", "/opt/hounsfield/launch_triton.py"]
CMD ["/run/triton/arguments.json"]
