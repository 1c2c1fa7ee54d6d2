"""The first tables.

Revision ID: 0001
Revises: 
"""

import sqlalchemy as sa
from alembic import op

import subscribers.db


revision = '0001'
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('brief',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('url', sa.String(length=2048), nullable=True),
    sa.Column('headline', sa.String(length=300), nullable=False),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.Column('content_hash', sa.String(length=64), nullable=False),
    sa.Column('first_seen_at', subscribers.db.Instant(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_brief'))
    )
    with op.batch_alter_table('brief', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_brief_content_hash'), ['content_hash'], unique=False)
        batch_op.create_index(batch_op.f('ix_brief_url'), ['url'], unique=False)

    op.create_table('edition',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('slot', sa.String(length=16), nullable=False),
    sa.Column('zone', sa.String(length=64), nullable=False),
    sa.Column('slot_at', subscribers.db.Instant(), nullable=False),
    sa.Column('state', sa.Enum('draft', 'skipped', 'dispatching', 'paused', 'closed', 'cancelled', name='editionstate', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('reason', sa.String(length=500), nullable=True),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.Column('frozen_at', subscribers.db.Instant(), nullable=True),
    sa.Column('closed_at', subscribers.db.Instant(), nullable=True),
    sa.Column('candidates', sa.Integer(), nullable=True),
    sa.Column('lists', sa.JSON(), nullable=False),
    sa.Column('stale_after_s', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_edition')),
    sa.UniqueConstraint('newsletter', 'slot', name=op.f('uq_edition_newsletter_slot'))
    )
    op.create_table('instance',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('instance_id', sa.String(length=32), nullable=False),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.Column('halted_at', subscribers.db.Instant(), nullable=True),
    sa.Column('halted_by', sa.String(length=100), nullable=True),
    sa.Column('halt_reason', sa.String(length=500), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_instance'))
    )
    op.create_table('mailing_list',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('slug', sa.String(length=64), nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_mailing_list')),
    sa.UniqueConstraint('slug', name=op.f('uq_mailing_list_slug'))
    )
    op.create_table('subscriber',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('address', sa.String(length=254), nullable=False),
    sa.Column('key', sa.String(length=320), nullable=False),
    sa.Column('name', sa.String(length=100), nullable=True),
    sa.Column('language', sa.String(length=35), nullable=True),
    sa.Column('zone', sa.String(length=64), nullable=True),
    sa.Column('topics', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('link', sa.String(length=32), nullable=False),
    sa.Column('paused_until', subscribers.db.Instant(), nullable=True),
    sa.Column('created_at', subscribers.db.Instant(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_subscriber')),
    sa.UniqueConstraint('key', name=op.f('uq_subscriber_key')),
    sa.UniqueConstraint('link', name=op.f('uq_subscriber_link'))
    )
    op.create_table('suppression',
    sa.Column('key', sa.String(length=320), nullable=False),
    sa.Column('reason', sa.Enum('hard_bounce', 'complaint', 'operator', 'erased', name='reason', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.Column('note', sa.String(length=500), nullable=True),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_suppression'))
    )
    op.create_table('brief_revision',
    sa.Column('brief_id', sa.Integer(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('seen_at', subscribers.db.Instant(), nullable=False),
    sa.ForeignKeyConstraint(['brief_id'], ['brief.id'], name=op.f('fk_brief_revision_brief_id')),
    sa.PrimaryKeyConstraint('brief_id', 'number', name=op.f('pk_brief_revision'))
    )
    op.create_table('consent_event',
    sa.Column('id', subscribers.db.RowNumber(), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=True),
    sa.Column('list_id', sa.Integer(), nullable=True),
    sa.Column('event', sa.Enum('requested', 'confirmed', 'left', 'suppressed', 'unsuppressed', name='happening', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('actor', sa.String(length=100), nullable=False),
    sa.Column('evidence', sa.String(length=1000), nullable=True),
    sa.ForeignKeyConstraint(['list_id'], ['mailing_list.id'], name=op.f('fk_consent_event_list_id')),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_consent_event_subscriber_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_consent_event'))
    )
    with op.batch_alter_table('consent_event', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_consent_event_subscriber_id'), ['subscriber_id'], unique=False)

    op.create_table('decision',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('newsletter', sa.String(length=30), nullable=False),
    sa.Column('brief_id', sa.Integer(), nullable=False),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.Column('verdict', sa.Enum('taken', 'left', 'carried', name='verdict', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('reason', sa.String(length=300), nullable=True),
    sa.Column('source', sa.String(length=64), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=True),
    sa.Column('final', sa.Boolean(), nullable=False),
    sa.Column('decided_at', subscribers.db.Instant(), nullable=False),
    sa.ForeignKeyConstraint(['brief_id'], ['brief.id'], name=op.f('fk_decision_brief_id')),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_decision_edition_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_decision')),
    sa.UniqueConstraint('newsletter', 'brief_id', 'revision', name=op.f('uq_decision_newsletter_brief_id_revision'))
    )
    with op.batch_alter_table('decision', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_decision_brief_id'), ['brief_id'], unique=False)
        batch_op.create_index('ix_decision_edition_id', ['edition_id'], unique=False)

    op.create_table('message',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('variant', sa.String(length=64), nullable=False),
    sa.Column('revision', sa.Integer(), nullable=False),
    sa.Column('content', sa.Text(), nullable=False),
    sa.Column('digest', sa.String(length=64), nullable=False),
    sa.Column('html_bytes', sa.Integer(), nullable=False),
    sa.Column('briefs', sa.Integer(), nullable=False),
    sa.Column('compiled_at', subscribers.db.Instant(), nullable=False),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_message_edition_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_message')),
    sa.UniqueConstraint('edition_id', 'variant', 'revision', name=op.f('uq_message_edition_id_variant_revision'))
    )
    op.create_table('operator_act',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('at', subscribers.db.Instant(), nullable=False),
    sa.Column('actor', sa.String(length=100), nullable=False),
    sa.Column('act', sa.String(length=40), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=True),
    sa.Column('note', sa.String(length=500), nullable=True),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_operator_act_edition_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_operator_act'))
    )
    op.create_table('sighting',
    sa.Column('source', sa.String(length=64), nullable=False),
    sa.Column('guid', sa.String(length=500), nullable=False),
    sa.Column('brief_id', sa.Integer(), nullable=False),
    sa.Column('content_hash', sa.String(length=64), nullable=False),
    sa.Column('gone_at', subscribers.db.Instant(), nullable=True),
    sa.ForeignKeyConstraint(['brief_id'], ['brief.id'], name=op.f('fk_sighting_brief_id')),
    sa.PrimaryKeyConstraint('source', 'guid', name=op.f('pk_sighting'))
    )
    with op.batch_alter_table('sighting', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_sighting_brief_id'), ['brief_id'], unique=False)

    op.create_table('subscription',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('list_id', sa.Integer(), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=False),
    sa.Column('state', sa.Enum('pending', 'confirmed', 'unsubscribed', 'bounced', 'complained', name='state', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('changed_at', subscribers.db.Instant(), nullable=False),
    sa.ForeignKeyConstraint(['list_id'], ['mailing_list.id'], name=op.f('fk_subscription_list_id')),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_subscription_subscriber_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_subscription')),
    sa.UniqueConstraint('list_id', 'subscriber_id', name=op.f('uq_subscription_list_id_subscriber_id'))
    )
    with op.batch_alter_table('subscription', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_subscription_subscriber_id'), ['subscriber_id'], unique=False)

    op.create_table('batch',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('message_id', sa.Integer(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('parent_id', sa.Integer(), nullable=True),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('due_at', subscribers.db.Instant(), nullable=False),
    sa.Column('promised_at', subscribers.db.Instant(), nullable=False),
    sa.Column('state', sa.Enum('pending', 'claimed', 'calling', 'done', 'unknown', 'cancelled', name='batchstate', native_enum=False, create_constraint=True, length=20), nullable=False),
    sa.Column('epoch', sa.Integer(), nullable=False),
    sa.Column('tries', sa.Integer(), nullable=False),
    sa.Column('owner', sa.String(length=200), nullable=True),
    sa.Column('lease_until', subscribers.db.Instant(), nullable=True),
    sa.Column('attempt', sa.String(length=32), nullable=True),
    sa.Column('provider_id', sa.String(length=200), nullable=True),
    sa.Column('note', sa.String(length=500), nullable=True),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_batch_edition_id')),
    sa.ForeignKeyConstraint(['message_id'], ['message.id'], name=op.f('fk_batch_message_id')),
    sa.ForeignKeyConstraint(['parent_id'], ['batch.id'], name=op.f('fk_batch_parent_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_batch')),
    sa.UniqueConstraint('edition_id', 'number', name=op.f('uq_batch_edition_id_number'))
    )
    with op.batch_alter_table('batch', schema=None) as batch_op:
        batch_op.create_index('ix_batch_state_due_at', ['edition_id', 'state', 'due_at'], unique=False)

    op.create_table('delivery',
    sa.Column('id', subscribers.db.RowNumber(), nullable=False),
    sa.Column('edition_id', sa.Integer(), nullable=False),
    sa.Column('subscriber_id', sa.Integer(), nullable=False),
    sa.Column('batch_id', sa.Integer(), nullable=True),
    sa.Column('outcome', sa.Enum('accepted', 'refused', 'suppressed', 'skipped', 'cancelled', 'unknown', name='outcome', native_enum=False, create_constraint=True, length=20), nullable=True),
    sa.Column('reason', sa.String(length=300), nullable=True),
    sa.Column('fate', sa.Enum('processed', 'delayed', 'delivered', 'bounced', 'complained', name='fate', native_enum=False, create_constraint=True, length=20), nullable=True),
    sa.ForeignKeyConstraint(['batch_id'], ['batch.id'], name=op.f('fk_delivery_batch_id')),
    sa.ForeignKeyConstraint(['edition_id'], ['edition.id'], name=op.f('fk_delivery_edition_id')),
    sa.ForeignKeyConstraint(['subscriber_id'], ['subscriber.id'], name=op.f('fk_delivery_subscriber_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_delivery')),
    sa.UniqueConstraint('edition_id', 'subscriber_id', name=op.f('uq_delivery_edition_id_subscriber_id'))
    )
    with op.batch_alter_table('delivery', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_delivery_batch_id'), ['batch_id'], unique=False)

