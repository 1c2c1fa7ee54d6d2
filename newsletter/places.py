"""Where a database is, so that a copy of it can be told from it: a copy must mail nobody until somebody claims it."""

from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError


def place_of(engine: Engine) -> str:
    """A text that is the same for as long as a database stays where it is, and another for each copy.

    Of SQLite it is the file's path and its number in the file system: a copied, restored or moved file has another. Of
    PostgreSQL it is the cluster's identifier and the database's own number (pg_control_system() and pg_database.oid):
    a dump that is read in elsewhere, or beside it, has another; a standby that takes over has the same.
    """
    if engine.dialect.name == "sqlite":
        file = Path(engine.url.database or "").resolve()
        try:
            number = str(file.stat().st_ino)
        except OSError:
            number = "?"
        return f"{file}#{number}"
    with engine.connect() as connection:
        number = str(
            connection.execute(text("SELECT oid FROM pg_database WHERE datname = current_database()")).scalar_one()
        )
        try:
            cluster = str(connection.execute(text("SELECT system_identifier FROM pg_control_system()")).scalar_one())
        except DBAPIError:  # not everybody may ask on every server
            cluster = "?"
    return f"{cluster}/{number}"
