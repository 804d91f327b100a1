"""What a flavor may ask of processors, and `Host.facts` among what scheduling sees of a host (see 0007)."""

import django.contrib.postgres.fields
from django.db import migrations, models

BEFORE = (
    "name, pool_id, total_vcpus, total_memory_mib, total_disk_gib, reserved_vcpus, reserved_memory_mib, "
    "reserved_disk_gib, used_vcpus, used_memory_mib, used_disk_gib, used_instances, held_vcpus, held_memory_mib, "
    "held_disk_gib, admin_state, observed_state, modes, traits, changed_in"
)
WATCHED = BEFORE + ", facts"

TRIGGER = """
DROP TRIGGER compute_host_updated ON compute_host;
CREATE TRIGGER compute_host_updated BEFORE UPDATE ON compute_host
    FOR EACH ROW WHEN ((OLD_ROW) IS DISTINCT FROM (NEW_ROW)) EXECUTE FUNCTION compute_host_changed();
"""


def trigger(columns: str) -> str:
    sql = TRIGGER
    for row in ("OLD", "NEW"):
        sql = sql.replace(f"{row}_ROW", ", ".join(f"{row}.{column}" for column in columns.split(", ")))
    return sql


class Migration(migrations.Migration):
    dependencies = [("compute", "0008_list_indexes")]

    operations = [
        migrations.AddField(
            model_name="flavor",
            name="cpu_model",
            field=models.CharField(
                blank=True,
                help_text="libvirt's name of the processor that its VMs get; blank: the pool's",
                max_length=63,
            ),
        ),
        migrations.AddField(
            model_name="flavor",
            name="cpu_flags",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=63),
                blank=True,
                default=list,
                help_text="what that processor must have beyond its model",
                size=None,
            ),
        ),
        migrations.RunSQL(trigger(WATCHED), trigger(BEFORE)),
    ]
