"""The usage ledger. Segments of one consumer cannot overlap: an exclusion constraint, which needs btree_gist."""

import django.contrib.postgres.constraints
import django.contrib.postgres.fields
import django.contrib.postgres.fields.ranges
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.comparison
import django.db.models.manager
from django.contrib.postgres.operations import BtreeGistExtension
from django.db import migrations, models

import tenants.models.ids


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0002_paths_and_append_only_audit"),
    ]

    operations = [
        # A trusted extension: the role that owns the database may make it, also on restore.
        BtreeGistExtension(),
        migrations.CreateModel(
            name="UsageSegment",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.models.ids.new_id, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("payers", django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), size=None)),
                ("consumer_type", models.CharField(max_length=16)),
                ("consumer_id", models.UUIDField()),
                ("consumer_name", models.CharField(max_length=255)),
                ("kind", models.CharField(help_text="vm, container", max_length=16)),
                ("flavor_id", models.UUIDField()),
                ("flavor_name", models.CharField(max_length=63)),
                ("pool_id", models.UUIDField()),
                ("pool_name", models.CharField(max_length=63)),
                ("vcpus", models.PositiveIntegerField()),
                ("memory_mib", models.PositiveIntegerField()),
                ("disk_gib", models.PositiveIntegerField()),
                ("held_from", models.DateTimeField()),
                ("billed_from", models.DateTimeField(blank=True, null=True)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                (
                    "tenant",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="tenants.tenant",
                    ),
                ),
            ],
            options={
                "abstract": False,
                "base_manager_name": "unscoped",
                "indexes": [
                    django.contrib.postgres.indexes.GinIndex(fields=["payers"], name="usage_payers"),
                    models.Index(fields=["ended_at"], name="usage_ended"),
                ],
                "constraints": [
                    django.contrib.postgres.constraints.ExclusionConstraint(
                        expressions=[
                            (models.F("consumer_id"), "="),
                            (
                                models.Func(
                                    models.F("held_from"),
                                    models.F("ended_at"),
                                    function="tstzrange",
                                    output_field=django.contrib.postgres.fields.ranges.DateTimeRangeField(),
                                ),
                                "&&",
                            ),
                        ],
                        name="usage_never_overlaps",
                    ),
                    models.UniqueConstraint(
                        condition=models.Q(("ended_at__isnull", True)),
                        fields=("consumer_id",),
                        name="usage_one_open_per_consumer",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("billed_from__isnull", True), ("billed_from__gte", models.F("held_from")), _connector="OR"
                        ),
                        name="usage_billed_after_held",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("ended_at__isnull", True),
                            (
                                "ended_at__gte",
                                django.db.models.functions.comparison.Coalesce("billed_from", "held_from"),
                            ),
                            _connector="OR",
                        ),
                        name="usage_ended_after_begun",
                    ),
                ],
            },
            managers=[
                ("objects", django.db.models.manager.Manager()),
                ("unscoped", django.db.models.manager.Manager()),
            ],
        ),
    ]
