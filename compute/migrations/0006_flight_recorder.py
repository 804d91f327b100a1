"""The flight recorder: frames, which decision saw which, and the switch of each pool."""

import django.db.models.deletion
from django.db import migrations, models

import tenants.models.ids


class Migration(migrations.Migration):
    dependencies = [
        ("compute", "0005_host_shares"),
    ]

    operations = [
        migrations.AddField(
            model_name="decision",
            name="frame",
            field=models.UUIDField(blank=True, help_text="the FlightFrame with the hosts as they were", null=True),
        ),
        migrations.AddField(
            model_name="pool",
            name="recording",
            field=models.BooleanField(default=False, help_text="whether the flight recorder keeps what decisions saw"),
        ),
        migrations.CreateModel(
            name="FlightFrame",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=tenants.models.ids.new_id, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("parent", models.UUIDField(blank=True, help_text="null: all hosts", null=True)),
                ("data", models.BinaryField(help_text="zlib of compute.scheduler.flight's JSON")),
                ("size", models.PositiveIntegerField(help_text="bytes of data")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "pool",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="compute.pool"),
                ),
            ],
        ),
    ]
