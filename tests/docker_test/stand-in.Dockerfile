# Stands in for a HuggingFace container of SageMaker: the packages that it holds, for a CPU.
ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE}
ARG PACKAGES
RUN mkdir -p /usr/share/man/man1 && apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/packages && /opt/packages/bin/pip install --upgrade pip
ENV PATH=/opt/packages/bin:${PATH}
ARG REQUIREMENTS
COPY ${REQUIREMENTS} requirements.txt
RUN pip install --requirement requirements.txt
ARG MORE
RUN test -z "${MORE}" || pip install ${MORE}
ENV PYTHONUNBUFFERED=1
CMD ["serve"]
