"""The clock: planned and held editions, approval, slots beside the schedule, chores, alarms, notices to the desk.

Revision ID: 0005
Revises: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

import subscribers.db


revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

_INSTANT = subscribers.db.Instant
_STATES = "state IN ('planned', 'draft', 'held', 'skipped', 'dispatching', 'paused', 'closed', 'cancelled')"


def _choice(name: str, *words: str) -> sa.Enum:
    return sa.Enum(*words, name=name, native_enum=False, create_constraint=True, length=20)


def upgrade() -> None:
    if _sqlite():
        _remake_editions()
    else:
        for column in _clock_columns():
            op.add_column('edition', column)
        op.alter_column('edition', 'failures', server_default=None)
        op.create_check_constraint(op.f('ck_edition_approval'), 'edition', "approval IN ('waiting', 'given')")
        op.drop_constraint(op.f('ck_edition_editionstate'), 'edition')
        op.create_check_constraint(op.f('ck_edition_editionstate'), 'edition', _STATES)
    # What is over has been told, or nobody asked to be told.
    op.execute("UPDATE edition SET told = state WHERE state IN ('closed', 'skipped', 'cancelled')")
    op.create_index('ix_edition_newsletter_slot_at', 'edition', ['newsletter', 'slot_at'])
    minded = sa.text('next_at IS NOT NULL')
    op.create_index('ix_edition_next_at', 'edition', ['next_at'], sqlite_where=minded, postgresql_where=minded)
    going, untold = sa.text("state = 'dispatching'"), sa.text('told IS NULL OR told <> state')
    op.create_index('ix_edition_dispatching', 'edition', ['state'], sqlite_where=going, postgresql_where=going)
    op.create_index('ix_edition_untold', 'edition', ['state'], sqlite_where=untold, postgresql_where=untold)
    open_ = sa.text("state IN ('planned', 'draft', 'held', 'dispatching', 'paused')")
    op.create_index('ix_edition_open', 'edition', ['slot_at'], sqlite_where=open_, postgresql_where=open_)
    done = sa.text('done_at IS NOT NULL')
    op.create_index('ix_batch_done_at', 'batch', ['done_at'], sqlite_where=done, postgresql_where=done)
    for table, columns in {
        'instance': (
            sa.Column('place', sa.String(length=1000), nullable=True), sa.Column('reload_at', _INSTANT(), nullable=True),
        ),
        'brief': (
            sa.Column('pulled_at', _INSTANT(), nullable=True), sa.Column('pulled_by', sa.String(length=100), nullable=True),
            sa.Column('pull_reason', sa.String(length=300), nullable=True),
        ),
    }.items():
        with op.batch_alter_table(table, recreate='always' if _sqlite() else 'never') as batch_op:
            for column in columns:
                batch_op.add_column(column)
    bad, unknown = sa.text("fate IN ('bounced', 'complained')"), sa.text("state = 'unknown'")
    op.create_index('ix_delivery_bad', 'delivery', ['edition_id', 'fate'], sqlite_where=bad, postgresql_where=bad)
    op.create_index('ix_batch_unknown', 'batch', ['edition_id'], sqlite_where=unknown, postgresql_where=unknown)
    op.create_index('ix_brief_revision_seen_at', 'brief_revision', ['seen_at'])
    op.create_table('wave_zone',
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('zone', sa.String(length=64), nullable=False),
    sa.Column('wave', sa.Integer(), nullable=False),
    sa.Column('due_at', _INSTANT(), nullable=False),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_wave_zone_edition_id')),
    sa.PrimaryKeyConstraint('edition_id', 'zone', name=op.f('pk_wave_zone'))
    )
    op.create_table('watch',
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('since', _INSTANT(), nullable=False),
    sa.Column('schedule', sa.Text(), nullable=False),
    sa.Column('schedule_since', _INSTANT(), nullable=False),
    sa.Column('seen_at', _INSTANT(), nullable=False),
    sa.PrimaryKeyConstraint('newsletter', name=op.f('pk_watch'))
    )
    op.create_table('extra_slot',
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('slot', sa.String(length=16), nullable=False),
    sa.Column('zone', sa.String(length=64), nullable=False),
    sa.Column('slot_at', _INSTANT(), nullable=False),
    sa.Column('added_at', _INSTANT(), nullable=False),
    sa.Column('added_by', sa.String(length=100), nullable=False),
    sa.PrimaryKeyConstraint('newsletter', 'slot', name=op.f('pk_extra_slot'))
    )
    op.create_table('chore',
    sa.Column('name', sa.String(length=30), nullable=False),
    sa.Column('due_at', _INSTANT(), nullable=False),
    sa.Column('owner', sa.String(length=200), nullable=True),
    sa.Column('lease_until', _INSTANT(), nullable=True),
    sa.Column('began_at', _INSTANT(), nullable=True),
    sa.Column('succeeded_at', _INSTANT(), nullable=True),
    sa.Column('failed_at', _INSTANT(), nullable=True),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('said', sa.String(length=500), nullable=True),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_chore'))
    )
    op.create_table('alarm',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('key', sa.String(length=200), nullable=False),
    sa.Column('what', sa.String(length=500), nullable=False),
    sa.Column('since', _INSTANT(), nullable=False),
    sa.Column('over_at', _INSTANT(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alarm'))
    )
    open_ones = sa.text('over_at IS NULL')
    op.create_index('ix_alarm_key', 'alarm', ['key'], unique=True, sqlite_where=open_ones, postgresql_where=open_ones)
    op.create_table('desk_notice',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('key', sa.String(length=200), nullable=False),
    sa.Column('channel', _choice('channel', 'mail', 'hook'), nullable=False),
    sa.Column('kind', _choice('deskkind', 'proof', 'report', 'alert'), nullable=False),
    sa.Column('newsletter', sa.String(length=30), nullable=True),
    sa.Column('edition_id', sa.Integer(), nullable=True),
    sa.Column('message_id', sa.Integer(), nullable=True),
    sa.Column('subject', sa.String(length=300), nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('created_at', _INSTANT(), nullable=False),
    sa.Column('due_at', _INSTANT(), nullable=False),
    sa.Column('state', _choice('noticestate', 'pending', 'calling', 'done', 'refused', 'dropped'), nullable=False),
    sa.Column('tries', sa.Integer(), nullable=False),
    sa.Column('lease_until', _INSTANT(), nullable=True),
    sa.Column('attempt', sa.String(length=32), nullable=True),
    sa.Column('note', sa.String(length=500), nullable=True),
    sa.Column('done_at', _INSTANT(), nullable=True),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_desk_notice_edition_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_desk_notice')),
    sa.UniqueConstraint('key', 'channel', name=op.f('uq_desk_notice_key_channel'))
    )
    op.create_index('ix_desk_notice_state_due_at', 'desk_notice', ['state', 'due_at'])
    op.create_table('clock_process',
    sa.Column('owner', sa.String(length=200), nullable=False),
    sa.Column('started_at', _INSTANT(), nullable=False),
    sa.Column('seen_at', _INSTANT(), nullable=False),
    sa.Column('loaded_at', _INSTANT(), nullable=False),
    sa.Column('configuration', sa.String(length=16), nullable=False),
    sa.Column('fault', sa.String(length=500), nullable=True),
    sa.PrimaryKeyConstraint('owner', name=op.f('pk_clock_process'))
    )


def _sqlite() -> bool:
    return op.get_bind().dialect.name == 'sqlite'


def _clock_columns() -> "list[sa.Column[Any]]":
    return [
        sa.Column('next_at', _INSTANT(), nullable=True),
        sa.Column('attendant', sa.String(length=200), nullable=True),
        sa.Column('attended_until', _INSTANT(), nullable=True),
        sa.Column('failures', sa.Integer(), nullable=False, server_default='0'),
        sa.Column('approval', sa.String(length=20), nullable=True),
        sa.Column('approve_by', _INSTANT(), nullable=True),
        sa.Column('approved_by', sa.String(length=100), nullable=True),
        sa.Column('approved_at', _INSTANT(), nullable=True),
        sa.Column('consented_by', sa.String(length=100), nullable=True),
        sa.Column('told', sa.String(length=20), nullable=True),
    ]


def _remake_editions() -> None:
    """The table is made anew by hand: batch mode loses the CHECKs that it did not write."""
    failures = sa.Column('failures', sa.Integer(), nullable=False)
    op.create_table('edition_new',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('slot', sa.String(length=16), nullable=False),
    sa.Column('zone', sa.String(length=64), nullable=False),
    sa.Column('slot_at', _INSTANT(), nullable=False),
    sa.Column('state', sa.String(length=20), nullable=False),
    sa.Column('reason', sa.String(length=500), nullable=True),
    sa.Column('created_at', _INSTANT(), nullable=False),
    sa.Column('frozen_at', _INSTANT(), nullable=True),
    sa.Column('closed_at', _INSTANT(), nullable=True),
    sa.Column('candidates', sa.Integer(), nullable=True),
    sa.Column('lists', sa.JSON(), nullable=False),
    sa.Column('stale_after_s', sa.Integer(), nullable=False),
    sa.Column('tag', sa.String(length=16), nullable=False),
    sa.Column('paused_by', sa.String(length=100), nullable=True),
    sa.Column('recall_id', sa.String(length=100), nullable=True),
    sa.Column('folded_at', _INSTANT(), nullable=True),
    *(failures if column.name == 'failures' else column for column in _clock_columns()),
    sa.CheckConstraint(_STATES, name=op.f('ck_edition_editionstate')),
    sa.CheckConstraint("approval IN ('waiting', 'given')", name=op.f('ck_edition_approval')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_edition')),
    sa.UniqueConstraint('newsletter', 'slot', name=op.f('uq_edition_newsletter_slot')),
    sa.UniqueConstraint('tag', name=op.f('uq_edition_tag'))
    )
    columns = (
        'id, newsletter, slot, zone, slot_at, state, reason, created_at, frozen_at, closed_at, candidates, lists, '
        'stale_after_s, tag, paused_by, recall_id, folded_at'
    )
    op.execute(f'INSERT INTO edition_new ({columns}, failures) SELECT {columns}, 0 FROM edition')
    op.drop_table('edition')
    op.rename_table('edition_new', 'edition')
