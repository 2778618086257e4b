"""The servers' jars, brought by Maven into `build/jars`, once for every change of a pom."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyflink
from filelock import FileLock

from selfgen.settings import Settings
from stack.errors import StackError

HERE = Path(__file__).parent

#: pom → folder below `jars_dir`
POMS = {
    "kafka": "kafka",
    "druid": "druid/lib",
    "druid/kafka": "druid/extensions/druid-kafka-indexing-service",
    "druid/datasketches": "druid/extensions/druid-datasketches",
    "flink": "flink/lib",
    "couchbase": "couchbase",
}


def _sources(pom: str) -> list[Path]:
    return [HERE / pom / "pom.xml", *sorted((HERE / pom).rglob("*.java"))]


def _digest(pom: str) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in _sources(pom))).hexdigest()


def _stamp(settings: Settings, pom: str) -> Path:
    return settings.jars_dir / "stamps" / pom.replace("/", "-")


def missing(settings: Settings) -> list[str]:
    """Return the poms whose jars are not there, or not those of the pom as it is."""
    return [
        pom for pom in POMS if not _stamp(settings, pom).exists() or _stamp(settings, pom).read_text() != _digest(pom)
    ]


def copy_jars(pom: Path, target: Path, work: Path) -> None:
    """Have Maven copy a pom's jars into a folder, which it empties first.

    Raises
    ------
    StackError
        Maven failed.
    """
    shutil.rmtree(target, ignore_errors=True)
    command = ["mvn", "-q", "-B", "-f", str(pom), f"-Dout={target}", f"-Dwork={work}", "package"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        name = pom.parent.relative_to(HERE) if pom.is_relative_to(HERE) else pom.name
        raise StackError(f"Maven could not bring the jars of {name}; is its registry within reach?", tail)


def _bring(settings: Settings, pom: str) -> None:
    target = settings.jars_dir / POMS[pom]
    copy_jars(HERE / pom / "pom.xml", target, settings.jars_dir / "work" / pom.replace("/", "-"))
    if pom == "flink":
        _complete_flink(target)
    _stamp(settings, pom).write_text(_digest(pom))


def _complete_flink(lib: Path) -> None:
    """Put what the Python package ships beside the connectors: one class path for cluster and clients."""
    home = Path(pyflink.__file__).parent
    for jar in [*(home / "lib").glob("*.jar"), *(home / "opt").glob("flink-python-*.jar")]:
        (lib / jar.name).unlink(missing_ok=True)
        (lib / jar.name).symlink_to(jar)


def install(settings: Settings, progress: Callable[[str], None] = lambda _text: None) -> list[str]:
    """Bring every jar that is missing, two poms at a time; return the poms that were brought."""
    (settings.jars_dir / "stamps").mkdir(parents=True, exist_ok=True)
    with FileLock(settings.jars_dir / "install.lock"):
        wanted = missing(settings)

        def bring(pom: str) -> None:
            progress(f"jars of {pom}: by Maven")
            _bring(settings, pom)
            progress(f"jars of {pom}: there")

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(bring, wanted))
    return wanted
