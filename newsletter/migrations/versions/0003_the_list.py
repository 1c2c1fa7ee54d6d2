"""The list that can be audited: consent statements and ways, requests, notices, changes of address, described lists.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

import subscribers.db


revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('consent_statement',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('hash', sa.String(length=64), nullable=False),
    sa.Column('text', sa.Text(), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_consent_statement')),
    sa.UniqueConstraint('hash', name=op.f('uq_consent_statement_hash'))
    )
    op.create_table('address_change',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=False),
    sa.Column('address', sa.String(length=254), nullable=False),
    sa.Column('key', sa.String(length=320), nullable=False),
    sa.Column('asked_at', subscribers.db.Instant(), nullable=False),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_address_change_subscriber_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_address_change'))
    )
    with op.batch_alter_table('address_change', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_address_change_subscriber_id'), ['subscriber_id'], unique=False)

    op.create_table('notice',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('kind', sa.Enum('confirm', 'already', 'link', 'change', 'changed', 'welcome', name='noticekind', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=False),
    sa.Column('about_id', sa.Integer(), nullable=False),
    sa.Column('address', sa.String(length=254), nullable=True),
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('list_slug', sa.String(length=64), nullable=True),
    sa.Column('language', sa.String(length=35), nullable=True),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.Column('due_at', subscribers.db.Instant(), nullable=False),
    sa.Column('state', sa.Enum('pending', 'calling', 'done', 'refused', 'dropped', name='noticestate', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('tries', sa.Integer(), nullable=False),
    sa.Column('lease_until', subscribers.db.Instant(), nullable=True),
    sa.Column('attempt', sa.String(length=32), nullable=True),
    sa.Column('provider_id', sa.String(length=200), nullable=True),
    sa.Column('note', sa.String(length=500), nullable=True),
    sa.Column('done_at', subscribers.db.Instant(), nullable=True),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_notice_subscriber_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_notice'))
    )
    with op.batch_alter_table('notice', schema=None) as batch_op:
        batch_op.create_index('ix_notice_state_due_at', ['state', 'due_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_notice_subscriber_id'), ['subscriber_id'], unique=False)

    op.create_table('request',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.Column('wish', sa.Enum('join', 'link', 'change', name='wish', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('address', sa.String(length=254), nullable=False),
    sa.Column('key', sa.String(length=320), nullable=False),
    sa.Column('mailbox', sa.String(length=320), nullable=False),
    sa.Column('domain', sa.String(length=255), nullable=False),
    sa.Column('lists', sa.JSON(), nullable=False),
    sa.Column('name', sa.String(length=100), nullable=True),
    sa.Column('language', sa.String(length=35), nullable=True),
    sa.Column('form', sa.String(length=200), nullable=True),
    sa.Column('statement_id', sa.Integer(), nullable=True),
    sa.Column('ip', sa.String(length=45), nullable=True),
    sa.Column('agent', sa.String(length=300), nullable=True),
    sa.Column('counts', sa.Boolean(), nullable=False),
    sa.Column('settled_at', subscribers.db.Instant(), nullable=True),
    sa.Column('subscriber_id', sa.Integer(), nullable=True),
    sa.ForeignKeyConstraint(['statement_id'], ['consent_statement.id'], name=op.f('fk_request_statement_id')),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_request_subscriber_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_request'))
    )
    with op.batch_alter_table('request', schema=None) as batch_op:
        batch_op.create_index('ix_request_domain_at', ['domain', 'at'], unique=False)
        batch_op.create_index('ix_request_ip_at', ['ip', 'at'], unique=False)
        batch_op.create_index(batch_op.f('ix_request_key'), ['key'], unique=False)
        batch_op.create_index('ix_request_mailbox_at', ['mailbox', 'at'], unique=False)
        batch_op.create_index(batch_op.f('ix_request_settled_at'), ['settled_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_request_subscriber_id'), ['subscriber_id'], unique=False)

    if op.get_bind().dialect.name == 'sqlite':
        _make_anew()
    else:
        _alter()


HAPPENINGS = "event IN ('requested', 'confirmed', 'expired', 'left', 'restored', 'paused', 'resumed', 'narrowed', 'changed', 'bounced', 'complained', 'suppressed', 'unsuppressed', 'erased')"
WAYS = "way IN ('form', 'link', 'header_post', 'page', 'mail', 'provider', 'operator', 'import', 'clock')"


def _make_anew() -> None:
    """For SQLite."""
    # Two tables are made anew by hand: batch mode loses a CHECK that it did not write, and cannot fill a new column.
    op.create_table('mailing_list_new',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('slug', sa.String(length=64), nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('description', sa.String(length=1000), nullable=False),
    sa.Column('public', sa.Boolean(), nullable=False),
    sa.Column('opt_in', sa.String(length=20), nullable=False),
    sa.Column('welcome', sa.Boolean(), nullable=False),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.CheckConstraint("opt_in IN ('double', 'single')", name=op.f('ck_mailing_list_optin')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_mailing_list')),
    sa.UniqueConstraint('slug', name=op.f('uq_mailing_list_slug'))
    )
    op.execute(
        "INSERT INTO mailing_list_new (id, slug, name, description, public, opt_in, welcome, created_at) "
        "SELECT id, slug, name, '', 1, 'double', 0, created_at FROM mailing_list"
    )
    op.drop_table('mailing_list')
    op.rename_table('mailing_list_new', 'mailing_list')

    op.create_table('consent_event_new',
    sa.Column('id', subscribers.db.RowNumber(), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=True),
    sa.Column('list_id', sa.Integer(), nullable=True),
    sa.Column('event', sa.String(length=20), nullable=False),
    sa.Column('actor', sa.String(length=100), nullable=False),
    sa.Column('way', sa.String(length=20), nullable=True),
    sa.Column('form', sa.String(length=200), nullable=True),
    sa.Column('statement_id', sa.Integer(), nullable=True),
    sa.Column('evidence', sa.String(length=1000), nullable=True),
    sa.Column('ip', sa.String(length=45), nullable=True),
    sa.Column('agent', sa.String(length=300), nullable=True),
    sa.Column('before', sa.JSON(none_as_null=True), nullable=True),
    sa.ForeignKeyConstraint(['list_id'], ['mailing_list.id'], name=op.f('fk_consent_event_list_id')),
    sa.ForeignKeyConstraint(['statement_id'], ['consent_statement.id'], name=op.f('fk_consent_event_statement_id')),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_consent_event_subscriber_id'), ondelete='SET NULL'),
    sa.CheckConstraint(HAPPENINGS, name=op.f('ck_consent_event_happening')),
    sa.CheckConstraint(WAYS, name=op.f('ck_consent_event_way')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_consent_event'))
    )
    op.execute(
        "INSERT INTO consent_event_new (id, at, subscriber_id, list_id, event, actor, evidence) "
        "SELECT id, at, subscriber_id, list_id, event, actor, evidence FROM consent_event"
    )
    op.drop_table('consent_event')
    op.rename_table('consent_event_new', 'consent_event')
    with op.batch_alter_table('consent_event', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_consent_event_subscriber_id'), ['subscriber_id'], unique=False)

    with op.batch_alter_table('subscriber', schema=None, recreate='always') as batch_op:
        batch_op.add_column(sa.Column('erased_at', subscribers.db.Instant(), nullable=True))


def _alter() -> None:
    """For databases that can change a table where it stands."""
    old = {'description': '', 'public': 'true', 'opt_in': 'double', 'welcome': 'false'}  # what the lists that there are get
    op.add_column('mailing_list', sa.Column('description', sa.String(length=1000), nullable=False, server_default=old['description']))
    op.add_column('mailing_list', sa.Column('public', sa.Boolean(), nullable=False, server_default=old['public']))
    op.add_column('mailing_list', sa.Column('opt_in', sa.String(length=20), nullable=False, server_default=old['opt_in']))
    op.add_column('mailing_list', sa.Column('welcome', sa.Boolean(), nullable=False, server_default=old['welcome']))
    for name in old:
        op.alter_column('mailing_list', name, server_default=None)
    op.create_check_constraint(op.f('ck_mailing_list_optin'), 'mailing_list', "opt_in IN ('double', 'single')")

    op.add_column('consent_event', sa.Column('way', sa.String(length=20), nullable=True))
    op.add_column('consent_event', sa.Column('form', sa.String(length=200), nullable=True))
    op.add_column('consent_event', sa.Column('statement_id', sa.Integer(), nullable=True))
    op.add_column('consent_event', sa.Column('ip', sa.String(length=45), nullable=True))
    op.add_column('consent_event', sa.Column('agent', sa.String(length=300), nullable=True))
    op.add_column('consent_event', sa.Column('before', sa.JSON(none_as_null=True), nullable=True))
    op.create_foreign_key(op.f('fk_consent_event_statement_id'), 'consent_event', 'consent_statement', ['statement_id'], ['id'])
    op.drop_constraint(op.f('ck_consent_event_happening'), 'consent_event', type_='check')
    op.create_check_constraint(op.f('ck_consent_event_happening'), 'consent_event', HAPPENINGS)
    op.create_check_constraint(op.f('ck_consent_event_way'), 'consent_event', WAYS)
    op.add_column('subscriber', sa.Column('erased_at', subscribers.db.Instant(), nullable=True))
