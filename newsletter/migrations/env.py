"""Alembic's entry: runs the scripts on the connection that `newsletter.migrations.upgrade` hands over."""

from alembic import context

import newsletter.models  # noqa: F401 # declares its tables
from subscribers import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True, transactional_ddl=False)
context.run_migrations()
