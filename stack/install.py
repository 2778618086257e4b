"""The servers' jars in `build/jars`: brought by Maven, once for every change of a pom.

Flink's format is made here, and the archive of classes with which its clients start in half the time.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyflink
from filelock import FileLock

from selfgen.settings import Settings
from stack.errors import StackError
from stack.servers import CLIENT_CLASSES

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
#: Java of this project for Flink's processes, compiled against the jars among which it is put.
FORMAT = "flink_format"
FORMAT_JAR = "flink/lib/selfgen-flink-format.jar"
CLASSES = "flink_classes"
#: Flink's planner lies in the jar of its loader, which unpacks it for every client anew.
PLANNER, PLANNER_LOADER = "flink-table-planner.jar", "flink-table-planner-loader-"


def _sources(name: str) -> list[Path]:
    if name == FORMAT:
        return sorted(path for path in (HERE / FORMAT).rglob("*") if path.is_file())
    if name == CLASSES:
        return [*_sources("flink"), *_sources(FORMAT), HERE / f"{CLASSES}.py"]
    return [HERE / name / "pom.xml", *sorted((HERE / name).rglob("*.java"))]


def _digest(name: str) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in _sources(name))).hexdigest()


def _stamp(settings: Settings, name: str) -> Path:
    return settings.jars_dir / "stamps" / name.replace("/", "-")


def _is_current(settings: Settings, name: str) -> bool:
    stamp = _stamp(settings, name)
    return stamp.exists() and stamp.read_text() == _digest(name)


def missing(settings: Settings) -> list[str]:
    """Return the poms whose jars are not there, or not those of the pom as it is; and likewise what is made of them."""
    found = [pom for pom in POMS if not _is_current(settings, pom)]
    for name, file in ((FORMAT, FORMAT_JAR), (CLASSES, CLIENT_CLASSES)):
        after = "flink" in found or FORMAT in found
        if after or not _is_current(settings, name) or not (settings.jars_dir / file).exists():
            found.append(name)
    return found


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
        if jar.name.startswith(PLANNER_LOADER):
            with zipfile.ZipFile(jar) as loader:
                loader.extract(PLANNER, lib)
        else:
            (lib / jar.name).unlink(missing_ok=True)
            (lib / jar.name).symlink_to(jar)


def _compile_format(settings: Settings) -> None:
    """Compile Flink's format; the jar is replaced at once, so that a process that runs keeps the one it has read."""
    jar = settings.jars_dir / FORMAT_JAR
    with tempfile.TemporaryDirectory(dir=jar.parent.parent) as work:
        folder, made = Path(work) / "classes", Path(work) / jar.name
        java = [str(path) for path in _sources(FORMAT) if path.suffix == ".java"]
        command = ["javac", "--release", "17", "-Xlint:all", "-proc:none", "-Werror", "-d", str(folder)]
        command += ["-cp", f"{jar.parent}/*", *java]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode != 0:
            raise StackError("Flink's format could not be compiled", done.stdout)
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for root in (folder, HERE / FORMAT):
                for path in sorted(root.rglob("*")):
                    if path.is_file() and path.suffix != ".java":
                        archive.write(path, path.relative_to(root))
        made.replace(jar)
    _stamp(settings, FORMAT).write_text(_digest(FORMAT))


def _archive_classes(settings: Settings) -> None:
    """Have a client of Flink leave the classes that it loaded; a client that runs keeps the archive it has opened."""
    archive = settings.jars_dir / CLIENT_CLASSES
    made = archive.with_suffix(".unfinished")
    made.unlink(missing_ok=True)  # what a killed attempt left
    command = [sys.executable, "-m", f"stack.{CLASSES}", str(made)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0 or not made.exists():
        raise StackError("the classes of Flink's clients could not be archived", done.stdout)
    made.replace(archive)
    _stamp(settings, CLASSES).write_text(_digest(CLASSES))


def install(settings: Settings, progress: Callable[[str], None] = lambda _text: None) -> list[str]:
    """Bring or make every jar that is missing, two poms at a time; return what was brought."""
    (settings.jars_dir / "stamps").mkdir(parents=True, exist_ok=True)
    with FileLock(settings.jars_dir / "install.lock"):
        wanted = missing(settings)

        def bring(pom: str) -> None:
            progress(f"jars of {pom}: by Maven")
            _bring(settings, pom)
            progress(f"jars of {pom}: there")

        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(bring, [name for name in wanted if name in POMS]))
        if FORMAT in wanted:
            progress("jar of Flink's format: compiling")
            _compile_format(settings)
        if CLASSES in wanted:
            progress("classes of Flink's clients: archiving")
            _archive_classes(settings)
    return wanted
