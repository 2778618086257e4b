"""Plan a job as a client of Flink does, and have its Java leave the classes that it loaded in an archive.

A client that starts with the archive need not read, check and lay out these classes again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import psutil

from selfgen.settings import get_settings
from stack.servers import flink_environment

#: How long Java may write, s.
PATIENCE_S = 120


def archive(path: Path) -> None:
    """Write the archive; it is whole once Java has ended."""
    import pyflink

    with tempfile.TemporaryDirectory() as logs:
        shipped = {"FLINK_CONF_DIR": str(Path(pyflink.__file__).parent / "conf"), "FLINK_LOG_DIR": logs}
        options = {"JVM_ARGS": f"-XX:+UseSerialGC -XX:ArchiveClassesAtExit={path} -Xlog:disable"}
        os.environ.update(flink_environment(get_settings()) | shipped | options)
        plan()
        # Java does as at the end of any client, and writes the archive then
        for java in psutil.Process().children():
            java.terminate()
            java.wait(PATIENCE_S)


def plan() -> None:
    """Plan what the hourly jobs ask: a table function in Python over listed rows."""
    from pyflink.table import DataTypes, EnvironmentSettings, TableEnvironment
    from pyflink.table.udf import TableFunction, udtf

    class Same(TableFunction):
        def eval(self, number):
            yield (number,)

    env = TableEnvironment.create(EnvironmentSettings.in_batch_mode())
    env.create_temporary_function("same", udtf(Same(), result_types=[DataTypes.BIGINT()]))
    env.execute_sql("CREATE TEMPORARY VIEW listed AS SELECT * FROM (VALUES 1, 2) AS v (number)")
    env.execute_sql("CREATE TABLE done (n BIGINT) WITH ('connector' = 'blackhole')")
    query = "SELECT n FROM (SELECT number FROM listed GROUP BY number), LATERAL TABLE(same(number)) AS t (n)"
    env.explain_sql(f"INSERT INTO done {query}")


if __name__ == "__main__":
    archive(Path(sys.argv[1]))
