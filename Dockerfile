FROM python:3.13-slim
WORKDIR /srv
COPY pyproject.toml constraints.txt topics.yaml README.md ./
COPY app ./app
RUN pip install --no-cache-dir -c constraints.txt '.[otel]' && useradd --system --create-home runbooks \
 && mkdir -p /srv/data && chown runbooks /srv/data
COPY runbooks ./runbooks
USER runbooks
ENV RUNBOOKS_DATA_DIR=/srv/data RUNBOOKS_API__HOST=0.0.0.0
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
CMD ["runbooks", "worker"]
