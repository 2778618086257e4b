# Flink's official image with its connectors, Python and the project: the cluster and the project's own processes.
# Built by docker-compose.yml from the top of the checkout.

FROM maven:3.9-eclipse-temurin-17 AS connectors
COPY stack/flink/pom.xml /pom/pom.xml
RUN mvn -q -B -f /pom/pom.xml -Dout=/jars package

# the project's own format, compiled against the very jars that run it
FROM maven:3.9-eclipse-temurin-17 AS format
COPY --from=flink:2.3.0-scala_2.12-java17 /opt/flink/lib /flink
COPY stack/flink_format /format
RUN javac --release 17 -cp '/flink/*' -d /classes $(find /format -name '*.java') && mkdir /jars \
    && jar --create --file /jars/selfgen-flink-format.jar -C /classes . -C /format META-INF

FROM flink:2.3.0-scala_2.12-java17
USER root
ENV VIRTUAL_ENV=/app/.venv UV_PYTHON_INSTALL_DIR=/opt/python PATH=/app/.venv/bin:$PATH
WORKDIR /app

# uv brings the Python that requirements.lock is for, whatever the image's system has
COPY requirements.lock ./
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir "$(grep '^uv==' requirements.lock)" \
    && /opt/uv/bin/uv venv --python 3.11 "$VIRTUAL_ENV"

# one class path for the cluster and for the clients that submit to it
COPY --from=connectors /jars/ /opt/flink/lib/
COPY --from=format /jars/ /opt/flink/lib/
RUN cp /opt/flink/opt/flink-python-*.jar /opt/flink/lib/ \
    && mkdir -p build/jars/flink && ln -s /opt/flink/lib build/jars/flink/lib \
    && mkdir -p /data/lake /data/checkpoints /data/ha /data/stack && ln -s /opt/flink/conf /data/stack/flink \
    && chown -R flink:flink /data

COPY pyproject.toml README.md ./
COPY selfgen selfgen
COPY flink_jobs flink_jobs
COPY kafka_consumers kafka_consumers
COPY couchbase_admin couchbase_admin
COPY stack stack
COPY druid_specs druid_specs
COPY superset/assets superset/assets
# the lock as constraints: the versions of every environment, without the tools of development
RUN /opt/uv/bin/uv pip install --no-cache --compile-bytecode --constraint requirements.lock --editable .

USER flink
