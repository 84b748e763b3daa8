"""What a node is made of: the jars of Cassandra from Maven Central, and an archive of its classes as a JVM has them.

The archive (class data sharing of the JDK) halves the processor time of a start; it is the trace of one start that is
thrown away, and holds for one JDK and one set of jars.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["Parts", "PartsMissing", "fetch", "find"]

VERSION: Final = "5.0.9"
COPY_JARS: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCH_S_MAX: Final = 600.0  # seconds for 67 MB from Maven Central; half a minute is usual

POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>pigeonry</groupId><artifactId>test-cluster</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


class PartsMissing(Exception):
    """A part cannot be had; the text says which, and where it comes from."""


class Parts(msgspec.Struct, frozen=True):
    """Where the parts are.

    Args:
        java: The java of a JDK 17.
        jars: Class path.
        archive: The class data archive; a JVM that cannot use it starts without.
    """

    java: Path
    jars: tuple[Path, ...]
    archive: Path


def find(folder: Path) -> Parts:
    """The parts in a folder, where ``fetch`` has been; the archive may not be there yet.

    Raises:
        PartsMissing: No JDK 17.
    """
    java = _java()
    # The archive is named for the JDK: a newer one makes its own.
    release = (java.resolve().parents[1] / "release").read_bytes()
    archive = folder / f"classes-{VERSION}-{hashlib.sha256(release).hexdigest()[:12]}.jsa"
    return Parts(java=java, jars=tuple(sorted(_jars(folder).glob("*.jar"))), archive=archive)


def fetch(folder: Path) -> None:
    """Get the jars, unless they are there.

    Raises:
        PartsMissing: No JDK 17, no Maven, or Maven could not.
    """
    if _jars(folder).exists():
        return
    _java()
    maven = shutil.which("mvn")
    if maven is None:
        raise PartsMissing("mvn (Debian: maven)")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        (Path(work) / "pom.xml").write_text(POM)
        command = [maven, "-q", "-B", "-f", work, COPY_JARS, "-DincludeScope=runtime", f"-DoutputDirectory={work}/jars"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_S_MAX)  # noqa: S603
        if run.returncode:
            raise PartsMissing(f"the jars of Cassandra {VERSION} from Maven Central:\n{run.stdout}{run.stderr}")
        (Path(work) / "jars").rename(_jars(folder))


def _jars(folder: Path) -> Path:
    return folder / f"cassandra-{VERSION}"


def _java() -> Path:
    """Cassandra 5.0 runs on 11 and 17 only, whatever the system's own is."""
    known = sorted(Path("/usr/lib/jvm").glob("java-17-openjdk-*/bin/java"))
    if not known:
        raise PartsMissing("java of JDK 17 (Debian: openjdk-17-jre-headless)")
    return known[0]
