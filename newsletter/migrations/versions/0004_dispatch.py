"""Dispatch whole: batches as ranges, attempts, pace and spending, folded editions, fates that tell blocks and drops.

Revision ID: 0004
Revises: 0003
"""

import hashlib

import sqlalchemy as sa
from alembic import op

import subscribers.db


revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

_OUTCOME = sa.Enum('accepted', 'refused', 'suppressed', 'skipped', 'cancelled', 'unknown', name='outcome', native_enum=False, create_constraint=True, length=20)
_FATE = sa.Enum('processed', 'delayed', 'delivered', 'rejected', 'blocked', 'dropped', 'bounced', 'complained', name='fate', native_enum=False, create_constraint=True, length=20)
_BIG = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')


def upgrade() -> None:
    op.create_table('attempt',
    sa.Column('id', sa.String(length=32), nullable=False),
    sa.Column('batch_id', sa.Integer(), nullable=False),
    sa.Column('called_at', subscribers.db.Instant(), nullable=False),
    sa.ForeignKeyConstraint(['batch_id'], ['batch.id'], name=op.f('fk_attempt_batch_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_attempt'))
    )
    op.create_index(op.f('ix_attempt_batch_id'), 'attempt', ['batch_id'])
    op.create_table('folded_deliveries',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('outcome', _OUTCOME, nullable=False),
    sa.Column('reason', sa.String(length=300), nullable=True),
    sa.Column('fate', _FATE, nullable=True),
    sa.Column('first_subscriber', sa.Integer(), nullable=False),
    sa.Column('last_subscriber', sa.Integer(), nullable=False),
    sa.Column('count', sa.Integer(), nullable=False),
    sa.Column('subscribers', sa.LargeBinary(), nullable=False),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_folded_deliveries_edition_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_folded_deliveries'))
    )
    op.create_index('ix_folded_deliveries_edition_id', 'folded_deliveries', ['edition_id', 'first_subscriber'])
    op.create_table('pace',
    sa.Column('provider', sa.String(length=30), nullable=False),
    sa.Column('calls', sa.Integer(), nullable=False),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('unanswered', sa.Integer(), nullable=False),
    sa.Column('not_before', subscribers.db.Instant(), nullable=True),
    sa.Column('free_at', subscribers.db.Instant(), nullable=True),
    sa.Column('waiting', sa.JSON(), nullable=True),
    sa.Column('note', sa.String(length=500), nullable=True),
    sa.PrimaryKeyConstraint('provider', name=op.f('pk_pace'))
    )
    op.create_table('spending',
    sa.Column('provider', sa.String(length=30), nullable=False),
    sa.Column('domain', sa.String(length=253), nullable=False),
    sa.Column('minute', sa.Integer(), nullable=False),
    sa.Column('recipients', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('provider', 'domain', 'minute', name=op.f('pk_spending'))
    )
    op.drop_index(op.f('ix_provider_event_delivery'), 'provider_event')
    alone = sa.text('attempt IS NULL')
    op.create_index('ix_provider_event_delivery', 'provider_event', ['delivery'], sqlite_where=alone, postgresql_where=alone)
    op.create_table('sync',
    sa.Column('provider', sa.String(length=30), nullable=False),
    sa.Column('through', subscribers.db.Instant(), nullable=False),
    sa.PrimaryKeyConstraint('provider', name=op.f('pk_sync'))
    )
    with op.batch_alter_table('batch', schema=None, recreate='always' if _sqlite() else 'never') as batch_op:
        batch_op.add_column(sa.Column('first_id', _BIG, nullable=True))
        batch_op.add_column(sa.Column('last_id', _BIG, nullable=True))
        batch_op.add_column(sa.Column('wave', sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column('called_at', subscribers.db.Instant(), nullable=True))
        batch_op.add_column(sa.Column('done_at', subscribers.db.Instant(), nullable=True))
        batch_op.add_column(sa.Column('held_until', subscribers.db.Instant(), nullable=True))
        batch_op.add_column(sa.Column('answered_to', _BIG, nullable=True))
        batch_op.add_column(sa.Column('given_up_at', subscribers.db.Instant(), nullable=True))
        batch_op.add_column(sa.Column('resent_at', subscribers.db.Instant(), nullable=True))
        batch_op.add_column(sa.Column('asked_at', subscribers.db.Instant(), nullable=True))

    op.drop_index('ix_batch_state_due_at', 'batch')
    op.create_index('ix_batch_next', 'batch', ['edition_id', 'state', 'due_at', 'number'])
    op.create_index('ix_batch_promised', 'batch', ['edition_id', 'state', 'promised_at'])
    op.create_index('ix_batch_turn', 'batch', ['edition_id', 'turn'])
    op.create_index('ix_batch_first_id', 'batch', ['edition_id', 'first_id'])
    held = sa.text("state IN ('claimed', 'calling')")
    op.create_index('ix_batch_held', 'batch', ['state'], sqlite_where=held, postgresql_where=held)
    for column in (
        sa.Column('tag', sa.String(length=16), nullable=True), sa.Column('paused_by', sa.String(length=100), nullable=True),
        sa.Column('recall_id', sa.String(length=100), nullable=True), sa.Column('folded_at', subscribers.db.Instant(), nullable=True),
    ):
        op.add_column('edition', column)
    _name_editions()
    if _sqlite():
        _remake_on_sqlite()
    else:
        op.alter_column('edition', 'tag', nullable=False)
        op.create_unique_constraint(op.f('uq_edition_tag'), 'edition', ['tag'])
        op.alter_column('delivery', 'id', type_=sa.BigInteger())
        op.execute('ALTER SEQUENCE delivery_id_seq AS bigint')  # which a column's type does not change
        op.drop_index(op.f('ix_delivery_batch_id'), 'delivery')
        op.drop_constraint(op.f('ck_delivery_outcome'), 'delivery')
        op.create_check_constraint(op.f('ck_delivery_outcome'), 'delivery', "outcome IS NULL OR outcome IN ('accepted', 'refused', 'suppressed', 'skipped', 'cancelled', 'unknown')")
        op.drop_constraint(op.f('ck_delivery_fate'), 'delivery')
        op.create_check_constraint(op.f('ck_delivery_fate'), 'delivery', "fate IS NULL OR fate IN ('processed', 'delayed', 'delivered', 'rejected', 'blocked', 'dropped', 'bounced', 'complained')")
    made, unknown = sa.text('batch_id IS NOT NULL'), sa.text("outcome = 'unknown'")
    op.create_index('ix_delivery_batch_id', 'delivery', ['batch_id'], sqlite_where=made, postgresql_where=made)
    op.create_index('ix_delivery_unknown', 'delivery', ['edition_id'], sqlite_where=unknown, postgresql_where=unknown)


def _sqlite() -> bool:
    return op.get_bind().dialect.name == 'sqlite'


def _name_editions() -> None:
    """Give each edition the tag that its deliveries' names are made with."""
    connection = op.get_bind()
    for edition_id, newsletter, slot in connection.execute(sa.text('SELECT id, newsletter, slot FROM edition')).all():
        connection.execute(
            sa.text('UPDATE edition SET tag = :tag WHERE id = :id'),
            {'tag': hashlib.sha256(f'{newsletter}:{slot}'.encode()).hexdigest()[:16], 'id': edition_id},
        )


def _remake_on_sqlite() -> None:
    """Two tables are made anew by hand: batch mode loses the CHECKs that it did not write."""
    op.create_table('edition_new',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('slot', sa.String(length=16), nullable=False),
    sa.Column('zone', sa.String(length=64), nullable=False),
    sa.Column('slot_at', subscribers.db.Instant(), nullable=False),
    sa.Column('state', sa.String(length=20), nullable=False),
    sa.Column('reason', sa.String(length=500), nullable=True),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.Column('frozen_at', subscribers.db.Instant(), nullable=True),
    sa.Column('closed_at', subscribers.db.Instant(), nullable=True),
    sa.Column('candidates', sa.Integer(), nullable=True),
    sa.Column('lists', sa.JSON(), nullable=False),
    sa.Column('stale_after_s', sa.Integer(), nullable=False),
    sa.Column('tag', sa.String(length=16), nullable=False),
    sa.Column('paused_by', sa.String(length=100), nullable=True),
    sa.Column('recall_id', sa.String(length=100), nullable=True),
    sa.Column('folded_at', subscribers.db.Instant(), nullable=True),
    sa.CheckConstraint("state IN ('draft', 'skipped', 'dispatching', 'paused', 'closed', 'cancelled')", name=op.f('ck_edition_editionstate')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_edition')),
    sa.UniqueConstraint('newsletter', 'slot', name=op.f('uq_edition_newsletter_slot')),
    sa.UniqueConstraint('tag', name=op.f('uq_edition_tag'))
    )
    columns = 'id, newsletter, slot, zone, slot_at, state, reason, created_at, frozen_at, closed_at, candidates, lists, stale_after_s, tag'
    op.execute(f'INSERT INTO edition_new ({columns}) SELECT {columns} FROM edition')
    op.drop_table('edition')
    op.rename_table('edition_new', 'edition')
    op.create_table('delivery_new',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=False),
    sa.Column('batch_id', sa.Integer(), nullable=True),
    sa.Column('outcome', sa.String(length=20), nullable=True),
    sa.Column('reason', sa.String(length=300), nullable=True),
    sa.Column('fate', sa.String(length=20), nullable=True),
    sa.ForeignKeyConstraint(['batch_id'], ['batch.id'], name=op.f('fk_delivery_batch_id')),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_delivery_edition_id')),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_delivery_subscriber_id')),
    sa.CheckConstraint("outcome IS NULL OR outcome IN ('accepted', 'refused', 'suppressed', 'skipped', 'cancelled', 'unknown')", name=op.f('ck_delivery_outcome')),
    sa.CheckConstraint("fate IS NULL OR fate IN ('processed', 'delayed', 'delivered', 'rejected', 'blocked', 'dropped', 'bounced', 'complained')", name=op.f('ck_delivery_fate')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_delivery')),
    sa.UniqueConstraint('edition_id', 'subscriber_id', name=op.f('uq_delivery_edition_id_subscriber_id'))
    )
    columns = 'id, edition_id, subscriber_id, batch_id, outcome, reason, fate'
    op.execute(f'INSERT INTO delivery_new ({columns}) SELECT {columns} FROM delivery')
    op.drop_table('delivery')
    op.rename_table('delivery_new', 'delivery')
