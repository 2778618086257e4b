"""Check what must be on the machine before anything is installed; names what is missing, and how to get it.

Runs on the bare interpreter, old ones included: nothing but the standard library, no new syntax.
"""

import importlib.util
import re
import shutil
import subprocess
import sys

PYTHON = ((3, 11), (3, 13))
JAVA = 17
MAVEN = (3, 6)


def version_of(command):
    """Return the version a command prints, as a tuple of integers, or None where it cannot be run."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout.decode("utf-8", "replace"))
    found = re.search(r"(\d+)(?:\.(\d+))?", text)
    return tuple(int(part or 0) for part in found.groups()) if found and done.returncode == 0 else None


def problems():
    """Return one sentence for each thing that is missing or too old; empty where all is well."""
    found = []
    if not PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        have = ".".join(str(part) for part in sys.version_info[:3])
        found.append(f"Python 3.11 or 3.12 is needed, this is {have}: install python3.11 (make PYTHON=python3.11 …)")
    elif importlib.util.find_spec("ensurepip") is None:
        found.append("Python's venv module is missing: install python3-venv")
    java = version_of(["java", "-version"])
    if java is None:
        found.append("Java is missing: install OpenJDK 17 (package openjdk-17-jdk-headless)")
    elif java[0] < JAVA:
        found.append(f"Java 17 is needed, this is {java[0]}: install openjdk-17-jdk-headless")
    elif shutil.which("javac") is None:
        found.append("The Java compiler is missing: install a JDK (package openjdk-17-jdk-headless)")
    maven = version_of(["mvn", "-version"])
    if maven is None:
        found.append("Maven is missing: install maven")
    elif maven < MAVEN:
        found.append(f"Maven 3.6 or newer is needed, this is {maven[0]}.{maven[1]}: install maven")
    if shutil.which("make") is None:
        found.append("make is missing: install make")
    return found


if __name__ == "__main__":
    lines = problems()
    for line in lines:
        sys.stderr.write(line + "\n")
    sys.exit(1 if lines else 0)
