"""Make Superset's state ready: metadata, the signing key, the administrator. Quick where it is done already.

Run by the interpreter of Superset's environment. `prepare.py` prepares the folder `SUPERSET_HOME`;
`prepare.py --template` only builds the metadata that new folders start from: work for install time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("superset_config.py")
PASSWORD_FILE = "superset-admin-password"  # noqa: S105 - its name, not a password


def version() -> str:
    """Return what names the installed Superset: a digest of its lock file."""
    return hashlib.sha256((ROOT / "superset" / "requirements.lock").read_bytes()).hexdigest()[:12]


def configure(home: Path) -> None:
    """Point Superset at its configuration and its state; its clock is UTC, like every clock inside."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.environ.get("SELFGEN_SUPERSET_SECRET"):
        kept(home / "secret-key", secrets.token_urlsafe(42))
    os.environ.update(SUPERSET_HOME=str(home), SUPERSET_CONFIG_PATH=str(CONFIG), TZ="UTC")


def kept(path: Path, fresh: str) -> str:
    """Return the secret in a file; `fresh` becomes it where there is none. Only the owner can read it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(fresh + "\n")
    return fresh


def migrate() -> None:
    """Bring the metadata to this Superset's version: schema, permissions, roles (one process: 12 to 20 s)."""
    from flask_migrate import upgrade
    from superset.app import create_app

    app = create_app()
    with app.app_context():
        from superset.extensions import appbuilder, db, security_manager

        upgrade(directory=app.extensions["migrate"].directory)
        appbuilder.add_permissions(update_perms=True)
        security_manager.sync_role_definitions()
        if not security_manager.get_all_users():
            # a first user without a usable password; `set_administrator` gives name and password
            admin = security_manager.find_role("Admin")
            security_manager.add_user(
                "admin", "Selfgen", "Administrator", "admin@localhost", admin, secrets.token_urlsafe(42)
            )
        db.session.commit()


def template() -> Path:
    """Return the metadata that new folders start from; built once for each version of Superset."""
    path = ROOT / "build" / f"superset-template-{version()}.db"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="superset-template-") as folder:
            home = Path(folder)
            configure(home)
            migrate()
            (home / "superset.db").replace(path)
    return path


def database(home: Path) -> str:
    """Return the SQLAlchemy URI of the metadata."""
    return os.environ.get("SELFGEN_SUPERSET_DATABASE") or f"sqlite:///{home}/superset.db"


def set_administrator(home: Path) -> None:
    """Give the first user the configured name and password; a password is made where none is configured."""
    from sqlalchemy import create_engine, text
    from werkzeug.security import check_password_hash, generate_password_hash

    name = os.environ.get("SELFGEN_SUPERSET_USER") or "admin"
    password = os.environ.get("SELFGEN_SUPERSET_PASSWORD") or kept(home / PASSWORD_FILE, secrets.token_urlsafe(18))
    engine = create_engine(database(home))
    with engine.begin() as metadata:
        first, hashed = metadata.execute(text("SELECT id, password FROM ab_user ORDER BY id LIMIT 1")).one()
        if not check_password_hash(hashed, password):
            hashed = generate_password_hash(password)
        changed = {"name": name, "password": hashed, "id": first}
        metadata.execute(text("UPDATE ab_user SET username = :name, password = :password WHERE id = :id"), changed)
    engine.dispose()


def prepare(home: Path) -> None:
    """Make the metadata ready: SQLite from the template where it is new, by migration where Superset changed."""
    elsewhere = bool(os.environ.get("SELFGEN_SUPERSET_DATABASE"))
    ready = " ".join([version(), *([hashlib.sha256(database(home).encode()).hexdigest()[:12]] if elsewhere else [])])
    stamp = home / "version"
    if not elsewhere and not (home / "superset.db").exists():
        source = template()
        configure(home)
        shutil.copyfile(source, home / "superset.db.new")
        (home / "superset.db.new").replace(home / "superset.db")
    else:
        configure(home)
        if not stamp.exists() or stamp.read_text() != ready:
            migrate()
    stamp.write_text(ready)
    set_administrator(home)


if __name__ == "__main__":
    if sys.argv[1:] == ["--template"]:
        os.environ.pop("SELFGEN_SUPERSET_DATABASE", None)
        template()
    else:
        prepare(Path(os.environ["SUPERSET_HOME"]))
