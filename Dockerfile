# Homeport as a container image.
#
#   docker build -t homeport .
#   docker run -p 8080:8080 -v "$PWD/homeport.yaml":/etc/homeport/homeport.yaml:ro homeport
#   docker run --rm -v "$PWD/homeport.yaml":/etc/homeport/homeport.yaml:ro homeport check /etc/homeport/homeport.yaml
#
# It needs no privilege: any user id, a read-only root file system and no capabilities will do
# (`--user 12345 --read-only --cap-drop ALL --security-opt no-new-privileges`).
#
# Stopping: SIGTERM drains and the exit status is 0. `docker stop` kills after 10 s unless told otherwise
# (`--stop-timeout` of `docker run`, `stop_grace_period` in compose), so keep `drain_timeout` below that; the
# default configuration, config/container.yaml, does.
#
# PID 1: no init is needed. It is Homeport's parent process, which handles its signals itself, as Linux asks of PID 1,
# reaps what ends in the container, its own children and orphans alike, and starts again what should not have ended. A
# SIGTERM that comes before Python does is not lost either: `env` blocks it, so that it waits.
#
# `docker kill --signal USR2` puts new processes behind the same PID 1 and loses no request. A new container cannot take
# over the sockets of an old one: `docker restart`, and a new image, cut what the drain does not finish, and clients are
# refused until the next one listens.
#
# It builds with BuildKit and with the classic builder, which has no `RUN --mount`, to the same layers.
#
# The compiled build takes a BUILD_IMAGE with a C compiler and the headers of Python. Neither gets into the
# image:
#
#   docker build --build-arg COMPILE=1 --build-arg BUILD_IMAGE=python:3.11-bookworm -t homeport .

# Any image with glibc, GNU coreutils 8.31 or later, and Python 3.11 or later with its venv module, in /usr/bin or in
# /usr/local/bin.
ARG BASE_IMAGE=python:3.11-slim-bookworm
# What packages are installed in; nothing else of it gets into the image. Name your own, with BASE_IMAGE's Python in
# the same place, where the package index is reached by a CA bundle, a pip.conf or credentials of your own.
ARG BUILD_IMAGE=${BASE_IMAGE}

# The dependencies, and what Homeport's wheel is built with: a layer that changes only with pyproject.toml.
FROM ${BUILD_IMAGE} AS dependencies
# Settings of pip for this build, if any. They are neither in the image nor in its history. They are in that of the
# build's own stages on this machine: pass credentials by BUILD_IMAGE instead.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
# A URL, or a file in BUILD_IMAGE, with the exact versions to take. Without it they are the newest that pyproject.toml
# allows.
ARG PIP_CONSTRAINT
# 1 for the compiled build: what it asks for besides, and the dependencies, whose types are checked.
ARG COMPILE
# The same packages give the same layers, bit for bit: all files get this time, and bytecode is checked by its source's
# hash, not by its time. 1980 is the earliest that a wheel, being a zip file, can say.
ARG SOURCE_DATE_EPOCH=315532800
# Wheels only: a package without one for this platform fails the build, instead of asking for a compiler.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
# Two environments, so that pip does not get into the image.
RUN python3 -m venv /tools && python3 -m venv --without-pip /opt/homeport
COPY pyproject.toml ./
RUN python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb')); \
dependencies = project['project']['dependencies']; tools = project['build-system']['requires']; \
hook = project['tool']['hatch']['build']['targets']['wheel']['hooks']['mypyc']; \
tools += [*hook['dependencies'], *dependencies] if '${COMPILE}' == '1' else []; \
print(*tools, sep='\n', file=open('tools.txt', 'w')); \
print(*dependencies, sep='\n', file=open('dependencies.txt', 'w'))" \
    && /tools/bin/pip install --upgrade -r tools.txt \
    && /tools/bin/pip --python /opt/homeport/bin/python install --no-compile -r dependencies.txt
# All bytecode goes below one directory, the standard library's too: the slim Python images come without it, and
# compiling it at every start takes longer than all the rest of the start.
RUN cd /opt/homeport \
    && PYTHONPYCACHEPREFIX=/opt/homeport/pycache bin/python -m compileall -q --invalidation-mode checked-hash \
        -x '/(dist-packages|ensurepip|idlelib|lib2to3|pydoc_data|site-packages/pip|test|tests|tkinter|turtledemo)/' \
        "$(bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && PYTHONPYCACHEPREFIX=/opt/homeport/pycache bin/python -m compileall -q --invalidation-mode checked-hash \
        /opt/homeport/lib \
    && mkdir -p /dependencies/opt \
    && cp -a /opt/homeport /dependencies/opt/ \
    && find /dependencies -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

# Homeport itself, below /application, so that it can be told from what it depends on. Asks no package index.
FROM dependencies AS application
ARG COMPILE
ARG SOURCE_DATE_EPOCH=315532800
COPY pyproject.toml README.md ./
COPY proxy proxy/
COPY config/container.yaml /application/etc/homeport/homeport.yaml
RUN HATCH_BUILD_HOOKS_ENABLE="${COMPILE}" /tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel . \
    && /tools/bin/pip --python /opt/homeport/bin/python install --no-compile --no-deps --no-index \
        --root /application /wheel/*.whl \
    && cp -a /application/opt/homeport/. /opt/homeport/ \
    && PYTHONPYCACHEPREFIX=/application/opt/homeport/pycache \
        /opt/homeport/bin/python -m compileall -q --invalidation-mode checked-hash \
        /opt/homeport/lib/python3*/site-packages/proxy \
    && chmod -R u=rwX,go=rX /application \
    && find /application -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM ${BASE_IMAGE}
# No `RUN` in this stage: nothing can leave a cache, a log or a user behind.
# Whole trees are copied onto /, because a directory that COPY has to make has the time of the build.
COPY --from=dependencies /dependencies/ /
COPY --from=application /application/ /
# Bytecode is complete, so nobody should write more of it, not even root. Output needs no PYTHONUNBUFFERED: messages
# go to stderr line by line, the access log to stdout batch by batch.
ENV PATH=/opt/homeport/bin:$PATH \
    PYTHONPYCACHEPREFIX=/opt/homeport/pycache \
    PYTHONDONTWRITEBYTECODE=1 \
    HOMEPORT_ADMIN=http://127.0.0.1:9901
# A number, because the image has no such user and `runAsNonRoot` of others wants one.
USER 65532:65532
EXPOSE 8080
# Ready means: the configuration is applied and the listeners are open. HOMEPORT_ADMIN says where to ask, by
# http://HOST:PORT or unix:/PATH, here and in `homeport status`; change it together with `admin.bind`. Only `socket`
# is imported, because this runs every few seconds for as long as the container does.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["python", "-S", "-P", "-c", "\
import os, socket, sys; \
kind, _, place = os.environ['HOMEPORT_ADMIN'].partition(':'); \
host, _, port = place.strip('/').rpartition(':'); \
s = socket.socket(socket.AF_UNIX) if kind == 'unix' else socket.create_connection((host.strip('[]'), int(port)), 3); \
s.settimeout(3); \
kind == 'unix' and s.connect(place); \
s.sendall(b'GET /readyz HTTP/1.0\\r\\n\\r\\n'); \
status, _, answer = s.makefile().read().partition('\\n'); \
print(answer.strip().rpartition('\\n')[2]); \
sys.exit(' 200 ' not in status)"]
# The stop signals wait until the daemon can handle them; commands other than `run` let them through at once.
ENTRYPOINT ["env", "--block-signal=TERM,INT", "homeport"]
CMD ["run", "--config", "/etc/homeport/homeport.yaml"]
ARG BASE_IMAGE
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Homeport" \
      org.opencontainers.image.description="Sidecar reverse proxy and load balancer for data-processing containers" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
