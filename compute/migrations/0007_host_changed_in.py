"""`Host.changed_in`: which transaction changed what scheduling sees of a host. Why and how: docs/adr/0012."""

from django.db import migrations, models

# What `compute.placement.loader.HOST_COLUMNS` reads. A write of `changed_in` itself counts as a change: an old value
# written back (a model saved whole) would hide a newer change from those who have not looked since.
WATCHED = (
    "name, pool_id, total_vcpus, total_memory_mib, total_disk_gib, reserved_vcpus, reserved_memory_mib, "
    "reserved_disk_gib, used_vcpus, used_memory_mib, used_disk_gib, used_instances, held_vcpus, held_memory_mib, "
    "held_disk_gib, admin_state, observed_state, modes, traits, changed_in"
)

FORWARD = """
CREATE FUNCTION compute_host_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$;
CREATE TRIGGER compute_host_inserted BEFORE INSERT ON compute_host
    FOR EACH ROW EXECUTE FUNCTION compute_host_changed();
CREATE TRIGGER compute_host_updated BEFORE UPDATE ON compute_host
    FOR EACH ROW WHEN ((OLD_ROW) IS DISTINCT FROM (NEW_ROW)) EXECUTE FUNCTION compute_host_changed();

-- The ratios are part of what scheduling sees of each host.
CREATE FUNCTION compute_pool_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE compute_host SET changed_in = -1 WHERE pool_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER compute_pool_updated AFTER UPDATE ON compute_pool FOR EACH ROW
    WHEN ((OLD.vcpu_ratio, OLD.memory_ratio, OLD.disk_ratio) IS DISTINCT FROM
          (NEW.vcpu_ratio, NEW.memory_ratio, NEW.disk_ratio))
    EXECUTE FUNCTION compute_pool_changed();
"""
for row in ("OLD", "NEW"):
    FORWARD = FORWARD.replace(f"{row}_ROW", ", ".join(f"{row}.{column}" for column in WATCHED.split(", ")))

BACKWARD = """
DROP TRIGGER compute_pool_updated ON compute_pool;
DROP FUNCTION compute_pool_changed();
DROP TRIGGER compute_host_updated ON compute_host;
DROP TRIGGER compute_host_inserted ON compute_host;
DROP FUNCTION compute_host_changed();
"""


class Migration(migrations.Migration):
    dependencies = [("compute", "0006_flight_recorder")]

    operations = [
        migrations.AddField(
            model_name="host",
            name="changed_in",
            field=models.BigIntegerField(
                db_index=True,
                default=0,
                editable=False,
                help_text="transaction that changed what scheduling sees; by a trigger",
            ),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
