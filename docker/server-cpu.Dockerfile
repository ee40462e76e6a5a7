# Triton for the cpu profile: docker build -f docker/server-cpu.Dockerfile .
#
# The server binary is the one that a PyPI wheel ships, the models run in its Python backend.
# The digest of zeros is to be filled in, here or by --build-arg PYTHON=…@sha256:…
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm@sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1
RUN ["python", "-m", "venv", "/venv"]
COPY docker/requirements-build.txt docker/requirements-server-cpu.txt /requirements/
RUN ["/venv/bin/python", "-m", "pip", "install", "-r", "/requirements/requirements-server-cpu.txt"]
RUN ["python", "-m", "pip", "install", "--target", "/tools", "-r", "/requirements/requirements-build.txt"]
WORKDIR /app
COPY LICENSE README.md pyproject.toml ./
COPY client client
COPY preprocess preprocess
# Triton's Python backend does not look at PYTHONPATH: models find /app because it is installed.
RUN ["env", "PYTHONPATH=/tools", "PIP_REQUIRE_HASHES=0", "/venv/bin/python", "-m", "pip", "install", "--no-build-isolation", "--editable", "."]
# The root is read-only later: the backend's stub for this Python is linked now.
RUN ["/venv/bin/python", "-m", "client.triton.container", "link"]
RUN ["/venv/bin/python", "-m", "compileall", "-q", "/app/client", "/app/preprocess"]

FROM ${PYTHON}
COPY --from=build /venv /venv
COPY --from=build /app /app
# The user has no entry in /etc/passwd: its home is given.
ENV HOME=/tmp PATH=/venv/bin:/usr/bin:/bin PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "-m", "client.triton.container", "serve"]
CMD ["/run/triton/arguments.json"]
