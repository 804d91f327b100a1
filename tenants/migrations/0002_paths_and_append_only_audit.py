"""What only SQL can say: a tenant's path ends with its parent and itself; audit events are never changed or deleted.

TRUNCATE, which a test database's clean-up uses, stays possible; the application's own role has no need of it.
"""

from django.db import migrations

FORWARD = """
ALTER TABLE tenants_tenant ADD CONSTRAINT tenant_path_ends_with_parent_and_self CHECK (
    -- IS TRUE: an index outside the array gives NULL, and a CHECK lets NULL pass.
    (
     path[cardinality(path)] = id
     AND CASE WHEN parent_id IS NULL THEN cardinality(path) = 1 ELSE path[cardinality(path) - 1] = parent_id END
    ) IS TRUE
);
CREATE FUNCTION tenants_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit events are append-only';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON tenants_auditevent
    FOR EACH ROW EXECUTE FUNCTION tenants_audit_refuse();
"""

BACKWARD = """
DROP TRIGGER audit_append_only ON tenants_auditevent;
DROP FUNCTION tenants_audit_refuse();
ALTER TABLE tenants_tenant DROP CONSTRAINT tenant_path_ends_with_parent_and_self;
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [migrations.RunSQL(FORWARD, BACKWARD)]
