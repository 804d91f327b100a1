"""CPUs of one's own, huge pages and NUMA cells: what flavors ask, what allocations hold, what hosts have left of it."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import F, Q

BEFORE = (
    "name, pool_id, total_vcpus, total_memory_mib, total_disk_gib, reserved_vcpus, reserved_memory_mib, "
    "reserved_disk_gib, used_vcpus, used_memory_mib, used_disk_gib, used_instances, held_vcpus, held_memory_mib, "
    "held_disk_gib, admin_state, observed_state, modes, traits, changed_in, facts"
)
WATCHED = BEFORE + ", numa_used"

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
    dependencies = [("compute", "0010_reconciler_indexes")]

    operations = [
        migrations.AddField(
            model_name="flavor",
            name="numa_nodes",
            field=models.PositiveSmallIntegerField(
                default=0, help_text="over how many NUMA cells it is spread, evenly; 0: wherever the host likes"
            ),
        ),
        migrations.AddField(
            model_name="flavor",
            name="hugepages_kib",
            field=models.PositiveIntegerField(default=0, help_text="size of the pages of its memory; 0: ordinary ones"),
        ),
        migrations.AddField(
            model_name="flavor",
            name="pinned",
            field=models.BooleanField(default=False, help_text="each of its vCPU has a CPU to itself"),
        ),
        migrations.AddField(
            model_name="host",
            name="numa_used",
            field=models.JSONField(
                blank=True, default=list, help_text="what guests have of which NUMA cell: the ledger's"
            ),
        ),
        migrations.AddField(
            model_name="allocation",
            name="dedicated_vcpus",
            field=models.PositiveIntegerField(
                default=0, help_text="of its vCPU: those with a CPU of their own, beside what the host shares out"
            ),
        ),
        migrations.AddField(
            model_name="allocation",
            name="dedicated_memory_mib",
            field=models.PositiveIntegerField(default=0, help_text="of its memory: in huge pages"),
        ),
        migrations.AddField(
            model_name="allocation",
            name="cells",
            field=models.JSONField(
                blank=True, help_text="what it has of which NUMA cell: scheduler.topology", null=True
            ),
        ),
        migrations.AddConstraint(
            model_name="allocation",
            constraint=models.CheckConstraint(
                condition=Q(dedicated_vcpus__lte=F("vcpus"), dedicated_memory_mib__lte=F("memory_mib")),
                name="allocation_dedicated_is_part_of_it",
            ),
        ),
        migrations.CreateModel(
            name="PinnedCpu",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("cpu", models.PositiveIntegerField(help_text="the kernel's number")),
                (
                    "allocation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="pinned_cpus",
                        to="compute.allocation",
                    ),
                ),
                (
                    "host",
                    models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name="+", to="compute.host"),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="pinnedcpu",
            constraint=models.UniqueConstraint(fields=("host", "cpu"), name="cpu_pinned_once"),
        ),
        migrations.RunSQL(trigger(WATCHED), trigger(BEFORE)),
    ]
