"""Tenants may move: that none stands below itself is checked by the database, whatever the code does."""

from django.db import migrations

FORWARD = """
ALTER TABLE tenants_tenant ADD CONSTRAINT tenant_path_without_circle CHECK (
    cardinality(array_positions(path, id)) = 1
);
"""

BACKWARD = "ALTER TABLE tenants_tenant DROP CONSTRAINT tenant_path_without_circle;"


class Migration(migrations.Migration):
    dependencies = [("tenants", "0003_usage_segments")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
