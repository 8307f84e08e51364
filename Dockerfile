# lzero on CPUs. docker build -t lzero . && docker run --rm -v "$PWD/runs:/lzero/runs" lzero train catch-moe
FROM python:3.12-slim

# The compiler builds the tree search's step at installation. Debian keeps no old versions that could be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /lzero
COPY requirements.txt .
# CPU builds of torch under the pinned version; without the index pip takes several GB of CUDA along
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --editable . \
    && useradd --create-home --uid 1000 lzero \
    && mkdir -p runs \
    && chown lzero runs

# a number, by which a host tells that it is not root
USER 1000
ENTRYPOINT ["lzero"]
CMD ["--help"]
