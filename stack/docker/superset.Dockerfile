# Superset's official image with Druid's driver, and prepared and served as in the local stack.
# Built by docker-compose.yml from the top of the checkout.

FROM apache/superset:6.1.0
USER root
COPY superset/requirements.lock /selfgen/superset/requirements.lock
COPY stack/superset/*.py /selfgen/stack/superset/
# gunicorn too: serve.py's options are those of the locked version; pillow draws the maps' tiles; PostgreSQL's driver is
# for metadata kept there
RUN . /app/.venv/bin/activate \
    && uv pip install --no-cache \
        $(grep -E '^(pydruid|gunicorn|pillow|psycopg2-binary)==' /selfgen/superset/requirements.lock) \
    && mkdir /selfgen/build && chown superset /selfgen/build

USER superset
# the metadata that a new volume starts from: a minute here instead of at the first start
RUN python /selfgen/stack/superset/prepare.py --template
