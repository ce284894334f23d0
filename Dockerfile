# SenseVoice Studio: the page and the HTTP service on port 6006.
#     docker build -t sensevoice-studio .                                             # NVIDIA GPUs, or CPU
#     docker build -t sensevoice-studio --build-arg REQUIREMENTS=requirements.txt .   # torch 2.13, no torchaudio
# compose.yaml builds and runs it for either, with all that can be taken from it taken away.
FROM python:3.12-slim AS packages
ARG REQUIREMENTS=requirements-cuda.txt
# PyTorch's own index has a build without CUDA, gigabytes smaller: https://download.pytorch.org/whl/cpu
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
COPY requirements*.txt /tmp/
# alone in its layer: it changes seldom, and takes most of the time and space
RUN /opt/venv/bin/pip install -r /tmp/${REQUIREMENTS}

FROM python:3.12-slim
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    SENSEVOICE_HOST=0.0.0.0 SENSEVOICE_PORT=6006 \
    SENSEVOICE_JOB_DIR=/var/lib/sensevoice/jobs SENSEVOICE_SPOOL_DIR=/var/lib/sensevoice/spool \
    GRADIO_TEMP_DIR=/var/lib/sensevoice/page
# a volume takes its owner from the folder that it is mounted on
RUN useradd --create-home --uid 1000 sensevoice \
 && install --directory --owner sensevoice --group sensevoice /home/sensevoice/.cache /var/lib/sensevoice
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY LICENSE README.md app_sensevoice.py ./
COPY examples ./examples
COPY sensevoice ./sensevoice
USER 1000
# downloaded models; uploads, jobs and their results
VOLUME ["/home/sensevoice/.cache", "/var/lib/sensevoice"]
EXPOSE 6006
# the first start may have a model to download
HEALTHCHECK --interval=30s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:6006/health', timeout=4)"]
CMD ["python", "app_sensevoice.py"]
