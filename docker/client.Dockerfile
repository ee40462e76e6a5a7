# Gateway, worker and command line: docker build -f docker/client.Dockerfile .
#
# The digest of zeros is to be filled in, here or by --build-arg PYTHON=…@sha256:…
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm@sha256:0000000000000000000000000000000000000000000000000000000000000000

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1
RUN ["python", "-m", "venv", "/venv"]
COPY docker/requirements-build.txt docker/requirements-client.txt /requirements/
RUN ["/venv/bin/python", "-m", "pip", "install", "-r", "/requirements/requirements-client.txt"]
RUN ["python", "-m", "pip", "install", "--target", "/tools", "-r", "/requirements/requirements-build.txt"]
WORKDIR /app
COPY LICENSE README.md pyproject.toml ./
COPY client client
COPY preprocess preprocess
COPY model_repository model_repository
# The project's own metadata and commands; its code stays in /app.
RUN ["env", "PYTHONPATH=/tools", "PIP_REQUIRE_HASHES=0", "/venv/bin/python", "-m", "pip", "install", "--no-build-isolation", "--editable", "."]
RUN ["/venv/bin/python", "-m", "compileall", "-q", "/app/client", "/app/preprocess"]

FROM ${PYTHON}
COPY --from=build /venv /venv
COPY --from=build /app /app
# The user has no entry in /etc/passwd: home and name are given.
ENV HOME=/tmp LOGNAME=hounsfield PATH=/venv/bin:/usr/bin:/bin PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
CMD ["python", "-m", "client.ingest.process"]
