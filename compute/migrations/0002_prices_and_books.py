"""The price book, whose past nobody changes; the last check of the books; and a usage segment for what runs already."""

from decimal import Decimal

import django.contrib.postgres.constraints
import django.contrib.postgres.fields.ranges
import django.core.validators
import django.db.models.deletion
import django.db.models.functions.comparison
from django.db import migrations, models

import tenants.models.ids

PRICES_FORWARD = """
CREATE FUNCTION compute_price_keep_past() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.valid_from > now() AND (TG_OP = 'DELETE' OR NEW.valid_from > now()) THEN
        RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_OP = 'UPDATE'
       AND (NEW.id, NEW.resource, NEW.flavor_id, NEW.pool_id, NEW.per_hour, NEW.currency, NEW.valid_from)
           IS NOT DISTINCT FROM
           (OLD.id, OLD.resource, OLD.flavor_id, OLD.pool_id, OLD.per_hour, OLD.currency, OLD.valid_from)
       AND coalesce(OLD.valid_until, 'infinity') >= date_trunc('second', now())
       AND coalesce(NEW.valid_until, 'infinity') >= date_trunc('second', now()) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'prices that have begun are history: they can only be ended, now or later';
END $$;
CREATE TRIGGER price_keep_past BEFORE UPDATE OR DELETE ON compute_price
    FOR EACH ROW EXECUTE FUNCTION compute_price_keep_past();
"""
PRICES_BACKWARD = """
DROP TRIGGER price_keep_past ON compute_price;
DROP FUNCTION compute_price_keep_past();
"""
# Usage begins with the ledger: what ran before is not charged for the time before.
OPEN_SEGMENTS = """
INSERT INTO tenants_usagesegment (id, tenant_id, payers, consumer_type, consumer_id, consumer_name, kind, flavor_id,
                                  flavor_name, pool_id, pool_name, vcpus, memory_mib, disk_gib, held_from, billed_from)
SELECT gen_random_uuid(), i.tenant_id, t.path, 'instance', i.id, i.name, i.kind, i.flavor_id, f.name, i.pool_id, p.name,
       a.vcpus, a.memory_mib, a.disk_gib, date_trunc('second', now()),
       CASE WHEN i.state <> 'building' THEN date_trunc('second', now()) END
FROM compute_allocation a JOIN compute_instance i ON i.id = a.consumer_id
JOIN tenants_tenant t ON t.id = i.tenant_id JOIN compute_flavor f ON f.id = i.flavor_id JOIN compute_pool p ON p.id = i.pool_id
WHERE a.consumer_type = 'instance'
"""


class Migration(migrations.Migration):
    dependencies = [
        ("compute", "0001_initial"),
        ("tenants", "0003_usage_segments"),
    ]

    operations = [
        migrations.CreateModel(
            name="BookCheck",
            fields=[
                ("title", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("position", models.PositiveSmallIntegerField()),
                ("invariant", models.CharField(max_length=8)),
                ("checked_at", models.DateTimeField()),
                ("seconds", models.FloatField()),
                ("violations", models.PositiveIntegerField()),
                ("samples", models.JSONField(default=list)),
            ],
            options={
                "ordering": ["position"],
            },
        ),
        migrations.CreateModel(
            name="Price",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.models.ids.new_id, editable=False, primary_key=True, serialize=False
                    ),
                ),
                (
                    "resource",
                    models.CharField(
                        choices=[
                            ("instance", "instance"),
                            ("vcpu", "vcpu"),
                            ("memory_gib", "memory_gib"),
                            ("disk_gib", "disk_gib"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "per_hour",
                    models.DecimalField(
                        decimal_places=6,
                        max_digits=18,
                        validators=[django.core.validators.MinValueValidator(Decimal("0"))],
                    ),
                ),
                (
                    "currency",
                    models.CharField(max_length=3, validators=[django.core.validators.RegexValidator("^[A-Z]{3}\\Z")]),
                ),
                ("valid_from", models.DateTimeField()),
                ("valid_until", models.DateTimeField(blank=True, null=True)),
                ("set_by", models.CharField(max_length=150)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "flavor",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="compute.flavor",
                    ),
                ),
                (
                    "pool",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="compute.pool",
                    ),
                ),
            ],
            options={
                "ordering": ["resource", "valid_from", "id"],
                "constraints": [
                    django.contrib.postgres.constraints.ExclusionConstraint(
                        expressions=[
                            (models.F("resource"), "="),
                            (
                                django.db.models.functions.comparison.Coalesce(
                                    "flavor",
                                    models.Value(
                                        "00000000-0000-0000-0000-000000000000", output_field=models.UUIDField()
                                    ),
                                ),
                                "=",
                            ),
                            (
                                django.db.models.functions.comparison.Coalesce(
                                    "pool",
                                    models.Value(
                                        "00000000-0000-0000-0000-000000000000", output_field=models.UUIDField()
                                    ),
                                ),
                                "=",
                            ),
                            (
                                models.Func(
                                    models.F("valid_from"),
                                    models.F("valid_until"),
                                    function="tstzrange",
                                    output_field=django.contrib.postgres.fields.ranges.DateTimeRangeField(),
                                ),
                                "&&",
                            ),
                        ],
                        name="price_never_overlaps",
                    ),
                    django.contrib.postgres.constraints.ExclusionConstraint(
                        expressions=[(models.F("currency"), "<>")], name="price_one_currency"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("resource__in", ("instance", "vcpu", "memory_gib", "disk_gib"))),
                        name="price_resource_known",
                    ),
                    models.CheckConstraint(condition=models.Q(("per_hour__gte", 0)), name="price_not_negative"),
                    models.CheckConstraint(
                        condition=models.Q(("currency__regex", "^[A-Z]{3}$")), name="price_currency_is_a_code"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("valid_until__isnull", True), ("valid_until__gt", models.F("valid_from")), _connector="OR"
                        ),
                        name="price_valid_forwards",
                    ),
                ],
            },
        ),
        migrations.RunSQL(PRICES_FORWARD, PRICES_BACKWARD),
        migrations.RunSQL(OPEN_SEGMENTS, migrations.RunSQL.noop),
    ]
