# One image for the API and the workers; docker-compose.yml says which command each one runs.
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY clr clr
COPY worker worker
COPY service service
RUN python -m venv /opt/snapcycle && /opt/snapcycle/bin/pip install --no-cache-dir -c constraints.txt .

FROM python:3.11-slim
RUN useradd --system --create-home --uid 10001 snapcycle && mkdir /data && chown snapcycle /data
COPY --from=build /opt/snapcycle /opt/snapcycle
ENV PATH=/opt/snapcycle/bin:$PATH PYTHONUNBUFFERED=1 SNAPCYCLE_DATA_DIR=/data
USER snapcycle
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["snapcycle"]
CMD ["--help"]
