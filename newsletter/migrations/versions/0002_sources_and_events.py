"""How fetched sources fare, what providers tell, whose fault a refusal is, and what addresses of one page share.

Revision ID: 0002
Revises: 0001
"""

import hashlib
from typing import Literal

import sqlalchemy as sa
from alembic import op

import subscribers.db
from newsletter.brief import Brief, page_of


revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('provider_event',
    sa.Column('id', subscribers.db.RowNumber(), nullable=False),
    sa.Column('provider', sa.String(length=30), nullable=False),
    sa.Column('event_id', sa.String(length=200), nullable=False),
    sa.Column('kind', sa.Enum('processed', 'delayed', 'delivered', 'bounced', 'blocked', 'dropped', 'complained', 'left', 'rejoined', 'opened', 'clicked', 'unknown', name='eventkind', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('said', sa.String(length=60), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.Column('received_at', subscribers.db.Instant(), nullable=False),
    sa.Column('delivery', sa.String(length=40), nullable=True),
    sa.Column('attempt', sa.String(length=40), nullable=True),
    sa.Column('provider_id', sa.String(length=200), nullable=True),
    sa.Column('address', sa.String(length=320), nullable=True),
    sa.Column('reason', sa.String(length=300), nullable=True),
    sa.Column('machine', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_provider_event')),
    sa.UniqueConstraint('provider', 'event_id', name=op.f('uq_provider_event_provider_event_id'))
    )
    with op.batch_alter_table('provider_event', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_provider_event_attempt'), ['attempt'], unique=False)
        batch_op.create_index(batch_op.f('ix_provider_event_delivery'), ['delivery'], unique=False)

    op.create_table('source',
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('url', sa.String(length=2048), nullable=False),
    sa.Column('reader', sa.String(length=20), nullable=True),
    sa.Column('etag', sa.String(length=500), nullable=True),
    sa.Column('last_modified', sa.String(length=100), nullable=True),
    sa.Column('body_hash', sa.String(length=64), nullable=True),
    sa.Column('briefs', sa.Integer(), nullable=True),
    sa.Column('faults', sa.JSON(), nullable=False),
    sa.Column('asked_at', subscribers.db.Instant(), nullable=False),
    sa.Column('succeeded_at', subscribers.db.Instant(), nullable=True),
    sa.Column('failed_at', subscribers.db.Instant(), nullable=True),
    sa.Column('error', sa.String(length=500), nullable=True),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('failures_ever', sa.Integer(), nullable=False),
    sa.Column('not_before', subscribers.db.Instant(), nullable=True),
    sa.Column('wished', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_source'))
    )
    made_anew: Literal['always', 'never'] = 'always' if op.get_bind().dialect.name == 'sqlite' else 'never'
    with op.batch_alter_table('batch', schema=None, recreate=made_anew) as batch_op:
        batch_op.add_column(sa.Column('turn', sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column('suspect_id', sa.Integer(), nullable=True))
        batch_op.create_index(batch_op.f('ix_batch_suspect_id'), ['suspect_id'], unique=False)
        batch_op.create_foreign_key(batch_op.f('fk_batch_suspect_id'), 'batch', ['suspect_id'], ['id'])

    with op.batch_alter_table('brief', schema=None, recreate=made_anew) as batch_op:
        batch_op.add_column(sa.Column('page', sa.String(length=2048), nullable=True))
        batch_op.drop_index(batch_op.f('ix_brief_url'))
        batch_op.create_index(batch_op.f('ix_brief_page'), ['page'], unique=False)

    _say_briefs_anew()


def _say_briefs_anew() -> None:
    """Fill `page`, and make hashes of content anew: they leave out now what is absent.

    The old hash of a revision is that of its stored text, so that a source with an older telling is known by it, too.
    """
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT brief.id, brief.url, brief.revision, brief_revision.number, brief_revision.content FROM brief "
            "JOIN brief_revision ON brief_revision.brief_id = brief.id"
        )
    ).all()
    for brief_id, url, newest, number, content in rows:
        before = hashlib.sha256(content.encode()).hexdigest()
        after = Brief.model_validate_json(content).content_hash
        connection.execute(
            sa.text("UPDATE sighting SET content_hash = :after WHERE brief_id = :id AND content_hash = :before"),
            {"after": after, "id": brief_id, "before": before},
        )
        if number == newest:
            connection.execute(
                sa.text("UPDATE brief SET page = :page, content_hash = :after WHERE id = :id"),
                {"page": page_of(url) if url else None, "after": after, "id": brief_id},
            )
