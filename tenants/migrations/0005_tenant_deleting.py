"""A tenant that is being deleted with all it holds: closed, and not to be opened by anybody."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0004_paths_without_circle")]
    operations = [
        migrations.RemoveConstraint(model_name="tenant", name="tenant_state_known"),
        migrations.AlterField(
            model_name="tenant",
            name="state",
            field=models.CharField(
                choices=[
                    ("active", "Active"),
                    ("disabled", "Disabled"),
                    ("deleting", "Deleting"),
                    ("deleted", "Deleted"),
                ],
                default="active",
                max_length=16,
            ),
        ),
        migrations.AddConstraint(
            model_name="tenant",
            constraint=models.CheckConstraint(
                condition=models.Q(state__in=["active", "disabled", "deleting", "deleted"]), name="tenant_state_known"
            ),
        ),
    ]
